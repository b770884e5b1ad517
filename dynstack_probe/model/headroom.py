# SPDX-License-Identifier: GPL-2.0-or-later
"""Free memory above the minimum watermarks, which the kernel keeps for itself."""

from __future__ import annotations

from dataclasses import dataclass

from dynstack_probe.model.unknown import merged


@dataclass(frozen=True)
class FreeMemory:
    """Samples over a period.

    above_min_pages: for each sample, free pages above the minimum watermarks, summed over
    the zones that a kernel stack may come from, less what these keep for other allocations.
    """

    above_min_pages: tuple[int, ...]

    @property
    def least_pages(self) -> int:
        """Of all samples."""
        return min(self.above_min_pages)

    @property
    def median_pages(self) -> int:
        """Of all samples, the lower of two."""
        ordered = sorted(self.above_min_pages)
        return ordered[(len(ordered) - 1) // 2]

    def reserves(self, reserve_pages: int) -> float | None:
        """The least, in multiples of a policy's reserve; None where it has none."""
        return self.least_pages / reserve_pages if reserve_pages else None


@dataclass(frozen=True)
class Headroom(FreeMemory):
    """These samples, and what the kernel counted meanwhile.

    below_low: samples in which a zone was below its low watermark. stalls: allocations
    that had to reclaim themselves (allocstall); direct_reclaimed_pages: what they got
    (pgsteal_direct). limit_hits: charges that met a memory cgroup's limit and had to reclaim
    there, limit_failures those that it did not help, so that a refill would have failed or
    someone been killed; None where that was not counted, as under cgroup version 1.
    """

    below_low: int
    stalls: int
    direct_reclaimed_pages: int
    compaction_failures: int
    limit_hits: int | None = None
    limit_failures: int | None = None

    def __add__(self, later: Headroom) -> Headroom:
        return Headroom(
            self.above_min_pages + later.above_min_pages,
            self.below_low + later.below_low,
            self.stalls + later.stalls,
            self.direct_reclaimed_pages + later.direct_reclaimed_pages,
            self.compaction_failures + later.compaction_failures,
            merged(self.limit_hits, later.limit_hits),
            merged(self.limit_failures, later.limit_failures),
        )
