# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy would cost in CPU time and save in memory, from calibrated prices."""

from __future__ import annotations

from dataclasses import dataclass

from dynstack_probe.model.calibration import ExportedCalibration
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.savings import Savings

# A policy's worth: KiB saved for this share of all CPU time, 0.001%.
WORTH_UNIT_RATIO = 1e-5
# Fewer events tell no rate: of 30 the standard error is a fifth.
FEW_EVENTS = 30


@dataclass(frozen=True)
class Range:
    """The most likely value of a figure, and bounds derived from measured parts."""

    low: float
    best: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.best + other.best, self.high + other.high)

    def __sub__(self, other: Range) -> Range:
        """The widest possible bounds of the difference."""
        return Range(self.low - other.high, self.best - other.best, self.high - other.low)

    def times(self, factor: float) -> Range:
        """Each bound scaled; the factor is not negative."""
        return Range(self.low * factor, self.best * factor, self.high * factor)


def exactly(value: float) -> Range:
    """A figure without bounds, or with unknown ones."""
    return Range(value, value, value)


@dataclass(frozen=True)
class Prices:
    """Nanoseconds; None where only the price of a fault was given.

    entry: of a stack fault, all but its pages. page: found, charged, cleared and mapped, one
    by one. forked_page: the same at fork, where pages come in bulk. cleared_page: of a stack
    from the cache, which is only cleared.
    """

    entry: Range
    page: Range
    forked_page: Range | None
    cleared_page: Range | None

    @property
    def fault(self) -> Range:
        """A stack fault that maps one page, and the refill of the reserve."""
        return self.entry + self.page


@dataclass(frozen=True)
class PolicyCost:
    """One policy. Ratios are of all CPU time of the host; None: unknown.

    what: FAULTS or REFILLS, None for a policy that has nothing to do. lower_bound: only a
    part of them was seen. avoided_pages_per_second: those that tasks used and that came with
    a cached stack, so that no fault had to map them. work_ratio: what those take.
    fork_saving_ratio: what forks take less. saved_kib: with the reserve paid.
    """

    policy: str
    savings: Savings
    what: str | None
    events_per_second: float
    pages_per_second: float
    avoided_pages_per_second: float
    lower_bound: bool
    work_ratio: Range | None
    fork_saving_ratio: Range | None
    feasible: bool

    @property
    def net_ratio(self) -> Range | None:
        """Negative where forks save more than all else costs."""
        if self.work_ratio is None or self.fork_saving_ratio is None:
            return None
        return self.work_ratio - self.fork_saving_ratio

    @property
    def saved_kib(self) -> int:
        return self.savings.saved_kib - self.savings.reserve_kib

    @property
    def kib_per_unit(self) -> float | None:
        """KiB saved for WORTH_UNIT_RATIO of CPU time; None where it costs nothing on balance."""
        net = self.net_ratio
        if net is None or net.best <= 0:
            return None
        return self.saved_kib / (net.best / WORTH_UNIT_RATIO)


@dataclass(frozen=True)
class BreakEven:
    """Nanoseconds that each of some events may take before all of them together take...

    tenth_percent, one_percent: so much of all CPU time; fork_saving: what the policy saves
    otherwise, whose range begins at 0 where that leaves open whether anything is saved. None
    where there was no such event, or nothing is likely to be saved. events: how many were
    seen, None if nobody counted.
    """

    events: int | None
    tenth_percent: float | None
    one_percent: float | None
    fork_saving: Range | None

    @property
    def is_sound(self) -> bool:
        return self.events is not None and self.events >= FEW_EVENTS


@dataclass(frozen=True)
class HostCost:
    """One host over some time. The headline's policy is `headline`, the first of `rows`.

    caveats: sentences that a reader of its figures must know. exported: of a host's past in
    Prometheus, which has neither prices nor a calibration: what it has of the latter.
    """

    source: str
    cpus: int
    whole: Interval
    prices: Prices | None
    rows: tuple[PolicyCost, ...]
    stack_fault: BreakEven
    kernel_page_fault: BreakEven
    caveats: tuple[str, ...] = ()
    exported: ExportedCalibration | None = None

    @property
    def headline(self) -> PolicyCost:
        return self.rows[0]
