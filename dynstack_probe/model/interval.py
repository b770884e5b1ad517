# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened on a host between two frames, or over several such intervals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.growth import NO_COUNTS, Counts, Growth
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.shapes import Shape
from dynstack_probe.model.unknown import merged

FAULTS, REFILLS = "faults", "refills"


class Work(NamedTuple):
    """What a policy would have had to do: FAULTS, or REFILLS of what it had taken back.

    events of that kind, and the pages that they took.
    """

    what: str
    events: int
    pages: int


class PageFaults(NamedTuple):
    """Page faults of the whole host, by the mode of the CPU that took them."""

    user: int
    kernel: int

    def plus(self, later: PageFaults) -> PageFaults:
        return PageFaults(self.user + later.user, self.kernel + later.kernel)

    def since(self, earlier: PageFaults) -> PageFaults:
        """The increase since; none where a count fell, since it was reset."""
        return PageFaults(max(0, self.user - earlier.user), max(0, self.kernel - earlier.kernel))


@dataclass(frozen=True)
class Interval:
    """All counts are of the interval; None is what was not counted.

    seconds: from count to count; scans, which tell of switches, follow each by some ms.
    growth: pages that stacks came to use. switches: context switches of tasks seen at both
    ends (by tid and start time), by the shape in which they slept before; runs: the same,
    at most one a second and task. host_switches: those of all tasks. inherited[p]: tasks
    that exited and whose stack came with page p grown by an earlier owner. calibration: of the
    host, made as the series began.
    """

    seconds: float = 0.0
    growth: Growth = field(default_factory=Growth)
    switches: Counter[Shape] = field(default_factory=Counter)
    runs: Counter[Shape] = field(default_factory=Counter)
    host_switches: int | None = None
    created: int | None = None
    reused: int | None = None
    exited: int | None = None
    page_faults: PageFaults | None = None
    headroom: Headroom | None = None
    inherited: Counts = NO_COUNTS
    calibration: Calibration | None = None

    def __add__(self, later: Interval) -> Interval:
        return Interval(
            self.seconds + later.seconds,
            self.growth + later.growth,
            self.switches + later.switches,
            self.runs + later.runs,
            merged(self.host_switches, later.host_switches),
            merged(self.created, later.created),
            merged(self.reused, later.reused),
            merged(self.exited, later.exited),
            merged(self.page_faults, later.page_faults, PageFaults.plus),
            merged(self.headroom, later.headroom, Headroom.__add__),
            tuple(map(add, self.inherited, later.inherited)),
            self.calibration or later.calibration,
        )

    def per_second(self, count: int | None) -> float | None:
        """A count as a rate per second; None if it was not counted or no time passed."""
        return count / self.seconds if count is not None and self.seconds > 0 else None

    @property
    def switch_coverage_ratio(self) -> float:
        """The share of the host's context switches known by shape."""
        return self.switches.total() / self.host_switches if self.host_switches else 0.0
