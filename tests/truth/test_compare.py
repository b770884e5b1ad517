# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison with the kernel's own figures, which `make truth` has made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynstack_probe.model.stacks import Kind
from tests.factory import some_stacks
from tests.truth.compare import compare_exits, compare_tasks, free_bytes
from tests.truth.kernel import newest
from tests.vm.machine import UnavailableError

SIZE = 16384


def log_of(*marks: int) -> str:
    """sysrq-t, of pids 1, 2, ..."""
    return "".join(
        f"task:{f'task {pid}':15} state:S stack:{SIZE - mark:<5} pid:{pid:<5} tgid:{pid:<5} "
        "ppid:0      flags:0x00000002\n"
        for pid, mark in enumerate(marks, start=1)
    )


def test_free_bytes_go_by_pid_whatever_the_name() -> None:
    log = "task:a pid:9 task:b  state:I stack:14352 pid:8     tgid:8     ppid:2      flags:0x0\n"
    assert free_bytes(log_of(5000) + log) == {1: 11384, 8: 14352}


def test_one_that_did_not_run_must_agree_to_the_byte() -> None:
    stacks = some_stacks([5000, 3000, 3000])
    found = compare_tasks(stacks, log_of(5000, 3000, 3008), stacks, SIZE)
    assert (found.same, found.different) == (2, [(3, 3000, 3008, 3000)])
    assert found.pages_same == {1: 1, 2: 1}


def test_one_that_ran_may_only_have_grown() -> None:
    before = some_stacks([3000, 3000, 3000])
    after = replace(some_stacks([3400, 3400, 3400]), switches=[2, 2, 2])
    found = compare_tasks(before, log_of(3200, 2992, 3408), after, SIZE)
    assert (found.same, found.grown) == (0, 1)
    assert [tid for tid, *_ in found.outside] == [2, 3]


def test_one_on_a_cpu_may_be_running_still() -> None:
    before = some_stacks([3000], depths=[0])
    found = compare_tasks(before, log_of(3200), some_stacks([3200]), SIZE)
    assert (found.grown, found.different) == (1, [])


def test_idle_tasks_and_those_that_went_are_not_compared() -> None:
    before = some_stacks([2000, 3000, 3000], kinds=[Kind.IDLE, Kind.USER, Kind.USER])
    found = compare_tasks(before, log_of(1, 3000), before, SIZE)
    assert (found.same, found.unpaired) == (1, [b"task"])


def test_a_reused_pid_is_another_task() -> None:
    before = some_stacks([3000])
    after = replace(before, start_boot_ns=[5])
    assert compare_tasks(before, log_of(3000), after, SIZE).unpaired == [b"task"]


def test_a_mark_above_the_saved_stack_pointer_is_noticed() -> None:
    stacks = some_stacks([3000, 3000], depths=[3008, 3000])
    found = compare_tasks(stacks, log_of(3000, 3000), stacks, SIZE)
    assert (found.zeros_below_sp, found.sleeping) == (1, 2)


def test_exits_are_compared_by_the_kernels_sizes() -> None:
    kernel, tool = "dynstack_kernel_exited_stacks_total", "dynstack_exited_tasks_total"
    before = {f'{kernel}{{up_to="4k"}}': 100.0, f'{tool}{{pages="1"}}': 7.0}
    after = {
        f'{kernel}{{up_to="2k"}}': 20.0,
        f'{kernel}{{up_to="4k"}}': 170.0,
        f'{kernel}{{up_to="8k"}}': 11.0,
        f'{kernel}{{up_to="16k"}}': 3.0,
        f'{tool}{{pages="1"}}': 98.0,
        f'{tool}{{pages="2"}}': 10.0,
        f'{tool}{{pages="3"}}': 2.0,
        f'{tool}{{pages="4"}}': 1.0,
    }
    found = compare_exits(before, after)
    assert found.kernel == {(1,): 90, (2,): 11, (3, 4): 3}
    assert found.tool == {(1,): 91, (2,): 10, (3, 4): 3}
    assert found.missed == 1


def test_the_newest_source_is_taken() -> None:
    madison = "linux-source-6.12 | 6.12.117-1 | http://x y\nlinux-source-6.12 | 6.12.90-1 | http\n"
    assert newest(madison) == "6.12.117-1"
    with pytest.raises(UnavailableError):
        newest("")
