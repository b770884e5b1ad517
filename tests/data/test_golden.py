# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures of real kernels: every policy's figures, by the models and by the naive one.

NAME.json beside each capture holds them, so that a change of either is noticed:
`python -m tests.data.golden figures` writes it anew.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.capture import read_frames
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy import BUILT_IN
from tests.policy.naive import figures, tasks_of

CAPTURES = sorted(Path(__file__).parent.glob("*.dsp"))
LARGEST_BYTES = 30 * 1024


def by_naive(frame: Frame) -> dict[str, dict[str, int]]:
    tasks = tasks_of(frame.stacks)
    return {name: vars(figures(name, tasks, frame.host)) for name in BUILT_IN}


def by_models(frame: Frame) -> dict[str, dict[str, int]]:
    shapes = count_shapes(frame.stacks, [p.asleep_seconds for p in BUILT_IN.values()])
    pages = frame.host.thread_size_bytes // 4096
    told = {}
    for name, policy in BUILT_IN.items():
        result = estimate(policy, shapes, frame.host)
        told[name] = {
            "stacks": result.stacks,
            "base_kib": result.base_kib,
            "dynamic_kib": result.dynamic_kib,
            "reserve_kib": result.reserve_kib,
            "faults_min": result.faults.min,
            "faults_best": result.faults.best,
            "faults_max": result.faults.max,
            "over_limit": result.over_limit_tasks,
            "refill_pages": sum(policy.refill_pages(s, pages) * n for s, n in shapes.items()),
        }
    return told


def frames(path: Path) -> list[Frame]:
    return list(read_frames(path))


def write_figures() -> None:
    for path in CAPTURES:
        document = [by_naive(frame) for frame in frames(path)]
        path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def test_they_are_of_three_kernels() -> None:
    releases = {frames(path)[0].host.kernel_release[:4] for path in CAPTURES}
    assert releases == {"6.1.", "6.12", "6.18"}
    assert all(path.stat().st_size <= LARGEST_BYTES for path in CAPTURES)


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_figures(path: Path) -> None:
    expected: list[dict[str, Any]] = json.loads(path.with_suffix(".json").read_text())
    assert [by_naive(frame) for frame in frames(path)] == expected
    assert [by_models(frame) for frame in frames(path)] == expected


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_they_hold_what_a_busy_machine_has(path: Path) -> None:
    """Else the figures would say little: deep and shallow, awake and long asleep, all kinds."""
    first, second = frames(path)
    stacks = first.stacks
    marks = Counter(first.stacks.mark_pages())
    assert marks[1] > 50
    # the guests' few tasks stay in their first page
    assert marks[2] > 20 or "QEMU" in first.host.cpu_model
    assert {Kind.USER, Kind.KTHREAD, Kind.IDLE} <= set(stacks.kinds)
    assert 0 in stacks.depth_bytes
    assert min(stacks.asleep_seconds) == 0 < max(stacks.asleep_seconds)
    assert all(d <= m for d, m in zip(stacks.depth_bytes, stacks.mark_bytes, strict=True))
    assert second.taken_at > first.taken_at
    assert second.boot_ns > first.boot_ns


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_they_name_nobody(path: Path) -> None:
    for frame in frames(path):
        stacks = frame.stacks
        for comm, kind in zip(stacks.comms, stacks.kinds, strict=True):
            assert kind in (Kind.KTHREAD, Kind.IDLE) or comm.startswith(b"task-"), comm
        assert frame.kernel.command_line == "quiet"
        assert all(name.startswith("/group-") for name in frame.cgroup_paths.values())
