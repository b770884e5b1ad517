# SPDX-License-Identifier: GPL-2.0-or-later
"""Which task first uses another page of its stack, in which system call: stack_faults.c."""

from __future__ import annotations

import enum
import mmap
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel import host
from dynstack_probe.kernel.btf import VMLINUX, Btf
from dynstack_probe.kernel.capabilities import explain_refused_perf_event
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.offsets import probe_macros, register_macros
from dynstack_probe.kernel.ring_buffer import RingBuffer
from dynstack_probe.loader import Closing, LoadedProbe, Loader, PerfEvent, probes_dir
from dynstack_probe.measure.lifecycle import seen_slots
from dynstack_probe.measure.records import HEADER, MappedRecords, read_constants, read_layout
from dynstack_probe.measure.stack_scan import ITERATORS, scan_records
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.syscalls import syscall_name

# How many bytes below a boundary are checked for a crossing. Of 3,700 first crossings under mixed
# load on Linux 6.18, where whole pages were compared, each had used a word within 56 bytes. 64 more
# bytes cost about 4 ns per call; CHECK_WINDOW repeats the comparison.
WINDOW_BYTES = 128
MAX_COLLIDED = 4096
RING_PAGES = 512  # 2 MiB: 20,000 crossings between two reads
MAPS = ("faults", "counters")
TRACEPOINTS = {
    "sys_exit": "on_sys_exit",
    "task_newtask": "on_new_task",
    "sched_process_exit": "on_process_exit",
}
# linux/perf_event.h: PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS_MAJ
MAJOR_FAULTS = PerfEvent("major faults", 1, 6, "on_major_fault", period=1, optional=True)
REMEMBERED = 4096  # tasks with recent crossings

NULL_CALLS = 2000
NULL_REPEATS = 40


class Context(enum.IntEnum):
    """Where a task was; the values are those of CONTEXT_ in probes/records.h."""

    SYSCALL = 0
    FORK_RETURN = 1
    EXCEPTION = 2
    EXIT = 3
    KTHREAD = 4
    WORKER = 5
    IDLE = 6

    @property
    def label(self) -> str:
        """The name in all output; a system call is shown by its own."""
        return _LABELS[self]


_LABELS = {
    Context.SYSCALL: "system call",
    Context.FORK_RETURN: "(fork return)",
    Context.EXCEPTION: "(page fault or interrupt)",
    Context.EXIT: "(exit)",
    Context.KTHREAD: "(kernel thread)",
    Context.WORKER: "(user worker)",
    Context.IDLE: "(idle task)",
}


@dataclass(frozen=True)
class StackFault:
    """A task's stack has grown by one or more pages.

    A grow-only kernel would have taken `faults` faults for it, and mapped `pages`: one fault maps
    every page down to the faulting address, so a skipped page took none. mark_bytes is the
    high-water mark after it. `late`: a scan of all tasks found it, so the call is the one that the
    task was in then. switches: the task's context switches so far. headroom_pages: free above the
    minimum watermarks when the crossing was read, up to a quarter of a second later.
    """

    tid: int
    tgid: int
    comm: bytes
    cgroup_id: int
    context: Context
    call: str
    late: bool
    mark_bytes: int
    pages_before: int
    pages: int
    faults: int
    age_seconds: float
    start_boot_ns: int
    hidden: bool = False
    switches: int = 0
    headroom_pages: int | None = None


@dataclass
class CallTally:
    """Totals of one system call, or of one context outside any."""

    name: str
    events: int = 0
    faults: int = 0
    pages: int = 0
    late: int = 0
    deepest_bytes: int = 0
    deepest_comm: bytes = b""
    tasks: dict[bytes, int] = field(default_factory=dict)

    def add(self, fault: StackFault) -> None:
        self.events += 1
        self.faults += fault.faults
        self.pages += fault.pages
        self.late += fault.late
        self.tasks[fault.comm] = self.tasks.get(fault.comm, 0) + fault.faults
        if fault.mark_bytes > self.deepest_bytes:
            self.deepest_bytes, self.deepest_comm = fault.mark_bytes, fault.comm


