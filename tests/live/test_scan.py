# SPDX-License-Identifier: GPL-2.0-or-later
"""The scan against other sources on this machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel import bpf, host
from dynstack_probe.kernel.btf import Btf
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.offsets import TASK_GROUP_FIELDS, field_macros, probe_macros
from dynstack_probe.loader import Iterator as BpfIterator
from dynstack_probe.loader import Loader, probes_dir
from dynstack_probe.measure.stack_scan import Scanner, read_iterator, static_mark, take_frame
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind, Stacks
from tests.live.machine import sleepers, visible_threads
from tests.live.variants import OtherLoader

BARE_ITERATOR = Path(__file__).with_name("bare_iterator.c")


def with_comm(frame: Frame, name: bytes) -> list[int]:
    """Indices of the stacks with that comm."""
    return [i for i, comm in enumerate(frame.stacks.comms) if comm == name]


def test_997_sleeping_threads_are_997_more_tasks() -> None:
    assert with_comm(take_frame(), b"prime-sleeper") == []
    with sleepers(997, b"prime-sleeper") as pid:
        frame = take_frame()
        found = with_comm(frame, b"prime-sleeper")
        assert len(found) == 997
        stacks = frame.stacks
        assert {stacks.tgids[i] for i in found} == {pid}
        assert len({stacks.tids[i] for i in found}) == 997
        assert len({stacks.addresses[i] for i in found}) == 997
        assert {stacks.kinds[i] for i in found} == {Kind.USER}
        # asleep: below the high-water mark, but not zero
        assert all(0 < stacks.depth_bytes[i] <= stacks.mark_bytes[i] for i in found)
        assert all(stacks.switches[i] > 0 for i in found)
    assert with_comm(take_frame(), b"prime-sleeper") == []


def iterated_tids() -> set[int]:
    """All tids that a minimal program sees through the kernel's task iterator."""
    with Loader() as loader:
        with Btf() as btf:
            macros = probe_macros(btf)
        with loader.load(BARE_ITERATOR, macros, [BpfIterator("tasks", "bpf_iter__task")]) as probe:
            fd = bpf.create_iterator(probe.links["tasks"])
            raw = read_iterator(fd)
            os.close(fd)
    return set(memoryview(raw).cast("I"))


def test_coverage_agrees_with_proc_and_with_the_kernels_count() -> None:
    """Read plus missed is the kernel's count, to within the churn of tasks."""
    before = visible_threads()
    iterated = iterated_tids()
    frame = take_frame()
    after = visible_threads()
    steady = before & after
    read = set(frame.stacks.tids)

    # Every task that the iterator shows is read. Some kernels hide tasks from it: those are missed.
    hidden = steady - iterated - {os.getpid()}
    assert steady - hidden <= read
    coverage = frame.coverage
    assert coverage.refreshed
    assert coverage.unreadable == 0
    assert coverage.kernel_stacks is not None
    churn = len(before ^ after) + 8
    idle = host.possible_cpus() - 1
    assert abs(coverage.kernel_stacks - len(steady) - idle) <= churn
    assert abs(coverage.read + coverage.missed - coverage.kernel_stacks) <= churn
    assert abs(coverage.missed - len(hidden)) <= churn


def test_idle_tasks() -> None:
    """Each CPU but the boot CPU has a counted pid-0 stack; the boot CPU's is static."""
    frame = take_frame()
    stacks = frame.stacks
    idle = [i for i, kind in enumerate(stacks.kinds) if kind == Kind.IDLE]
    assert len(idle) == host.possible_cpus() - 1
    assert all(stacks.comms[i].startswith(b"swapper/") for i in idle)
    assert all(stacks.mark_bytes[i] > 0 for i in idle)
    size = frame.host.thread_size_bytes
    assert frame.coverage.boot_idle_mark_bytes is None or (
        0 < frame.coverage.boot_idle_mark_bytes < size - 8
    )
    # padding fills the static stack since Linux 6.16
    assert (static_mark(size - 8, size), static_mark(0, size)) == (None, None)
    assert static_mark(3000, size) == 3000


def scan_with(**changes: int | None) -> Frame:
    """A scan by a probe compiled with these macros changed; None undefines one."""
    with OtherLoader(changes) as loader, Scanner(loader, Features()) as scanner:
        return scanner.scan()


def idle_stacks(frame: Frame) -> set[tuple[bytes, int]]:
    stacks = frame.stacks
    columns = zip(stacks.kinds, stacks.comms, stacks.addresses, strict=True)
    return {(comm, address) for kind, comm, address in columns if kind == Kind.IDLE}


