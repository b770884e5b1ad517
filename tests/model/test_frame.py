# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from dynstack_probe.analysis.grouping import group_names
from dynstack_probe.model.frame import Coverage
from dynstack_probe.model.stacks import Kind
from tests.factory import a_frame, some_stacks


@pytest.mark.parametrize(
    ("read", "unreadable", "kernel", "missed"),
    [(100, 0, 100, 0), (98, 2, 100, 2), (87, 0, 100, 13), (101, 0, 100, 0), (90, 3, None, 3)],
)
def test_missed(read: int, unreadable: int, kernel: int | None, missed: int) -> None:
    coverage = Coverage(read, unreadable, kernel, kernel and kernel * 16, True)
    assert coverage.missed == missed


def test_group_names() -> None:
    stacks = some_stacks(
        [1, 2, 3],
        comms=[b"a", b"b", b"a"],
        kinds=[Kind.USER, Kind.IDLE, Kind.USER_WORKER],
        cgroup_ids=[7, 0, 9],
    )
    frame = a_frame(stacks, cgroup_paths={7: "/x"})
    assert list(group_names(frame, "comm")) == [b"a", b"b", b"a"]
    assert list(group_names(frame, "kind")) == ["user", "idle", "user_worker"]
    assert list(group_names(frame, "cgroup")) == ["/x", "none (idle tasks)", "cgroup:9"]


def test_resident_pages_tell_a_dynamic_kernel() -> None:
    assert not a_frame(some_stacks([100])).is_dynamic
    import dataclasses

    grown = dataclasses.replace(some_stacks([100, 5000]), resident_pages=[0b1, 0b11])
    frame = a_frame(grown)
    assert frame.is_dynamic
    assert (frame.base_kib, grown.resident_kib()) == (32, 12)
