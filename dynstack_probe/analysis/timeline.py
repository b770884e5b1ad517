# SPDX-License-Identifier: GPL-2.0-or-later
"""The only owner of rates: frames in, an Interval for each pair of them out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.growth import (
    MOST_PAGES,
    Counts,
    Growth,
    GrowthCounter,
    growth_of,
    whole_shapes,
)
from dynstack_probe.model.interval import REFILLS, Interval
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.sample import Sample
from dynstack_probe.model.shapes import Shape, count_shapes, shape_keys
from dynstack_probe.policy import Policy


@dataclass(frozen=True)
class Rate:
    """Per second, modelled: `what` is "faults" or "refills"; and the pages that these took.

    coverage: the share of what could have caused them that was seen; below 1 both are
    lower bounds.
    """

    what: str
    events: float
    pages: float
    coverage: float = 1.0


def rate(policy: Policy, interval: Interval, thread_pages: int) -> Rate | None:
    """What the policy would have had to do; None where it has nothing to do, or no time passed."""
    work = policy.work(interval, thread_pages)
    seconds = interval.seconds
    if work is None or seconds <= 0:
        return None
    coverage = 1.0
    if work.what == REFILLS and interval.host_switches:
        coverage = interval.switch_coverage_ratio
    return Rate(work.what, work.events / seconds, work.pages / seconds, coverage)


class Timeline:
    """Takes a series frame by frame, and keeps only what it needs of the last one.

    thresholds: the seconds asleep that some policy asks about.
    """

    def __init__(self, thresholds: Sequence[int] = ()) -> None:
        self._thresholds = thresholds
        self._counter = GrowthCounter()
        self._before: Frame | None = None
        self._tasks: _Tasks = {}
        self._gone: Counter[Shape] = Counter()
        self._calibration: Calibration | None = None

    def add(self, frame: Frame) -> Interval | None:
        """What happened since the previous frame; None for the first, and after a reboot."""
        earlier, before = self._before, self._tasks
        if earlier is not None and frame.boot_ns < earlier.boot_ns:
            earlier, before = None, {}
            self._counter, self._gone = GrowthCounter(), Counter()
        self._before, self._tasks = frame, _tasks(frame, self._thresholds)
        self._calibration = frame.calibration or self._calibration
        restarted = False
        if frame.lifecycle is not None:
            exited = growth_of_exited(frame.lifecycle)
            old = earlier.lifecycle if earlier else None
            restarted = old is not None and has_restarted(old, frame.lifecycle)
        else:
            # Nobody counted exits: who is gone keeps what he was last seen with.
            for task, (shape, _) in before.items():
                if task not in self._tasks:
                    self._gone[shape] += 1
            exited = growth_of(self._gone)
        living = growth_of(count_shapes(frame.stacks))
        grown = self._counter.advance(living, exited, restarted=restarted)
        if earlier is None:
            return None
        seconds = max(0.0, (_counted_at_ns(frame) - _counted_at_ns(earlier)) / 1e9)
        switches, runs = _switches(before, self._tasks, seconds)
        interval = Interval(
            seconds,
            grown,
            switches,
            runs,
            headroom=frame.headroom,
            calibration=self._calibration,
        )
        return _counted(interval, earlier, frame)


def growth_of_sample(sample: Sample) -> tuple[Growth, Growth]:
    """The growth of its living and exited tasks."""
    living = growth_of(whole_shapes(sample.living.all_shapes()), sample.living.skipped)
    return living, growth_of_exited(sample.lifecycle)


def growth_of_exited(lifecycle: Lifecycle) -> Growth:
    """The growth of exited tasks; pages skipped by a fault are counted separately."""
    return growth_of(whole_shapes(lifecycle.exited), lifecycle.skipped)


def has_restarted(earlier: Lifecycle, later: Lifecycle) -> bool:
    """Whether the later counts were reset: a count fell."""
    return later.created < earlier.created or any(
        later.exited.get(shape, 0) < count for shape, count in earlier.exited.items()
    )


def _counted_at_ns(frame: Frame) -> float:
    """When its counts were read: just before the scan, which ends at the frame's time.

    A scan that has to wait for a CPU takes a second and more: an interval from end to end of
    two scans is not the one in which its events were counted.
    """
    if frame.lifecycle is None and frame.page_faults is None:
        return frame.boot_ns
    return max(0.0, frame.boot_ns - frame.cost.scan_seconds * 1e9)  # a broken file may say more


def _counted(interval: Interval, earlier: Frame, later: Frame) -> Interval:
    """With the differences of what only rises."""
    if earlier.context_switches is not None and later.context_switches is not None:
        switches = max(0, later.context_switches - earlier.context_switches)
        interval = replace(interval, host_switches=switches)
    if earlier.page_faults is not None and later.page_faults is not None:
        faults = later.page_faults.since(earlier.page_faults)
        interval = replace(interval, page_faults=faults)
    old, new = earlier.lifecycle, later.lifecycle
    if old is None or new is None:
        return interval
    if has_restarted(old, new):
        old = replace(old, created=0, reused=0, exited={})
    return replace(
        interval,
        created=new.created - old.created,
        reused=max(0, new.reused - old.reused),
        exited=sum(new.exited.values()) - sum(old.exited.values()),
        inherited=tuple(
            [b - a for a, b in zip(inherited_pages(old), inherited_pages(new), strict=True)]
        ),
    )


def inherited_pages(lifecycle: Lifecycle) -> Counts:
    """How many of the exited had inherited each page."""
    counts = [0] * MOST_PAGES
    for (_, inherited), count in lifecycle.exited.items():
        for page in range(1, min(inherited, MOST_PAGES)):
            counts[page] += count
    return tuple(counts)


# Shape and context switches of each task but idle ones, by tid and start.
_Tasks = dict[tuple[int, int], tuple[Shape, int]]


def _tasks(frame: Frame, thresholds: Sequence[int]) -> _Tasks:
    stacks = frame.stacks
    shape_of = functools.cache(Shape._make)
    tasks = {}
    rows = zip(
        stacks.tids,
        stacks.start_boot_ns,
        shape_keys(stacks, thresholds),
        stacks.switches,
        strict=True,
    )
    for tid, start, key, switches in rows:
        if tid:
            tasks[tid, start] = shape_of(key), switches
    return tasks


def _switches(
    before: _Tasks, after: _Tasks, seconds: float
) -> tuple[Counter[Shape], Counter[Shape]]:
    switches: Counter[Shape] = Counter()
    runs: Counter[Shape] = Counter()
    for task, (_, count) in after.items():
        slept_as, old = before.get(task, (None, count))
        if slept_as is not None and count > old:
            switches[slept_as] += count - old
            runs[slept_as] += min(count - old, max(1, int(seconds)))
    return switches, runs
