# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that not everybody knows."""

from __future__ import annotations

from collections.abc import Callable
from operator import add
from typing import TypeVar

_T = TypeVar("_T")


def merged(one: _T | None, other: _T | None, merge: Callable[[_T, _T], _T] = add) -> _T | None:
    """What both come to, by default their sum; the one that is known, None if neither is."""
    if one is None or other is None:
        return one if other is None else other
    return merge(one, other)
