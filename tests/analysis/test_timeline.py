# SPDX-License-Identifier: GPL-2.0-or-later
"""Per second: of which seconds."""

from __future__ import annotations

from dataclasses import replace

from dynstack_probe.analysis.timeline import Timeline
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.lifecycle import Lifecycle
from tests.factory import a_frame, some_stacks


def frame(ended: float, scan_seconds: float, lifecycle: Lifecycle | None) -> Frame:
    made = a_frame(some_stacks([500]), boot_ns=round(ended * 1e9), lifecycle=lifecycle)
    return replace(made, cost=replace(made.cost, scan_seconds=scan_seconds))


def created(count: int) -> Lifecycle:
    return Lifecycle(count, 0, {}, (0,) * 8, (0,) * 6, {}, 0, 0.0)


def test_a_rate_is_of_the_seconds_in_which_its_events_were_counted() -> None:
    """Counts are read right before a scan, and the second scan had to wait for a CPU."""
    timeline = Timeline()
    assert timeline.add(frame(1000.5, 0.5, created(0))) is None
    interval = timeline.add(frame(1012.0, 2.0, created(700)))

    assert interval is not None
    assert interval.seconds == 10.0
    assert interval.per_second(interval.created) == 70.0


def test_scans_alone_are_as_far_apart_as_their_ends() -> None:
    timeline = Timeline()
    timeline.add(frame(1000.5, 0.5, None))
    interval = timeline.add(frame(1012.0, 2.0, None))

    assert interval is not None
    assert interval.seconds == 11.5
