# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory was free above what the kernel keeps for itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headroom:
    """Samples of some time, and what the kernel counted in it.

    above_min_pages: for each sample, free pages above the minimum watermarks, summed over
    the zones that a kernel stack may come from. below_low: samples in which one of these
    was below its low watermark. stalls: allocations that had to reclaim themselves
    (allocstall); direct_reclaimed_pages: what they got (pgsteal_direct).
    """

    above_min_pages: tuple[int, ...]
    below_low: int
    stalls: int
    direct_reclaimed_pages: int
    compaction_failures: int

    def __add__(self, later: Headroom) -> Headroom:
        """Both in a row."""
        return Headroom(
            self.above_min_pages + later.above_min_pages,
            self.below_low + later.below_low,
            self.stalls + later.stalls,
            self.direct_reclaimed_pages + later.direct_reclaimed_pages,
            self.compaction_failures + later.compaction_failures,
        )

    @property
    def least_pages(self) -> int:
        """Of all samples."""
        return min(self.above_min_pages)

    @property
    def median_pages(self) -> int:
        """Of all samples, the lower of two."""
        ordered = sorted(self.above_min_pages)
        return ordered[(len(ordered) - 1) // 2]