def test_idle_tasks_of_older_kernels() -> None:
    """Without the helper of Linux 5.19, task_group.cfs_rq shows the way until 7.2."""
    with Btf() as btf:
        through_group = field_macros(btf, TASK_GROUP_FIELDS)
    other_way = scan_with(IDLE_BY_PER_CPU_OFFSET=None, **through_group)
    assert idle_stacks(other_way) == idle_stacks(take_frame())


def test_idle_tasks_that_cannot_be_found_are_missed() -> None:
    frame = scan_with(IDLE_BY_PER_CPU_OFFSET=None)
    assert idle_stacks(frame) == set()
    assert frame.coverage.missed >= host.possible_cpus() - 1


def test_the_scan_for_kstack_erase_finds_the_same_marks() -> None:
    """With no poison on any stack it must find what the plain scan finds."""
    plain, wary = take_frame().stacks, scan_with(KSTACK_ERASE=1)
    assert wary.coverage.erased == 0

    def marks(stacks: Stacks) -> dict[tuple[int, int], int]:
        keys = zip(stacks.tids, stacks.switches, strict=True)
        return dict(zip(keys, stacks.mark_bytes, strict=True))

    before, after = marks(plain), marks(wary.stacks)
    not_run_since = before.keys() & after.keys()
    assert len(not_run_since) > 20
    assert {key: before[key] for key in not_run_since} == {key: after[key] for key in not_run_since}


@pytest.mark.parametrize(("shift", "mapped"), [(1, 2), (2, 1)])
def test_the_readers_own_stack_is_read_down_to_its_mapped_pages(shift: int, mapped: int) -> None:
    """With dynamic stacks only nr_pages pages are mapped, and reading another would map it.

    Here a shift makes nr_pages less than the stack's size, as it is there. Other tasks' pages
    may be tried: reading one that is not mapped fails.
    """
    plain = take_frame()
    pages = plain.host.thread_size_bytes // 4096
    if pages != 4:
        pytest.skip(f"the fake is one of stacks of 4 pages, and here are {pages}")
    frame = scan_with(VM_STRUCT_NR_PAGES_SHIFT=shift, VM_STRUCT_NR_PAGES_BITS=3)
    resident = dict(zip(frame.stacks.tids, frame.stacks.resident_pages, strict=True))
    assert resident.pop(os.getpid()) == (1 << mapped) - 1
    assert set(resident.values()) == {(1 << pages) - 1}
    assert frame.is_dynamic
    assert not plain.is_dynamic
    assert frame.host.thread_size_bytes == plain.host.thread_size_bytes


