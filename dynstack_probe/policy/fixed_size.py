# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of another size that never grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynstack_probe.model.shapes import Shape
from dynstack_probe.policy.base import Policy, built_in, parameter, register


@register
@dataclass(frozen=True)
class FixedSize(Policy):
    """Every stack is `size_pages` large from fork on, THREAD_SIZE at most."""

    size_pages: int = parameter(1, 16)

    model: ClassVar[str] = "fixed-size"
    marks_suffice: ClassVar[bool] = True
    words: ClassVar[str] = "All stacks are smaller, and no stack ever grows."
    formula: ClassVar[str] = "stack: its size; over the limit: h > size; no reserve, no faults"
    ignores: ClassVar[str] = (
        "A mark is what was seen so far: a task that was never over the limit may yet be, so"
        " overflows err low."
    )

    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        return min(self.size_pages, thread_pages)

    def pages_at_fork(self, thread_pages: int) -> int:
        return min(self.size_pages, thread_pages)

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        return shape.mark_pages > self.size_pages


built_in(
    FixedSize("static-8k", "every stack 8 KiB, as x86-64 had before Linux 3.15", 2),
    FixedSize("static-12k", "every stack 12 KiB (asked for by Guzik, 2024)", 3),
    FixedSize("static-16k", "every stack 16 KiB, as x86-64 has since Linux 3.15", 4),
)
