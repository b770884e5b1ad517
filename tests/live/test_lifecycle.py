# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's counters against known loads and against a replay of the same events."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dynstack_probe.analysis.timeline import growth_of_exited
from dynstack_probe.kernel import cgroups
from dynstack_probe.kernel.btf import Btf
from dynstack_probe.loader import LoadedProbe, Loader
from dynstack_probe.measure import lifecycle
from dynstack_probe.measure.lifecycle import (
    ASKED_CGROUPS,
    PROVING_EXITS,
    Sampler,
    load_lifecycle,
)
from dynstack_probe.model.growth import growth_of, whole_shapes
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.lifecycle import ExitReads, Lifecycle
from dynstack_probe.model.sample import Sample
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.serve.collector import ScanCounter
from tests.live.machine import fork_many, forks_so_far, sleepers
from tests.live.variants import OtherLoader

FORKS = 10_007
RECORDED_EVENTS = 1 << 17


def run_programs(count: int) -> None:
    """About one in ten uses more than its stack's first page before it exits."""
    loop = f"for i in $(seq {count}); do /bin/ls / >/dev/null; done"
    subprocess.run(["/bin/sh", "-c", loop], check=True)


@pytest.fixture
def probe() -> Iterator[LoadedProbe]:
    with Loader() as loader, load_lifecycle(loader) as loaded:
        yield loaded


@pytest.fixture
def sampler(probe: LoadedProbe) -> Iterator[Sampler]:
    with Sampler(probe) as taken:
        yield taken


def exits(life: Lifecycle) -> int:
    return sum(life.exited.values()) + life.lost["exit_unread"]


def counted(sampler: Sampler) -> tuple[Lifecycle, int]:
    """Our counters and the kernel's fork count, read while no fork happened."""
    while True:
        before, life = forks_so_far(), sampler.lifecycle()
        if forks_so_far() == before:
            return life, before


def test_10007_forks_are_counted_exactly(sampler: Sampler) -> None:
    """Created rises by as much as /proc/stat says: the forks and a background."""
    before, kernel_before = counted(sampler)
    fork_many(FORKS)
    after, kernel_after = counted(sampler)
    created = after.created - before.created
    background = kernel_after - kernel_before - FORKS
    assert background >= 1  # the forker itself
    # for a fork on another CPU the kernel counts first, then we do
    assert abs(created - FORKS - background) <= 3
    assert created >= FORKS + 1
    # each exit is counted before its parent is notified
    exited = exits(after) - exits(before)
    assert FORKS + 1 <= exited <= FORKS + background + 60
    assert not any(after.lost.values())


def rfc_faults(sample: Sample) -> int:
    work = BUILT_IN["rfc-v1"].work(Interval(growth=ScanCounter().add(sample).growth), 4)
    assert work is not None
    return work.events


class Event(NamedTuple):
    """struct lifecycle_event of stack_lifecycle.c."""

    what: int
    stack: int
    vm: int
    page: int
    touched_pages: int


CREATED, EXITED, FREED = 1, 2, 3


