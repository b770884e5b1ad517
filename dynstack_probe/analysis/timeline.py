"""What happened in a series of snapshots, and what each policy would have done meanwhile.

That is: faults, or refills of what it had taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dynstack_probe.model.frame import Snapshot
from dynstack_probe.policy.models import AccessedBit, GrowOnly, Policy, ReclaimBelowSp
from dynstack_probe.policy.shapes import Shape, shape_keys


class ExitCounts(Protocol):
    """What is asked of measure.sample.Lifecycle."""

    @property
    def exited(self) -> Mapping[tuple[int, int], int]:
        """Exited stacks by (mark, inherited) in pages."""


@dataclass
class Activity:
    """Of a series, summed up over its intervals.

    Tasks are told by tid and start time; those in both ends of an interval are matched.
    switches: their context switches, by the shape in which they slept before. runs: the
    same, at most one a second and task. grown: tasks by their shape before and after.
    exited: stacks of tasks that exited, by (mark, inherited) pages; None if not counted.
    gone: tasks which did so after a snapshot had seen them, by their last shape there.
    """

    seconds: float = 0.0
    switches: Counter[Shape] = field(default_factory=Counter)
    runs: Counter[Shape] = field(default_factory=Counter)
    grown: Counter[tuple[Shape, Shape]] = field(default_factory=Counter)
    exited: Mapping[tuple[int, int], int] | None = None
    gone: Counter[Shape] = field(default_factory=Counter)
    host_switches: int = 0

    @property
    def coverage_ratio(self) -> float:
        """The share of the host's context switches that belong to matched tasks."""
        return self.switches.total() / self.host_switches if self.host_switches else 0.0


def collect(
    frames: Iterable[tuple[Snapshot, ExitCounts | None]], thresholds: Sequence[int]
) -> Activity:
    """Walk through a series once, holding two snapshots at a time."""
    total = Activity()
    for interval in intervals(frames, thresholds):
        add(total, interval)
    return total


def intervals(
    frames: Iterable[tuple[Snapshot, ExitCounts | None]], thresholds: Sequence[int]
) -> Iterator[Activity]:
    """What happened from each snapshot to the next."""
    earlier: Snapshot | None = None
    before: _Tasks | None = None  # of `earlier`; one snapshot alone does not pay for it
    exited_before: Counter[tuple[int, int]] = Counter()
    for snapshot, lifecycle in frames:
        exited = None if lifecycle is None else Counter(lifecycle.exited)
        if earlier is not None:
            if before is None:
                before = _tasks(earlier, thresholds)
            after = _tasks(snapshot, thresholds)
            activity = Activity()
            _compare(activity, earlier, before, snapshot, after)
            if exited is not None:
                activity.exited = exited - exited_before
            yield activity
            before = after
        earlier = snapshot
        exited_before = exited if exited is not None else exited_before


def add(total: Activity, interval: Activity) -> None:
    """Make `total` reach over one more interval."""
    total.seconds += interval.seconds
    total.host_switches += interval.host_switches
    total.switches += interval.switches
    total.runs += interval.runs
    total.grown += interval.grown
    total.gone += interval.gone
    if interval.exited is not None:
        total.exited = Counter(total.exited or {}) + Counter(interval.exited)


# Shape and context switches of each task, by tid and start.
_Tasks = dict[tuple[int, int], tuple[Shape, int]]


def _tasks(snapshot: Snapshot, thresholds: Sequence[int]) -> _Tasks:
    """All but idle tasks."""
    stacks = snapshot.stacks
    known: dict[tuple[int, ...], Shape] = {}
    tasks = {}
    rows = zip(
        stacks.tids,
        stacks.start_boot_ns,
        shape_keys(stacks, thresholds),
        stacks.switches,
        strict=True,
    )
    for tid, start, key, switches in rows:
        shape = known.get(key)
        if shape is None:
            shape = known[key] = Shape(*key)
        if tid:
            tasks[tid, start] = shape, switches
    return tasks


def _compare(
    total: Activity,
    earlier: Snapshot,
    before: _Tasks,
    later: Snapshot,
    after: _Tasks,
) -> None:
    seconds = max(0.0, (later.boot_ns - earlier.boot_ns) / 1e9)
    total.seconds += seconds
    if earlier.context_switches is not None and later.context_switches is not None:
        total.host_switches += max(0, later.context_switches - earlier.context_switches)
    for task, (shape, _) in before.items():
        if task not in after:
            total.gone[shape] += 1
    for task, (shape, switches) in after.items():
        old = before.get(task)
        if old is None:
            total.grown[Shape(1, 1, kind=shape.kind), shape] += 1
            continue
        slept_as, count = old
        moved = switches - count
        if moved > 0:
            total.switches[slept_as] += moved
            total.runs[slept_as] += min(moved, max(1, int(seconds)))
        if shape.mark_pages > slept_as.mark_pages:
            total.grown[slept_as, shape] += 1


@dataclass(frozen=True)
class Rate:
    """Per second: faults, or refills of a stack, and the pages which these took."""

    what: str
    events: float
    pages: float


def rate(policy: Policy, activity: Activity, thread_pages: int) -> Rate | None:
    """What the policy would have had to do; None where nothing comes back, or no time passed."""
    if activity.seconds <= 0:
        return None
    if isinstance(policy, GrowOnly):
        return _faults(policy, activity, thread_pages)
    if isinstance(policy, AccessedBit):
        return _refills(policy, activity.switches, activity.seconds, thread_pages)
    if isinstance(policy, ReclaimBelowSp):
        # Whoever must sleep first is reclaimed once at most while he sleeps that long.
        woken = activity.runs if policy.asleep_seconds else activity.switches
        ripe = Counter(
            {
                shape: count
                for shape, count in woken.items()
                if policy.asleep_seconds <= max(1, shape.asleep_seconds)
            }
        )
        return _refills(policy, ripe, activity.seconds, thread_pages)
    return None


def _faults(policy: GrowOnly, activity: Activity, thread_pages: int) -> Rate:
    events = pages = 0
    for (before, after), count in activity.grown.items():
        _, likely_after, most_after = policy.faults(after, thread_pages)
        _, likely_before, most_before = policy.faults(before, thread_pages)
        events += max(0, likely_after - likely_before) * count
        pages += max(0, most_after - most_before) * count
    if activity.exited is not None:
        ended = Counter(
            {Shape(mark, (1 << mark) - 1, had): n for (mark, had), n in activity.exited.items()}
        )
        # An exited stack is counted with all that it ever was; of that, what a snapshot
        # had seen is in `grown`, or was there before the series began.
        for shapes, sign in ((ended, 1), (activity.gone, -1)):
            for shape, count in shapes.items():
                _, likely, most = policy.faults(shape, thread_pages)
                events += sign * likely * count
                pages += sign * most * count
    seconds = activity.seconds
    return Rate("faults", max(0, events) / seconds, max(0, pages) / seconds)


def _refills(
    policy: Policy, switches: Mapping[Shape, int], seconds: float, thread_pages: int
) -> Rate:
    events = pages = 0
    for shape, count in switches.items():
        refilled = policy.refill_pages(shape, thread_pages)
        if refilled > 0:
            events += count
            pages += refilled * count
    return Rate("refills", events / seconds, pages / seconds)
