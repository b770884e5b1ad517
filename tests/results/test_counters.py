# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters that others keep, for exactly the seconds asked for."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.results.counters import BUSY_SECONDS, OWN_SECONDS, Beside, at, boot_seconds
from tests.results.place import Place

FORKS = 211


def test_between_two_reads_a_count_rises_in_a_line() -> None:
    points = [(10.0, 100.0), (10.5, 200.0), (11.0, 200.0)]

    assert at(points, 10.25) == 150
    assert at(points, 10.75) == 200
    assert [at(points, end) for end in (10.0, 11.0)] == [100, 200]


def test_only_what_was_read_all_the_time_is_told() -> None:
    beside = Beside()
    beside.counts["kernel"]["created"] = [(1.0, 5.0), (3.0, 9.0)]
    beside.counts["kernel"]["page_faults"] = [(1.5, 0.0), (3.0, 9.0)]

    assert beside.between(1.0, 2.0) == {"kernel": {"created": 2}, "perf": {}, "bpftrace": {}}


@pytest.mark.live
def test_tasks_are_counted_in_their_seconds_alone() -> None:
    """Others of this host's tasks are in it too, so what is known is a lower bound."""
    with Beside() as beside:
        time.sleep(0.5)
        before = boot_seconds()
        time.sleep(0.5)
        _fork(FORKS)
        time.sleep(0.5)
        after = boot_seconds()
        time.sleep(0.3)
        _fork(FORKS)
    counted = beside.between(before, after)
    created = counted["kernel"]["created"]

    assert created >= FORKS
    # the same events, read by another way and in other moments
    if shutil.which("perf") is not None:
        assert abs(counted["perf"]["created"] - created) <= 0.1 * created
    if shutil.which("bpftrace") is not None:
        assert counted["bpftrace"]["exits"] >= FORKS
        assert counted["bpftrace"]["second"] <= counted["bpftrace"]["exits"] <= 2 * created


@pytest.mark.live
def test_cpu_time_of_a_load_is_told_beside_that_of_all() -> None:
    with Place("test") as place:
        if place.cgroup is None:
            pytest.skip("no cgroup v2 is mounted here")
        with Beside(place.cgroup) as beside:
            before = boot_seconds()
            place.shell("while :; do :; done")
            time.sleep(1.5)
            after = boot_seconds()
    counted = beside.between(before, after)["kernel"]

    # others may want this CPU too
    assert 0.05 < counted[OWN_SECONDS] < 1.1 * (after - before)
    assert counted[OWN_SECONDS] < 1.1 * counted[BUSY_SECONDS]


def _fork(count: int) -> None:
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