def recorded(probe: LoadedProbe) -> list[Event]:
    count_map = mmap.mmap(probe.maps["event_count"], mmap.PAGESIZE, prot=mmap.PROT_READ)
    (count,) = struct.unpack_from("=Q", count_map)
    assert count < RECORDED_EVENTS, "more events than the test's record holds"
    size = struct.calcsize("=5Q")
    length = -(-size * RECORDED_EVENTS // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(probe.maps["events"], length, prot=mmap.PROT_READ) as events:
        return [Event(*fields) for fields in struct.iter_unpack("=5Q", events[: size * count])]


class Replay:
    """The same counting, naively: one dictionary of the pages that each stack would hold."""

    def __init__(self) -> None:
        self.created = self.reused = self.faults = 0
        self.exited: dict[tuple[int, int], int] = {}
        self.cached: dict[int, tuple[int, int, int]] = {}  # stack: vm, page, held
        self.inherited: dict[int, int] = {}

    def see(self, event: Event) -> None:
        if event.what == CREATED:
            self.created += 1
            vm, page, held = self.cached.pop(event.stack, (0, 0, 1))
            self.inherited.pop(event.stack, None)
            if (vm, page) == (event.vm, event.page):
                self.reused += 1
                self.inherited[event.stack] = held
        elif event.what == EXITED:
            mark = max(1, event.touched_pages.bit_length())
            inherited = self.inherited.pop(event.stack, 1)
            shape = (mark, inherited)
            self.exited[shape] = self.exited.get(shape, 0) + 1
            new_pages = event.touched_pages >> inherited if mark > inherited else 0
            self.faults += new_pages.bit_count()
            self.cached[event.stack] = (event.vm, event.page, max(mark, inherited))
        elif event.what == FREED:
            self.cached.pop(event.stack, None)
            self.inherited.pop(event.stack, None)


def test_counters_agree_with_a_replay_of_the_same_events() -> None:
    with (
        OtherLoader({"RECORD_EVENTS": RECORDED_EVENTS}, ["events", "event_count"]) as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as sampler,
    ):
        fork_many(3001)
        run_programs(600)
        with sleepers(101, b"replayed"):
            pass
        time.sleep(0.3)
        replay = Replay()
        life = sampler.take().lifecycle
        for event in recorded(probe):
            replay.see(event)
    slack = 2  # events between reading the counters and reading the recorded events
    assert 0 <= replay.created - life.created <= slack
    assert 0 <= replay.reused - life.reused <= slack
    assert 0 <= sum(replay.exited.values()) - sum(life.exited.values()) <= slack
    for shape, count in life.exited.items():
        assert 0 <= replay.exited[shape] - count <= slack, shape
    work = BUILT_IN["rfc-v1"].work(Interval(growth=growth_of_exited(life)), 4)
    assert work is not None
    assert 0 <= replay.faults - work.events <= slack
    assert life.reused > 0
    assert any(inherited > 1 for _, inherited in life.exited)


def deep_exits(life: Lifecycle) -> int:
    return sum(count for (mark, _), count in life.exited.items() if mark > 1)


def test_windows_show_each_page_that_a_whole_stack_shows() -> None:
    """On this kernel: exits read whole stacks, and compare, until enough agree."""
    with Loader() as loader, load_lifecycle(loader) as probe, Sampler(probe) as sampler:
        run_programs(600)
        life = sampler.lifecycle()
    deep = deep_exits(life)
    assert deep >= 10
    assert life.exit_reads == ExitReads(unproved=PROVING_EXITS - deep)
    assert not any(life.lost.values())


def test_once_proved_exits_are_told_by_windows() -> None:
    with (
        OtherLoader({"CHECKED_EVENTS": 8}) as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as sampler,
    ):
        sampler.prove_by(11)
        while sampler.lifecycle().exit_reads.unproved:
            run_programs(50)
        before = sampler.lifecycle()
        run_programs(200)
        after = sampler.lifecycle()
        sampler.prove_by(0)
        distrusting = sampler.lifecycle()
        run_programs(50)
        whole = sampler.lifecycle()
    reads = after.exit_reads
    seen = exits(after) - exits(before)
    windowed = reads.windowed - before.exit_reads.windowed
    assert seen >= 200
    assert seen * 3 / 4 < windowed < seen  # one in 8 events of each CPU is checked
    assert reads.checked > before.exit_reads.checked
    assert (reads.caught, reads.hidden, after.lost["exit_pages_hidden"]) == (0, 0, 0)
    assert whole.exit_reads.windowed - distrusting.exit_reads.windowed <= 2
    assert exits(whole) - exits(distrusting) >= 50


def test_a_load_that_jumps_is_counted_exactly_from_its_first_exit() -> None:
    """Windows of 0 bytes miss each page, as if a frame jumped over them: never trusted."""
    with (
        Loader() as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as whole,
        OtherLoader({"WINDOW_BYTES": 0}) as other,
        load_lifecycle(other) as jumping,
        Sampler(jumping) as blind,
    ):
        whole.prove_by(0)
        blind.prove_by(1)
        before = whole.lifecycle(), blind.lifecycle()
        run_programs(300)
        after = whole.lifecycle(), blind.lifecycle()
    deep = [deep_exits(b) - deep_exits(a) for a, b in zip(before, after, strict=True)]
    assert deep[0] >= 10
    assert abs(deep[0] - deep[1]) <= 1  # an unrelated exit between the two reads
    reads = after[1].exit_reads
    assert reads.hidden == deep_exits(after[1])
    assert (reads.windowed, reads.caught, reads.unproved) == (0, 0, 1)
    assert after[1].lost["exit_pages_hidden"] == 0


def set_proof(probe: LoadedProbe, shown: int) -> None:
    """Make the probe believe that windows missed no page of that many grown stacks."""
    with mmap.mmap(probe.maps["exit_proof"], mmap.PAGESIZE) as proof:
        struct.pack_into("=Q", proof, 0, shown)


def test_a_hidden_page_on_one_cpu_ends_the_trust_of_all() -> None:
    """And the number missed until then lies within the reported range."""
    one_in = 16
    cpus = os.sched_getaffinity(0)
    try:
        with (
            Loader() as loader,
            load_lifecycle(loader) as probe,
            Sampler(probe) as whole,
            OtherLoader({"CHECKED_EVENTS": one_in, "WINDOW_BYTES": 0}) as other,
            load_lifecycle(other) as jumping,
            Sampler(jumping) as blind,
        ):
            whole.prove_by(0)
            blind.prove_by(1000)
            os.sched_setaffinity(0, {min(cpus)})
            start = whole.lifecycle(), blind.lifecycle()
            set_proof(jumping, 1000)
            while not blind.lifecycle().exit_reads.caught:
                run_programs(20)
            caught = whole.lifecycle(), blind.lifecycle()
            os.sched_setaffinity(0, {max(cpus)})  # which has seen no hidden page
            run_programs(200)
            after = whole.lifecycle(), blind.lifecycle()
    finally:
        os.sched_setaffinity(0, cpus)
    missed = deep_exits(caught[0]) - deep_exits(start[0])
    missed -= deep_exits(caught[1]) - deep_exits(start[1])
    least, most = caught[1].exit_reads.missed_range()
    assert least - 2 <= missed <= most + 2
    assert caught[1].lost["exit_pages_hidden"] == caught[1].exit_reads.caught * (one_in - 1)
    deep = [deep_exits(b) - deep_exits(a) for a, b in zip(caught, after, strict=True)]
    assert deep[0] >= 5
    assert abs(deep[0] - deep[1]) <= 1
    assert after[1].exit_reads.windowed - caught[1].exit_reads.windowed <= 1
    assert after[1].exit_reads.unproved == 1000


def test_an_exit_reads_only_pages_that_are_mapped() -> None:
    """With dynamic stacks only nr_pages pages are mapped, and reading another would map it.

    Here a shift makes nr_pages 1 of 4, like a stack that has not grown; pages below it are
    not read, so they don't count.
    """
    one_page = {"VM_STRUCT_NR_PAGES_SHIFT": 2, "VM_STRUCT_NR_PAGES_BITS": 1}
    with (
        Loader() as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as whole,
        OtherLoader(one_page) as other,
        load_lifecycle(other) as dynamic,
        Sampler(dynamic) as mapped,
    ):
        before = whole.lifecycle()
        run_programs(200)
        after, seen = whole.lifecycle(), mapped.lifecycle()
    assert deep_exits(after) - deep_exits(before) >= 5
    assert exits(seen) >= 200
    assert deep_exits(seen) == 0


def test_reuse_is_told_without_the_free_tracepoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.2: only a stack's identity tells a cached one from a new one."""
    with Loader() as loader, load_lifecycle(loader) as exact, Sampler(exact) as told:
        monkeypatch.setattr(Btf, "has_tracepoint", lambda self, name: False)
        with Loader() as other, load_lifecycle(other) as guessing, Sampler(guessing) as guessed:
            before = told.take().lifecycle, guessed.take().lifecycle
            fork_many(4001)
            for _ in range(3):
                with sleepers(701, b"churn"):
                    pass
            after = told.take().lifecycle, guessed.take().lifecycle
    created, reused = (
        [getattr(b, what) - getattr(a, what) for a, b in zip(before, after, strict=True)]
        for what in ("created", "reused")
    )
    assert abs(created[0] - created[1]) <= 3
    assert reused[0] > 100
    assert abs(reused[0] - reused[1]) <= max(5, created[0] // 1000)


def test_faults_never_fall_by_more_than_tasks_in_flight(sampler: Sampler) -> None:
    before = rfc_faults(sampler.take())
    fork_many(997)
    assert rfc_faults(sampler.take()) >= before


def test_sleepers_are_not_read_again(sampler: Sampler) -> None:
    with sleepers(2003, b"sound-asleep"):
        first = sampler.take()
        second = sampler.take()
        assert first.living.reread >= 2003
        assert second.living.reread < first.living.reread - 2000
        assert second.living.stacks() >= 2003
        assert sum(map(sum, second.cgroups.values())) >= 2003
    third = sampler.take()
    assert third.living.stacks() < 2003


@contextlib.contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """A cgroup below the root of the hierarchy by which tasks are grouped."""
    mount = cgroups.hierarchy().mount
    assert mount is not None
    folder = mount / name
    folder.mkdir()
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Removed as soon as its last task has exited."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder} is still in use")


def test_cgroups_have_the_kernels_names(sampler: Sampler) -> None:
    names = ("dynstack-names.slice", r"a b\x2d-\xff", "ä" * 127 + "z")
    with contextlib.ExitStack() as stack:
        for depth in range(1, 4):
            folder = stack.enter_context(cgroup("/".join(names[:depth])))
        with sleepers(53, b"in-a-cgroup") as pid:
            (folder / "cgroup.procs").write_text(str(pid))
            sample = sampler.take()
            inode = folder.stat().st_ino
            assert sum(sample.cgroups[inode]) == 54
            paths = sampler.cgroup_paths(sample.cgroups)
            assert paths[inode] == "/" + "/".join(names)
            walked = cgroups.paths_by_id(sample.cgroups)
            assert {i: paths[i] for i in walked if i in paths} == walked
            assert paths[cgroups.hierarchy().mount.stat().st_ino] == "/"  # type: ignore[union-attr]
            assert sampler.cgroup_paths([inode]) == {inode: paths[inode]}
    sampler.take()
    assert sampler.cgroup_paths([inode, 1 << 62]) == {}


def test_one_read_need_not_bring_all_names(sampler: Sampler) -> None:
    count = ASKED_CGROUPS * 2 + 3
    with contextlib.ExitStack() as stack:
        wanted = {}
        for n in range(count):
            folder = stack.enter_context(cgroup(f"dynstack-many-{n}"))
            sleep = stack.enter_context(subprocess.Popen(["sleep", "1000"]))
            stack.callback(sleep.kill)
            (folder / "cgroup.procs").write_text(str(sleep.pid))
            wanted[folder.stat().st_ino] = f"/{folder.name}"
        sample = sampler.take()
        assert set(wanted) <= set(sample.cgroups)
        assert sampler.cgroup_paths(wanted) == wanted


def test_a_cgroup_that_is_gone_never_has_anothers_name(sampler: Sampler) -> None:
    """The node's memory may have been reused by the time its names are read."""
    named = 0
    for n in range(211):
        with (
            cgroup(f"dynstack-gone-{n}") as folder,
            subprocess.Popen(["sleep", "1000"]) as sleep,
        ):
            (folder / "cgroup.procs").write_text(str(sleep.pid))
            inode = folder.stat().st_ino
            assert inode in sampler.take().cgroups
            sleep.kill()
        with cgroup(f"dynstack-next-{n}"):
            paths = sampler.cgroup_paths([inode])
        assert set(paths.values()) <= {f"/dynstack-gone-{n}"}
        named += len(paths)
    print(f"{named} of 211 still had their name")


def test_without_the_kernels_names_the_tree_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "cgroup_name_macros", lambda btf: {})
    with Loader() as loader, load_lifecycle(loader) as probe, Sampler(probe) as sampler:
        assert set(probe.links) <= {"tasks", "idle"}
        ids = sampler.take().cgroups
        assert "/" in sampler.cgroup_paths(ids).values()


