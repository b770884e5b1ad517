# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of frames: its representative frame, and what happened in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.analysis.timeline import Timeline, rate
from dynstack_probe.errors import UsageError
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import Series, series_of
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.model.stacks import Stacks
from dynstack_probe.policy import BUILT_IN, HEADLINE, Policy

# Two pages: whoever has been deeper is told by name.
DEEP_BYTES = 8192


@dataclass(frozen=True)
class Moment:
    """One frame of a series, and the time since the first.

    savings and faults are the headline policy's. Rates are means since the moment before,
    None at the first or where nothing was counted.
    """

    seconds: float
    savings: Savings
    faults_per_second: float | None = None
    created_per_second: float | None = None
    exited_per_second: float | None = None


@dataclass(frozen=True)
class Evidence:
    """All there is to report of one host.

    frame: the one whose saving is the median over time, so that no headline depends on
    when the series happened to end; the only one if there is but one, when `whole` and
    `series` are None. deepest_bytes: of all frames; deep: their tasks that have been deeper
    than DEEP_BYTES, each once, by name.
    """

    source: str
    frame: Frame
    moments: Sequence[Moment]
    whole: Interval | None
    series: Series | None
    deepest_bytes: int = 0
    deep: Sequence[tuple[bytes, int]] = ()

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return self.moments[-1].seconds


# Is walked through twice if there are several; each time anew.
Frames = Iterable[Frame]


def evidence_of(
    frames: Frames,
    policies: Sequence[Policy],
    source: str,
    headline: Policy = BUILT_IN[HEADLINE],
) -> Evidence:
    """Hold two frames at a time. Raises UsageError if there is none."""
    timeline = Timeline([policy.asleep_seconds for policy in policies])
    moments: list[Moment] = []
    whole: Interval | None = None
    last: Frame | None = None
    seconds = 0.0
    deepest = 0
    deep: dict[tuple[int, int], tuple[bytes, int]] = {}
    for last in frames:
        deepest = max(deepest, *last.stacks.mark_bytes, 0)
        deep.update(_deep(last.stacks))
        shapes = count_shapes(last.stacks, [headline.asleep_seconds])
        savings = estimate(headline, shapes, last.host)
        interval = timeline.add(last)
        if interval is None:
            moments.append(Moment(seconds, savings))
            continue
        whole = interval if whole is None else whole + interval
        seconds += interval.seconds
        work = rate(headline, interval, last.host.thread_pages)
        moments.append(
            Moment(
                seconds,
                savings,
                work.events if work else None,
                interval.per_second(interval.created),
                interval.per_second(interval.exited),
            )
        )
    if last is None:
        raise UsageError(f"{source} holds no frame")
    if whole is None:
        return Evidence(source, last, moments, None, None, deepest, list(deep.values()))
    at, series = series_of([m.seconds for m in moments], [m.savings for m in moments])
    chosen = last if at == len(moments) - 1 else next(islice(frames, at, None))
    return Evidence(source, chosen, moments, whole, series, deepest, list(deep.values()))


def _deep(stacks: Stacks) -> Iterator[tuple[tuple[int, int], tuple[bytes, int]]]:
    """Tasks are matched by tid and start time; a mark never falls."""
    for at, mark in enumerate(stacks.mark_bytes):
        if mark > DEEP_BYTES:
            yield (stacks.tids[at], stacks.start_boot_ns[at]), (stacks.comms[at], mark)
