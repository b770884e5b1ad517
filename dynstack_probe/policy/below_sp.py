# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies below a sleeper's stack pointer is taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynstack_probe.model.host import PAGE_KIB
from dynstack_probe.model.interval import Interval, Work
from dynstack_probe.model.shapes import Shape
from dynstack_probe.policy.base import (
    Policy,
    built_in,
    held_since_birth,
    parameter,
    refills,
    register,
)


@register
@dataclass(frozen=True)
class ReclaimBelowSp(Policy):
    """Pages below a sleeper's stack pointer are taken back; they hold nothing in use.

    Only from tasks asleep for `asleep_seconds`, and so that `margin_kib` below the stack
    pointer stay. `stash_pages` belong to all CPUs; each has `fault_stacks` whole stacks.
    """

    asleep_seconds: int = parameter(0, 1 << 31, 0)
    margin_kib: int = parameter(0, 64, 0)
    stash_pages: int = parameter(0, 1 << 20, 0)
    fault_stacks: int = parameter(0, 16, 0)

    model: ClassVar[str] = "reclaim-below-sp"
    words: ClassVar[str] = (
        "When a task has slept for T seconds, the pages more than m bytes below its saved stack"
        " pointer are taken back; they are mapped again as it runs."
    )
    formula: ClassVar[str] = (
        "asleep for T: max(1, pages of (depth + m)), h at most; else max(1, h);"
        " refill at the next run: h less that; reserve: stash + C*P*fault stacks"
    )
    ignores: ClassVar[str] = (
        "A task that runs is taken to hold its mark, though it may not have gone so deep again:"
        " memory errs high, by at most C stacks where T is 0. So it does by those of whom the"
        " kernel can't tell how long they sleep: taken to have slept for less than T. A refill"
        " of all pages is counted at each wake-up, so refills err high. Others who look into a"
        " sleeper's stack (unwinders, ptrace) lose what lies below; that price is not counted."
    )

    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        """What remains of a sleeper's stack; otherwise everything down to the mark."""
        held = held_since_birth(shape, 1, thread_pages)
        if shape.running or shape.asleep_seconds < self.asleep_seconds:
            return held
        return min(held, self._kept(shape))

    def _kept(self, shape: Shape) -> int:
        return max(1, -(-(shape.depth_kib + self.margin_kib) // PAGE_KIB))

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """A shared stash, and on each CPU the stacks on which faults are handled."""
        return self.stash_pages + cpus * self.fault_stacks * thread_pages

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        if shape.running:
            return 0
        held = held_since_birth(shape, 1, thread_pages)
        return held - min(held, self._kept(shape))

    def work(self, interval: Interval, thread_pages: int) -> Work:
        """One refill when a task runs again, if it slept long enough to lose pages."""
        # Whoever must sleep first is reclaimed once at most while he sleeps that long.
        woken = interval.runs if self.asleep_seconds else interval.switches
        ripe = {
            shape: count
            for shape, count in woken.items()
            if self.asleep_seconds <= max(1, shape.asleep_seconds)
        }
        return refills(self, ripe, thread_pages)


built_in(
    ReclaimBelowSp("below-sp", "drop what is below SP at each switch (Gerst, 2024)"),
    ReclaimBelowSp("gc-sleepers", "the same for those asleep for 60 s (Laight)", asleep_seconds=60),
    ReclaimBelowSp(
        "vendor",
        "below SP, 1 KiB kept, once a second (Amlogic, since 2017)",
        asleep_seconds=1,
        margin_kib=1,
        stash_pages=32,
        fault_stacks=1,
    ),
)
