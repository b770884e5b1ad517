# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots made by hand, for tests that need no kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynstack_probe.analysis.timeline import Timeline
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Cost, Coverage, Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import Host
from dynstack_probe.model.interval import Interval, PageFaults
from dynstack_probe.model.stacks import Kind, Stacks
from dynstack_probe.serve.collector import CostInputs

COSTS = CostInputs(
    PageFaults(5, 6),
    "kernel mode estimated (counted for 1 s about every 15 s, and scaled), user mode the"
    " remainder of pgfault",
    Headroom((900, 700), 0, 0, 0, 0),
    Calibration(2000.0, 900.0, 100.0, 200.0, 0.1, 1, pinned=True),
)


def a_host(cpus: int = 2, thread_size_bytes: int = 16384) -> Host:
    return Host("AMD EPYC", cpus, "6.18.0", thread_size_bytes, 8 << 20)


def some_stacks(
    marks: Sequence[int],
    *,
    touched: Sequence[int] | None = None,
    comms: Sequence[bytes] | None = None,
    kinds: Sequence[Kind] | None = None,
    cgroup_ids: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    asleep: Sequence[int] | None = None,
) -> Stacks:
    """Stacks with these marks; by default every page down to the mark is touched."""
    count = len(marks)
    pages = [max(1, -(-mark // 4096)) for mark in marks]
    return Stacks(
        mark_bytes=marks,
        touched_pages=touched or [(1 << n) - 1 for n in pages],
        resident_pages=[0b1111] * count,
        depth_bytes=depths or [min(mark, 600) for mark in marks],
        kinds=kinds or [Kind.USER] * count,
        comms=comms or [b"task"] * count,
        tids=range(1, count + 1),
        tgids=range(1, count + 1),
        cgroup_ids=cgroup_ids or [1] * count,
        addresses=range(1 << 40, (1 << 40) + count),
        switches=[1] * count,
        start_boot_ns=[0] * count,
        asleep_seconds=asleep or [0] * count,
    )


def collect(frames: Iterable[Frame], thresholds: Sequence[int]) -> Interval:
    """A whole series as one interval."""
    timeline = Timeline(thresholds)
    return sum((found for found in map(timeline.add, frames) if found), Interval())


def a_frame(stacks: Stacks, host: Host | None = None, **changes: object) -> Frame:
    count = len(stacks)
    return Frame(
        host=host or a_host(),
        stacks=stacks,
        coverage=Coverage(
            read=count,
            unreadable=0,
            kernel_stacks=count,
            kernel_stack_kib=count * 16,
            refreshed=True,
        ),
        cost=Cost(0.1, 0.3, 0.1, 0.001, 120_000),
        **changes,  # type: ignore[arg-type]
    )
