"""A series of frames, walked through once: the last one, and what happened on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.analysis.timeline import Timeline, rate, thread_pages_of
from dynstack_probe.errors import UsageError
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.policy import BUILT_IN, HEADLINE, Policy


@dataclass(frozen=True)
class Moment:
    """One frame of a series, and the time since the first.

    savings and faults are rfc-v1's. Rates are means since the moment before, None at the
    first or where nothing was counted.
    """

    seconds: float
    savings: Savings
    faults_per_second: float | None = None
    created_per_second: float | None = None
    exited_per_second: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All there is to report of one host. `whole` is None of a single frame."""

    source: str
    frame: Frame
    moments: Sequence[Moment]
    whole: Interval | None

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return self.moments[-1].seconds


Frames = Iterable[Frame]


def evidence_of(frames: Frames, policies: Sequence[Policy], source: str) -> Evidence:
    """Hold two frames at a time. Raises UsageError if there is none."""
    timeline = Timeline([policy.asleep_seconds for policy in policies])
    moments: list[Moment] = []
    whole: Interval | None = None
    last: Frame | None = None
    seconds = 0.0
    for last in frames:
        savings = estimate(BUILT_IN[HEADLINE], count_shapes(last.stacks), last.host)
        interval = timeline.add(last)
        if interval is None:
            moments.append(Moment(seconds, savings))
            continue
        whole = interval if whole is None else whole + interval
        seconds += interval.seconds
        faults = rate(BUILT_IN[HEADLINE], interval, thread_pages_of(last))
        moments.append(
            Moment(
                seconds,
                savings,
                faults.events if faults else None,
                interval.per_second(interval.created),
                interval.per_second(interval.exited),
            )
        )
    if last is None:
        raise UsageError(f"{source} holds no snapshot")
    return Evidence(source, last, moments, whole)
