"""A series of snapshots, walked through once: the last one, and what happened on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.analysis.timeline import Activity, add, intervals, rate
from dynstack_probe.errors import UsageError
from dynstack_probe.model.frame import Snapshot
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.policy import BUILT_IN, Policy, count_shapes

HEADLINE = "rfc-v1"


@dataclass(frozen=True)
class Moment:
    """One snapshot of a series, and the time since the one before.

    base_kib is measured, dynamic_kib is rfc-v1's. Rates are means since the moment
    before, None at the first or where nothing was counted; faults are rfc-v1's.
    """

    seconds: float
    stacks: int
    base_kib: int
    dynamic_kib: int
    faults_per_second: float | None = None
    created_per_second: float | None = None
    exited_per_second: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All there is to report of one host. `activity` is None of a single snapshot."""

    source: str
    snapshot: Snapshot
    moments: Sequence[Moment]
    activity: Activity | None

    @property
    def seconds(self) -> float:
        """From the first snapshot to the last."""
        return self.moments[-1].seconds


Frames = Iterable[tuple[Snapshot, Lifecycle | None]]


def evidence_of(frames: Frames, policies: Sequence[Policy], source: str) -> Evidence:
    """Hold two snapshots at a time. Raises UsageError if there is none."""
    watch = _Watch()
    total: Activity | None = None
    thresholds = [policy.asleep_seconds for policy in policies]
    for interval in intervals(watch.pass_on(frames), thresholds):
        total = total or Activity()
        add(total, interval)
        watch.tell_faults(interval)
    if watch.last is None:
        raise UsageError(f"{source} holds no snapshot")
    return Evidence(source, watch.last, watch.moments, total)


class _Watch:
    """Notes each snapshot's figures as it passes."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.last: Snapshot | None = None
        self._started_ns = 0
        self._counted: tuple[int, int] | None = None

    def pass_on(self, frames: Frames) -> Iterator[tuple[Snapshot, Lifecycle | None]]:
        for snapshot, lifecycle in frames:
            self._note(snapshot, lifecycle)
            yield snapshot, lifecycle

    def tell_faults(self, interval: Activity) -> None:
        """Of the interval that ended with the newest moment."""
        assert self.last is not None
        thread_pages = self.last.host.thread_size_bytes // PAGE_BYTES
        faults = rate(BUILT_IN[HEADLINE], interval, thread_pages)
        if faults is not None:
            self.moments[-1] = replace(self.moments[-1], faults_per_second=faults.events)

    def _note(self, snapshot: Snapshot, lifecycle: Lifecycle | None) -> None:
        if not self.moments:
            self._started_ns = snapshot.boot_ns
        headline = estimate(BUILT_IN[HEADLINE], count_shapes(snapshot.stacks), snapshot.host)
        moment = Moment(
            seconds=max(0.0, (snapshot.boot_ns - self._started_ns) / 1e9),
            stacks=headline.stacks,
            base_kib=headline.base_kib,
            dynamic_kib=headline.dynamic_kib,
        )
        counted = None
        if lifecycle is not None:
            counted = lifecycle.created, sum(lifecycle.exited.values())
        if self.moments and self._counted is not None and counted is not None:
            seconds = moment.seconds - self.moments[-1].seconds
            if seconds > 0:
                moment = replace(
                    moment,
                    created_per_second=max(0, counted[0] - self._counted[0]) / seconds,
                    exited_per_second=max(0, counted[1] - self._counted[1]) / seconds,
                )
        self.moments.append(moment)
        self.last, self._counted = snapshot, counted
