# SPDX-License-Identifier: GPL-2.0-or-later
"""Time a few kernel operations on this host: well under a second, unprivileged.

The timed loops run in C: assigning to every 4096th byte of an mmap touches one byte per page, and
each system call here covers many pages.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from dynstack_probe.kernel.features import Root
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.host import PAGE_BYTES

BATCHES = 81
_PAGES = 256  # 1 MiB: a batch takes a fraction of a millisecond, so few are interrupted
# 32 MiB: more than the kernel's per-CPU lists of freed pages and a CPU's private caches hold.
_COLD_BATCHES = 32
_CALLS = 1000


def calibrate(batches: int = BATCHES) -> Calibration:
    """Raises OSError if 1 MiB can't be allocated; cold_fault_ns needs 32 MiB, else is None."""
    with (
        _private(_PAGES) as memory,
        open("/dev/zero", "rb", buffering=0) as zero,  # noqa: PTH123
        _pinned() as pinned,
    ):
        ones = b"\1" * _PAGES

        def write() -> None:
            memory[::PAGE_BYTES] = ones

        def clear() -> None:
            zero.readinto(memory)

        def discard() -> None:
            memory.madvise(mmap.MADV_DONTNEED)

        faults, bare, clears, calls = [], [], [], []
        # interleaved, so that all see the same load
        for _ in range(batches):
            discard()
            bare.append(_ns(lambda: memory[::PAGE_BYTES]) / _PAGES)
            discard()
            faults.append(_first_minus_second(write))
            clears.append(_ns(clear) / _PAGES)
            calls.append(_ns_per_call(os.getppid) - _ns_per_call(_thread.get_ident))
        cold = _cold_fault_ns()
    low, median, high = (_nearest(faults, quarter / 4) for quarter in (1, 2, 3))
    return Calibration(
        fault_ns=median,
        bare_fault_ns=_nearest(bare, 0.5),
        clear_page_ns=_nearest(clears, 0.5),
        syscall_ns=max(0.0, _nearest(calls, 0.5)),
        spread_ratio=(high - low) / median,
        runnable=_runnable(),
        pinned=pinned,
        cold_fault_ns=cold,
    )


def _cold_fault_ns() -> float | None:
    """A fault on a page that is in no CPU cache; None if memory can't be allocated."""
    ones = b"\1" * _PAGES
    faults = []
    try:
        with _private(_COLD_BATCHES * _PAGES) as memory:
            for at in range(0, len(memory), _PAGES * PAGE_BYTES):
                write = partial(
                    memory.__setitem__, slice(at, at + _PAGES * PAGE_BYTES, PAGE_BYTES), ones
                )
                faults.append(_first_minus_second(write))
    except OSError:
        return None
    return _nearest(faults, 0.5)


def _first_minus_second(write: Callable[[], object]) -> float:
    """First write to each of _PAGES pages minus the second: ns per page."""
    first = _ns(write)
    return (first - _ns(write)) / _PAGES


def _private(pages: int) -> mmap.mmap:
    """Private memory in small pages, none faulted in yet. Raises OSError."""
    memory = mmap.mmap(-1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def _nearest(values: list[float], share: float) -> float:
    """A quantile by nearest rank. The statistics module would cost the daemon a megabyte."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _ns(work: Callable[[], object]) -> int:
    """CPU time of this thread, ns: on a busy host other tasks run within each batch."""
    before = time.thread_time_ns()
    began = time.thread_time_ns()
    work()
    return time.thread_time_ns() - began - (began - before)  # reading this clock is a system call


def _ns_per_call(function: Callable[[], object]) -> float:
    def calls() -> None:
        for _ in itertools.repeat(None, _CALLS):
            function()

    return _ns(calls) / _CALLS


@contextlib.contextmanager
def _pinned() -> Iterator[bool]:
    """Pin this thread to one CPU; False if not allowed, as under the systemd unit."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def _runnable() -> int:
    """The fourth field of /proc/loadavg is runnable/all tasks; 0 if it can't be read."""
    fields = (Root().read("proc/loadavg") or "").split()
    runnable = fields[3].partition("/")[0] if len(fields) > 3 else ""
    return int(runnable) if runnable.isdigit() else 0
