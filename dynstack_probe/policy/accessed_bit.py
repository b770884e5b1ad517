# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole stacks to run on; pages never accessed are taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynstack_probe.model.interval import Interval, Work
from dynstack_probe.model.shapes import Shape
from dynstack_probe.policy.base import Policy, built_in, held_since_birth, refills, register


@register
@dataclass(frozen=True)
class AccessedBit(Policy):
    model: ClassVar[str] = "accessed-bit"
    words: ClassVar[str] = (
        "A task gets a whole stack before it is switched in. After it was switched out, pages"
        " whose accessed bit is clear are taken back; a page once touched stays for good."
    )
    formula: ClassVar[str] = "not running: max(1, h); running: P; refill at each switch-in: P - h"
    ignores: ClassVar[str] = (
        "Refills in advance are kept somewhere and scanning accessed bits takes time: both"
        " are left out, so the saving errs high. A late deepening needs no fault."
    )

    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        return thread_pages if shape.running else held_since_birth(shape, 1, thread_pages)

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        return thread_pages - held_since_birth(shape, 1, thread_pages)

    def work(self, interval: Interval, thread_pages: int) -> Work:
        return refills(self, interval.switches, thread_pages)


# No reserve is proposed: refills come from the page allocator, outside a fault.
built_in(AccessedBit("accessed-bit", "whole stacks to run on, untouched pages back (Lutomirski)"))
