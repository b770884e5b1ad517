"""What all renderers of `estimate` are given, and the figures they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dynstack_probe.measure.snapshot import Kind, Snapshot
from dynstack_probe.policy import Estimate, Group, ShapeCounts


@dataclass(frozen=True)
class EstimateReport:
    """A snapshot and each policy's estimate of it, the headline policy first.

    `groups` are those of the headline policy, None unless they were asked for.
    """

    snapshot: Snapshot
    shapes: ShapeCounts
    estimates: Sequence[Estimate]
    by: str | None = None
    groups: Sequence[Group] | None = None

    def tasks_by_pages(self) -> dict[int, int]:
        """How many stacks have a mark of 1, 2, ... pages; each count up to P is there."""
        host = self.snapshot.host
        pages: Counter[int] = Counter()
        for shape, count in self.shapes.items():
            pages[shape.mark_pages] += count
        return {n: pages[n] for n in range(1, host.thread_size_bytes // host.page_size_bytes + 1)}

    def kinds(self) -> dict[Kind, int]:
        """How many stacks of each kind."""
        counts = Counter(self.snapshot.stacks.kinds)
        return {kind: counts[kind] for kind in Kind}

    def deepest(self, count: int) -> list[tuple[bytes, int, int, Kind]]:
        """Name, tid, mark in bytes and kind of the deepest tasks."""
        stacks = self.snapshot.stacks
        order = sorted(range(len(stacks)), key=lambda i: (-stacks.mark_bytes[i], stacks.tids[i]))
        return [
            (stacks.comms[i], stacks.tids[i], stacks.mark_bytes[i], Kind(stacks.kinds[i]))
            for i in order[:count]
        ]