def test_the_living_agree_with_a_full_scan(sampler: Sampler) -> None:
    """The incremental rescan finds what a full scan finds."""
    from dynstack_probe.measure.stack_scan import take_frame

    with sleepers(499, b"compared"):
        sampler.take()
        sample = sampler.take()
        frame = take_frame()
    assert sample.host.thread_size_bytes == frame.host.thread_size_bytes
    full = {kind: list(frame.stacks.kinds).count(kind) for kind in Kind}
    for kind, shapes in sample.living.shapes.items():
        assert abs(sum(shapes.values()) - full[kind]) <= 10
    deep = sum(1 for mark in frame.stacks.mark_bytes if mark > 4096)
    seen = sum(n for (mark, _), n in sample.living.all_shapes().items() if mark > 1)
    assert abs(deep - seen) <= 10


def test_growth_is_told_by_age(sampler: Sampler) -> None:
    """A task that goes deeper between two scans appears once, with its age."""
    sampler.take()
    before = sampler.take().lifecycle.growth_by_age
    run_programs(200)
    after = sampler.take().lifecycle.growth_by_age
    assert sum(after) > sum(before)
    assert all(b >= a for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "macros",
    [{"KSTACK_ERASE": 1}, {"TYPED_CURRENT_TASK": None}],
    ids=["KSTACK_ERASE", "before 5.11"],
)
def test_variants_for_other_kernels_count_the_same(
    sampler: Sampler, macros: dict[str, int | None]
) -> None:
    with (
        OtherLoader(macros) as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as other,
    ):
        here, there = sampler.take(), other.take()
    assert abs(here.living.stacks() - there.living.stacks()) <= 5
    assert here.living.shapes[Kind.IDLE] == there.living.shapes[Kind.IDLE]
    assert there.coverage.erased == 0


