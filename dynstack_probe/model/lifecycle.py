# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tracepoints counted: tasks created and exited, and how deep they went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GROWTH_AGES = ("1s", "10s", "1m", "10m", "1h", "older")


_Z = 1.96  # of a normal distribution 95% lie within so many standard deviations


@dataclass(frozen=True)
class ExitReads:
    """How exited stacks were read, in exits: monotonic counters, except unproved.

    windowed: by the first bytes of each page alone, trusted once validated. checked: read in
    full while windows are trusted, one in N; caught: those of checked with a page that windows
    miss. hidden: all exits read in full, validation included, with such a page. unproved:
    grown stacks still to be read in full before windows are trusted.
    """

    windowed: int = 0
    checked: int = 0
    caught: int = 0
    hidden: int = 0
    unproved: int = 0

    def missed_range(self) -> tuple[float, float]:
        """How many of the exits read by windows hid a page, with 95% confidence.

        Wilson's score interval of the share caught in checked, which are a systematic sample
        of what windows tell, times windowed. (0, windowed) where none was checked.
        """
        if not self.checked:
            return 0.0, float(self.windowed)
        share = self.caught / self.checked
        z2 = _Z * _Z / self.checked
        middle = share + z2 / 2
        spread = (z2 * (share * (1 - share) + z2 / 4)) ** 0.5
        least, most = ((middle + way * spread) / (1 + z2) for way in (-1, 1))
        # exact where rounding would leave a trace
        low = 0.0 if not self.caught else least
        return low * self.windowed, min(1.0, most) * self.windowed


@dataclass(frozen=True)
class Lifecycle:
    """What the tracepoints counted since they were attached: monotonic counters.

    exited counts stacks by (pages down to the mark, pages inherited from a cached stack's
    owner, 1 if none); skipped[p] those whose page p above the mark was all zero. lost
    says, by reason, what could not be counted or remembered.
    """

    created: int
    reused: int
    exited: Mapping[tuple[int, int], int]
    skipped: tuple[int, ...]
    growth_by_age: tuple[int, ...]
    lost: Mapping[str, int]
    runs: int
    run_seconds: float
    exit_reads: ExitReads = ExitReads()
