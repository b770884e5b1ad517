# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks that grow on faults: the RFC's scheme, and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynstack_probe.model.host import PAGE_KIB
from dynstack_probe.model.interval import FAULTS, Interval, Work
from dynstack_probe.model.shapes import Shape
from dynstack_probe.policy.base import Policy, built_in, held_since_birth, parameter, register


@register
@dataclass(frozen=True)
class GrowOnly(Policy):
    """Pages are mapped by faults as a stack deepens and given back when it is freed.

    `preallocated_pages` are mapped at fork. Each online CPU keeps a reserve, from which
    faults are served: the rest of one stack, `reserve_factor` times; `stash_pages` more
    belong to all. `thread_kib` is the size up to which stacks grow, 0 for the host's own.
    """

    preallocated_pages: int = parameter(1, 16)
    thread_kib: int = parameter(0, 64, 0)
    reserve_factor: int = parameter(0, 64, 1)
    stash_pages: int = parameter(0, 1 << 20, 0)

    model: ClassVar[str] = "grow-only"
    marks_suffice: ClassVar[bool] = True
    words: ClassVar[str] = (
        "k pages are mapped at fork; a fault maps all pages down to its address and they stay"
        " until the stack is freed. Each CPU keeps the rest of one stack in reserve."
    )
    formula: ClassVar[str] = "stack: max(k, h) pages, P at most; reserve: C*(P-k)*factor + stash"
    ignores: ClassVar[str] = (
        "A cached stack keeps its pages and hands them to its next owner. One scan can't see"
        " that: memory errs low and faults err high (serve counts it)."
    )

    def _limit(self, thread_pages: int) -> int:
        return self.thread_kib // PAGE_KIB or thread_pages

    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        return held_since_birth(shape, self.preallocated_pages, self._limit(thread_pages))

    def pages_at_fork(self, thread_pages: int) -> int:
        return self.preallocated_pages

    def work(self, interval: Interval, thread_pages: int) -> Work:
        """One fault for each page that came into use, except those skipped by another fault."""
        grown = slice(self.preallocated_pages, self._limit(thread_pages))
        growth = interval.growth
        return Work(FAULTS, sum(growth.touched[grown]), sum(growth.mapped[grown]))

    def avoided_pages(self, interval: Interval, thread_pages: int) -> int:
        """Inherited pages beyond those mapped at fork anyway."""
        grown = slice(self.preallocated_pages, self._limit(thread_pages))
        return sum(interval.growth.inherited[grown])

    def inherited_pages(self, interval: Interval, thread_pages: int) -> int:
        """Only of exited tasks: for living ones, a scan can't tell."""
        return sum(interval.inherited[self.preallocated_pages : self._limit(thread_pages)])

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """C * (P - k): a fault may have to map all that was not mapped at fork."""
        a_cpu = max(0, self._limit(thread_pages) - self.preallocated_pages)
        return cpus * a_cpu * self.reserve_factor + self.stash_pages

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """At least one per deep stack, at most one per grown page.

        A fault maps every page from the last mapped one down to its address, so a page
        in the middle that is still all zero was most likely skipped by one.
        """
        at_first = max(self.preallocated_pages, shape.inherited_pages)
        grown = self.dynamic_pages(shape, thread_pages) - at_first
        if grown <= 0:
            return 0, 0, 0
        grown_bits = ((1 << grown) - 1) << at_first
        return 1, max(1, (shape.touched_pages & grown_bits).bit_count()), grown

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Only where its limit is below what this kernel's stacks have used."""
        return shape.mark_pages > self._limit(thread_pages)


built_in(
    GrowOnly("rfc-v1", "grow on a fault from 4 KiB up to THREAD_SIZE (Tatashin, 2024)", 1),
    GrowOnly("grow-8k", "as rfc-v1, 8 KiB at fork", 2),
    GrowOnly("grow-12k", "as rfc-v1, 12 KiB at fork", 3),
    GrowOnly("grow-to-32k", "as rfc-v1, up to 32 KiB", 1, thread_kib=32),
    GrowOnly("grow-to-64k", "as rfc-v1, up to 64 KiB", 1, thread_kib=64),
    GrowOnly("grow-16k-to-32k", "16 KiB at fork, up to 32 KiB", 4, thread_kib=32),
    GrowOnly("reserve-doubled", "as rfc-v1, twice the reserve (from review)", 1, reserve_factor=2),
    GrowOnly("reserve-stash", "as rfc-v1, 8 pages more for all (Walleij)", 1, stash_pages=8),
)
