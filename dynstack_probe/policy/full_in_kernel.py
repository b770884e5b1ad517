# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole stack only while a task is in the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynstack_probe.model.shapes import Shape
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy.base import Policy, built_in, register


@register
@dataclass(frozen=True)
class FullSizeInKernel(Policy):
    work_is_counted: ClassVar[bool] = False
    model: ClassVar[str] = "full-size-in-kernel"
    words: ClassVar[str] = (
        "A task that enters the kernel gets its whole stack, and gives all but one page back"
        " when it returns to user mode. A sleeping task sleeps in the kernel."
    )
    formula: ClassVar[str] = "user task on a CPU: 1; every other: P"
    ignores: ClassVar[str] = (
        "A user task on a CPU is taken to be in user mode, so the saving errs high. The refill"
        " at each entry, system call or interrupt, is not counted."
    )

    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        in_user_mode = shape.running and shape.kind == Kind.USER
        return 1 if in_user_mode else thread_pages

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """The rest of one stack per CPU, handed over at each entry."""
        return cpus * (thread_pages - 1)


built_in(FullSizeInKernel("full-in-kernel", "one page in user mode (Tatashin, 2024)"))