def test_records_make_sense() -> None:
    frame = take_frame()
    stacks, size = frame.stacks, frame.host.thread_size_bytes
    assert size in (16384, 32768)
    columns = zip(
        stacks.mark_bytes,
        stacks.touched_pages,
        stacks.resident_pages,
        stacks.depth_bytes,
        strict=True,
    )
    for mark, touched, resident, depth in columns:
        assert 0 < mark < size
        assert mark % 8 == 0
        assert touched.bit_length() == -(-mark // 4096)
        assert touched & ~resident == 0
        assert depth <= size
    assert not frame.is_dynamic or frame.grown_kib is not None
    own = stacks.tids.index(os.getpid())
    assert stacks.depth_bytes[own] == 0  # on a CPU: the saved stack pointer is stale
    assert stacks.kinds[own] == Kind.USER
    assert stacks.comms[stacks.tids.index(2)] == b"kthreadd"
    assert stacks.kinds[stacks.tids.index(2)] == Kind.KTHREAD


@pytest.fixture
def sqpoll_ring() -> Iterator[None]:
    """An io_uring with a kernel-side polling thread (io_uring_setup(2), IORING_SETUP_SQPOLL)."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = (ctypes.c_uint32 * 30)()
    params[2] = 1 << 1  # struct io_uring_params: flags
    fd = libc.syscall(425, 4, ctypes.byref(params))
    if fd < 0:
        pytest.skip(f"io_uring is not to be had: {os.strerror(ctypes.get_errno())}")
    yield
    os.close(fd)


@pytest.mark.usefixtures("sqpoll_ring")
def test_io_uring_threads_are_user_workers() -> None:
    frame = take_frame()
    name = b"iou-sqp-%d" % os.getpid()
    found = with_comm(frame, name[:15])
    assert [frame.stacks.kinds[i] for i in found] == [Kind.USER_WORKER]


# A thread that goes deeper in steps: each line on stdin is one kind of system call, the last
# the execve of a real program.
_DIVER = """
import os, select, socket, sys, tempfile
def files():
    with tempfile.TemporaryDirectory() as top:
        deep = os.path.join(top, *["d"] * 200)
        os.makedirs(deep)
        for folder, _, _ in os.walk(top):
            os.stat(folder)
        with open(os.path.join(deep, "f"), "wb") as f:
            f.write(b"x" * 1000000)
            os.fsync(f.fileno())
def network():
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    peer, _ = server.accept()
    client.sendall(b"x" * 100000)
    peer.recv(100000)
def poll():
    poller = select.poll()
    for _ in range(300):
        for fd in os.pipe(): poller.register(fd, select.POLLIN)
    poller.poll(1)
def execute():
    os.execv("/bin/cat", ["cat"])
steps = {"files": files, "network": network, "poll": poll, "execute": execute}
print("ready", flush=True)
while True:
    name = sys.stdin.buffer.raw.readline().decode().strip()
    steps[name]()
    print("done", flush=True)
"""


def test_the_mark_of_a_diving_thread_only_grows() -> None:
    diver = subprocess.Popen(
        [sys.executable, "-c", _DIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert diver.stdin is not None
    assert diver.stdout is not None
    watchdog = threading.Timer(60, diver.kill)
    watchdog.start()

    def mark() -> int:
        stacks = take_frame().stacks
        return stacks.mark_bytes[list(stacks.tids).index(diver.pid)]

    try:
        assert diver.stdout.readline() == "ready\n"
        marks = [mark()]
        for step in ("files", "network", "poll", "files"):
            diver.stdin.write(step + "\n")
            assert diver.stdout.readline() == "done\n"
            marks.append(mark())
        diver.stdin.write("execute\n")
        diver.stdin.write("echo\n")  # answered by cat, in the same task
        assert diver.stdout.readline() == "echo\n"
        marks.append(mark())
    finally:
        watchdog.cancel()
        diver.kill()
        diver.wait()
    assert marks == sorted(marks)
    assert marks[-1] > 1000


def test_without_headers_kprobes_or_bcc_in_this_process() -> None:
    take_frame()
    assert "bcc" not in sys.modules
    assert probes_dir().is_dir()


@pytest.mark.parametrize("size", [1, 2])
def test_fields_are_loaded_with_the_size_they_have(size: int) -> None:
    """Linux 7.2 narrowed task_struct.on_cpu to one byte; earlier kernels only use its low byte."""
    narrow = {"TASK_STRUCT_ON_CPU_BYTES": size, "TASK_STRUCT_ON_CPU_BITS": 8 * size}
    with sleepers(97, b"sized-sleeper"):
        frame = scan_with(**narrow)
    assert all(frame.stacks.depth_bytes[i] > 0 for i in with_comm(frame, b"sized-sleeper"))
    reader = frame.stacks.tids.index(threading.get_native_id())
    assert frame.stacks.depth_bytes[reader] == 0  # it is on a CPU


@pytest.mark.parametrize(("shift", "bits"), [(0, 7), (3, 8), (13, 19)])
def test_a_bit_field_is_read_by_its_bits(shift: int, bits: int) -> None:
    """As if task_struct.pid, read through a typed pointer, were a bit field."""
    with sleepers(97, b"bits-sleeper"):
        whole = take_frame()
        frame = scan_with(TASK_STRUCT_PID_SHIFT=shift, TASK_STRUCT_PID_BITS=bits)
    expected = {
        whole.stacks.tids[i] >> shift & (1 << bits) - 1 for i in with_comm(whole, b"bits-sleeper")
    }
    assert {frame.stacks.tids[i] for i in with_comm(frame, b"bits-sleeper")} == expected


def test_a_program_that_the_verifier_refuses_is_one_line() -> None:
    """As Linux 7.2 rejected a four-byte load of a one-byte field."""
    with pytest.raises(UnmeasurableError) as caught:
        scan_with(TASK_STRUCT_ON_CPU_BYTES=8)
    message = str(caught.value)
    assert "\n" not in message
    assert "bpf_iter__task of stack_scan.c" in message
    assert "beyond the end of member on_cpu" in message
    assert "processed" in caught.value.details


def test_no_task_has_slept_for_longer_than_it_has_lived() -> None:
    """Migration resets the kernel's record of when a task last ran: 1 to 3% of all tasks would
    seem asleep since boot."""
    with sleepers(97, b"age-sleeper"):
        frame = take_frame()
    stacks = frame.stacks
    for asleep, start in zip(stacks.asleep_seconds, stacks.start_boot_ns, strict=True):
        assert asleep == ASLEEP_UNKNOWN or asleep * 10**9 <= frame.boot_ns - start
    known = [stacks.asleep_seconds[i] for i in with_comm(frame, b"age-sleeper")]
    assert sum(seconds != ASLEEP_UNKNOWN for seconds in known) > 0
