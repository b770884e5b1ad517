"""The policies: how many pages each would hold for a stack, and at what price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dynstack_probe.policy.shapes import Shape


class Policy(Protocol):
    """An allocator model. All sizes are in pages; `thread_pages` is THREAD_SIZE's."""

    @property
    def name(self) -> str:
        """The word by which users choose it."""

    @property
    def summary(self) -> str:
        """One line: what it models and where it comes from."""

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """Pages that a stack of this shape holds."""

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """Pages kept aside on a machine with that many online CPUs."""

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """Faults over the stack's life so far: at least, most likely, at most."""

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Whether the stack has been deeper than this policy allows: an overflow."""


@dataclass(frozen=True)
class GrowOnly:
    """Pages are mapped by faults as a stack deepens and given back when it is freed.

    `preallocated_pages` are mapped at fork; each online CPU keeps the rest of one stack
    in reserve, from which faults are served.

    A cached stack keeps its pages and hands them to its next owner: a ratchet. Where reuse
    was not seen (one scan can't) the real kernel holds somewhat more memory than this
    says, and takes somewhat fewer faults.
    """

    name: str
    summary: str
    preallocated_pages: int

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """max(k, h, inherited), never more than the stack."""
        return min(max(self._mapped_at_first(shape), shape.mark_pages), thread_pages)

    def _mapped_at_first(self, shape: Shape) -> int:
        return max(self.preallocated_pages, shape.inherited_pages)

    def avoided_pages(self, shape: Shape) -> int:
        """Pages that were used without a fault, since they came with a cached stack."""
        used = min(shape.mark_pages, shape.inherited_pages)
        return max(0, used - self.preallocated_pages)

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """C * (P - k): a fault may have to map all that was not mapped at fork."""
        return cpus * max(0, thread_pages - self.preallocated_pages)

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """One a deep stack at least, one a grown page at most.

        A fault maps every page from the last mapped one down to its address, so a page
        in the middle that is still all zero was most likely skipped by one.
        """
        at_first = self._mapped_at_first(shape)
        grown = self.resident_pages(shape, thread_pages) - at_first
        if grown <= 0:
            return 0, 0, 0
        grown_bits = ((1 << grown) - 1) << at_first
        return 1, max(1, (shape.touched_pages & grown_bits).bit_count()), grown

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Never: it grows up to THREAD_SIZE."""
        return False


@dataclass(frozen=True)
class FixedSize:
    """Every stack is `size_pages` large from fork on, THREAD_SIZE at most."""

    name: str
    summary: str
    size_pages: int

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """The same for each stack."""
        return min(self.size_pages, thread_pages)

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """None."""
        return 0

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """None."""
        return 0, 0, 0

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Whether the mark lies below the end of the smaller stack."""
        return shape.mark_pages > self.size_pages


BUILT_IN: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        GrowOnly("rfc-v1", "grow on a fault from 4 KiB up to THREAD_SIZE (Tatashin, 2024)", 1),
        FixedSize("static-8k", "every stack 8 KiB, as x86-64 had before Linux 3.15", 2),
        FixedSize("static-12k", "every stack 12 KiB (asked for by Guzik, 2024)", 3),
    )
}