def test_events_that_pass_a_busy_program_by_are_counted(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own counters, which this kernel lacks: so they are faked."""
    programs = sampler._probe.programs
    assert set(programs) >= {"on_new_task", "on_exit"}
    before = sampler.lifecycle()
    said = {programs["on_new_task"]: 1000, programs["on_exit"]: 3000}
    monkeypatch.setattr(lifecycle, "_fdinfo", lambda fd, name: said.get(fd, 0))
    after = sampler.lifecycle()
    assert 1000 <= after.created - before.created < 1900
    assert after.lost["exit_unread"] == before.lost["exit_unread"] + 3000
    assert after.lost["inheritance_forgotten"] == before.lost["inheritance_forgotten"] + 1000


def test_bpf_memory(sampler: Sampler) -> None:
    assert 0 < sampler.take().bpf_memory_bytes < 8 << 20


def test_grow_only_counts_what_reuse_avoids() -> None:
    policy = BUILT_IN["rfc-v1"]
    (shape,) = whole_shapes({(3, 2): 1})
    assert policy.dynamic_pages(shape, 4) == 3
    assert policy.faults(shape, 4) == (1, 1, 1)
    assert policy.avoided_pages(Interval(growth=growth_of({shape: 1})), 4) == 1
    assert os.sysconf("SC_PAGE_SIZE") == 4096
