# SPDX-License-Identifier: GPL-2.0-or-later
"""Models of kernel-stack allocators: pure functions of stack depths in pages.

A model is a class in a file of this folder that registers itself and its instances. With
h = pages down to the high-water mark, d = pages down to the saved stack pointer of a
sleeping task, P = pages of THREAD_SIZE, C = CPUs online.
"""

from __future__ import annotations

import importlib
import pkgutil

from dynstack_probe.policy.base import BUILT_IN, MODELS, Policy

HEADLINE = "rfc-v1"

# Every module is asked for, so that a new model is one new file; the headline's comes first.
for _name in sorted((m.name for m in pkgutil.iter_modules(__path__)), key="grow_only".__ne__):
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["BUILT_IN", "HEADLINE", "MODELS", "Policy"]