class Ranking:
    def __init__(self) -> None:
        self.calls: dict[str, CallTally] = {}

    def add(self, fault: StackFault) -> None:
        self.calls.setdefault(fault.call, CallTally(fault.call)).add(fault)

    def ranked(self) -> list[CallTally]:
        """Most faults first, then most pages, then deepest."""
        return sorted(
            self.calls.values(), key=lambda c: (-c.faults, -c.pages, -c.deepest_bytes, c.name)
        )


class Counters(NamedTuple):
    """What the probe counted over all CPUs; see fault_counters in probes/records.h."""

    syscalls: int
    lost: int
    untracked: int
    unread: int


@dataclass(frozen=True)
class WatchCost:
    """What the watch cost while it ran.

    ns_per_syscall is getppid() with the probe minus without, measured at the end; scan_seconds is
    the total time of the scans.
    """

    ns_per_syscall: float
    scans: int
    scan_seconds: float


def require_fixed_stacks(features: Features) -> None:
    """Raise UnmeasurableError where unused pages of a live stack must not be read.

    With dynamic stacks, reading an unmapped page of one's own stack maps it.
    """
    if features.dynamic_stacks():
        raise UnmeasurableError(
            "this kernel has dynamic stacks, and reading an unmapped page would map it:"
            " see its own nr_dynamic_stacks_faults in /proc/vmstat"
        )


def caveats(probe: LoadedProbe) -> list[str]:
    """What a reader of the figures must know. Call it before privileges are dropped."""
    sentences = []
    if Features().in_initial_pid_namespace() is False:
        sentences.append(
            "In a PID namespace: of tasks outside it only system calls are seen, and no"
            " kernel threads. Run on the host."
        )
    if not probe.perf_events[MAJOR_FAULTS.name]:
        sentences.append(
            "Major page faults are not watched, and stack growth in them is found by the"
            f" next scan: the kernel refused the perf event; {explain_refused_perf_event()}."
        )
    return sentences


def load_faults(loader: Loader, *, btf_path: Path = VMLINUX) -> LoadedProbe:
    """Load and attach the probe. Errors as Loader.load() and require_fixed_stacks()."""
    require_fixed_stacks(Features())
    with Btf(btf_path) as btf:
        values = {**probe_macros(btf), **register_macros(btf)}
        iterators = [i for i in ITERATORS if btf.has_iterator(i.function)]
    values["SLOTS"] = seen_slots(host.memory_total_kib())
    values["MAX_COLLIDED"] = MAX_COLLIDED
    values["RING_PAGES"] = RING_PAGES
    values["WINDOW_BYTES"] = WINDOW_BYTES
    return loader.load(
        probes_dir() / "stack_faults.c",
        values,
        iterators,
        maps=MAPS,
        tracepoints=TRACEPOINTS,
        perf_events=[MAJOR_FAULTS],
    )


