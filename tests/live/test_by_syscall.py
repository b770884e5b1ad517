# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate --by syscall` against /proc/PID/syscall, the kernel's own answer."""

from __future__ import annotations

import csv
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynstack_probe.analysis.grouping import group_names
from dynstack_probe.measure.stack_scan import take_frame
from dynstack_probe.model.stacks import Kind
from dynstack_probe.model.syscalls import NAMES
from tests import ROOT
from tests.live.machine import run, sleepers

# Sleeps in a call forever; /proc/PID/syscall says which.
CALLS = {
    "pause": "signal.pause()",
    "epoll_wait": "select.epoll().poll()",
    "poll": "select.poll().poll()",
    "rt_sigtimedwait": "signal.sigwait({signal.SIGUSR1})",
    "accept4": "s = socket.socket(); s.listen(); s.accept()",
    "flock": "a, b = open(sys.executable), open(sys.executable);"
    " fcntl.flock(a, fcntl.LOCK_EX); fcntl.flock(b, fcntl.LOCK_EX)",
}


def kernels_answers() -> dict[int, str]:
    """The first word of each task's /proc file: a system call number, or `running`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/syscall"):
        try:
            found[int(path.parent.name)] = path.read_text().split()[0]
        except OSError:
            continue
    return found


def wait_asleep(pid: int) -> str | None:
    """The call in which it sleeps; None if it has exited."""
    for _ in range(200):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return None
        if state == "S":
            return kernels_answers()[pid]
        time.sleep(0.02)
    raise AssertionError(f"{pid} does not sleep")


@pytest.fixture
def callers() -> Iterator[dict[str, int]]:
    """A process asleep in each of CALLS: its pid by the call's name."""
    modules = "import fcntl, select, signal, socket, sys"
    processes = {}
    for name, code in CALLS.items():
        program = f"{modules}\nprint(flush=True)\n{code}"
        processes[name] = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT
        )
    try:
        for process in processes.values():
            assert process.stdout is not None
            process.stdout.readline()
            wait_asleep(process.pid)
        yield {name: process.pid for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_as_the_kernel_says(callers: dict[str, int]) -> None:
    """For every task in the same call before and after the scan, at least 127 of them."""
    with sleepers(127, b"in-nanosleep"):
        before = kernels_answers()
        frame = take_frame()
        after = kernels_answers()
    stacks = frame.stacks
    steady = {tid for tid, call in before.items() if after.get(tid) == call != "running"}
    compared = 0
    for tid, number, kind, depth in zip(
        stacks.tids, stacks.syscalls, stacks.kinds, stacks.depth_bytes, strict=True
    ):
        if kind == Kind.USER and tid in steady and depth:
            assert str(number) == before[tid], tid
            compared += 1
    assert compared >= 127 + len(callers)

    names = dict(zip(stacks.tids, group_names(frame, "syscall"), strict=True))
    for call, pid in callers.items():
        assert names[pid] == call
        assert NAMES[int(before[pid])] == call


def test_a_row_a_call(callers: dict[str, int]) -> None:
    with sleepers(127, b"in-nanosleep"):
        result = run("estimate", "--by", "syscall", "--format", "csv")
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert int(rows["clock_nanosleep"]["stacks"]) >= 127
    assert callers.keys() <= rows.keys()
    assert int(rows["none (kernel thread)"]["stacks"]) > 0
    assert "running" in rows  # the reader itself


def test_a_capture_holds_no_system_calls() -> None:
    result = run("estimate", "--by", "syscall", "tests/data/linux-6.18.dsp")
    assert result.returncode == 2
    assert "captures hold no system calls" in result.stderr
    assert result.stderr.count("\n") == 1


# mov $29, %eax; int $0x80: pause(2) in the 32-bit table, from a 64-bit program
IA32 = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\xb8\\x1d\\0\\0\\0\\xcd\\x80\\xc3")
print(flush=True)
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"""


def test_a_32_bit_call() -> None:
    """Its number is that of another call (shmget) in the 64-bit table."""
    process = subprocess.Popen([sys.executable, "-c", IA32], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        answer = wait_asleep(process.pid)
        if answer is None:
            pytest.skip("this kernel takes no 32-bit calls")
        assert answer == "29"
        frame = take_frame()
        names = dict(zip(frame.stacks.tids, group_names(frame, "syscall"), strict=True))
        assert names[process.pid] == "ia32:29"
    finally:
        process.kill()
        process.wait()