class FaultWatch(Closing):
    """Reads a loaded probe. Not thread-safe."""

    def __init__(self, probe: LoadedProbe) -> None:
        """Map the buffers of `probe`, which must stay open."""
        self._layout = read_layout(HEADER, "stack_fault")
        self._flags = read_constants(HEADER, "FAULT")
        self._probe = probe
        counters = probe.maps["counters"]
        self._counters = MappedRecords(counters, "fault_counters", of_each_cpu=True)
        self._ring = RingBuffer(probe.maps["faults"], RING_PAGES * mmap.PAGESIZE)
        self._known: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._scans = 0
        self._scan_seconds = 0.0
        self._at_begin = self._read_counters()

    def close(self) -> None:
        self._counters.close()
        self._ring.close()

    def begin(self) -> None:
        """Record the current marks of all tasks: growth counts from here on."""
        self.scan_all_tasks()
        self._ring.read()
        self._scans, self._scan_seconds = 0, 0.0
        self._at_begin = self._read_counters()

    def scan_all_tasks(self) -> None:
        """Scan all tasks: finds growth that no exit from a system call has shown.

        Raises OSError where the kernel requires capabilities for it.
        """
        started = time.perf_counter()
        for link in self._probe.links.values():
            scan_records(link)
        self._scans += 1
        self._scan_seconds += time.perf_counter() - started

    def read(self) -> list[StackFault]:
        """Growth found since the last read, oldest first."""
        found = (self._parse(raw) for raw in self._ring.read())
        return [fault for fault in found if fault is not None]

    def _parse(self, raw: bytes) -> StackFault | None:
        numbers = self._layout.unpack(raw)
        # Both the task and a scan may report the same page: the first counts.
        key = numbers["tid"], numbers["start_boot_ns"]
        before = max(numbers["pages_before"], self._known.pop(key, 0))
        after = -(-numbers["mark_bytes"] // PAGE_BYTES)
        self._known[key] = max(before, after)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        if after <= before:
            return None
        context = Context(numbers["context"])
        ia32 = bool(numbers["flags"] & self._flags["IA32"])
        call = context.label
        if context is Context.SYSCALL:
            call = syscall_name(numbers["syscall"], ia32=ia32)
        age_ns = max(0, numbers["found_boot_ns"] - numbers["start_boot_ns"])
        return StackFault(
            tid=numbers["tid"],
            tgid=numbers["tgid"],
            comm=self._layout.texts(raw, "comm")[0],
            cgroup_id=numbers["cgroup_id"],
            context=context,
            call=call,
            late=bool(numbers["flags"] & self._flags["LATE"]),
            mark_bytes=numbers["mark_bytes"],
            pages_before=before,
            pages=after - before,
            faults=(numbers["touched_pages"] >> before).bit_count(),
            age_seconds=age_ns / 1e9,
            start_boot_ns=numbers["start_boot_ns"],
            hidden=bool(numbers["flags"] & self._flags["HIDDEN"]),
            switches=numbers["switches"],
        )

    def counters(self) -> Counters:
        """Since the watch began."""
        pairs = zip(self._read_counters(), self._at_begin, strict=True)
        return Counters(*(now - then for now, then in pairs))

    def _read_counters(self) -> Counters:
        return Counters(*self._counters.sums(Counters._fields))

    def end(self) -> WatchCost:
        """Measure a system call with the probe, detach it, and measure again."""
        with_probe = null_call_ns()
        self._probe.detach()
        return WatchCost(
            ns_per_syscall=max(0.0, with_probe - null_call_ns()),
            scans=self._scans,
            scan_seconds=self._scan_seconds,
        )


def null_call_ns() -> float:
    """Best time of one getppid() from here, nanoseconds, Python's overhead included."""
    call = os.getppid
    best = float("inf")
    for _ in range(NULL_REPEATS):
        started = time.perf_counter_ns()
        for _ in range(NULL_CALLS):
            call()
        best = min(best, time.perf_counter_ns() - started)
    return best / NULL_CALLS


@dataclass
class Runs:
    """Crossings by run: a task's time on a CPU between two context switches.

    Within a run the CPU's reserve, which serves them, is not refilled. A call that slept between
    two crossings counts as one run, so both figures err high. Those found by a scan are left out:
    their time is unknown.
    """

    most_pages: int = 0
    in_same_run: int = 0
    _last: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def add(self, fault: StackFault) -> None:
        if fault.late:
            return
        task = fault.tid, fault.start_boot_ns
        switches, pages = self._last.pop(task, (-1, 0))
        if switches == fault.switches:
            self.in_same_run += 1
        else:
            pages = 0
        self._last[task] = fault.switches, pages + fault.pages
        self.most_pages = max(self.most_pages, pages + fault.pages)
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
