"""Measure what `serve` costs and write it into docs/performance.md.

Usage: python tests/bench/serve_bench.py docs/performance.md

Paired: with the probe attached and without, in turns within one run.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from dynstack_probe.loader import LoadedProbe, Loader  # noqa: E402
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle  # noqa: E402
from dynstack_probe.measure.page_faults import load_page_faults  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.live.machine import sleepers  # noqa: E402

PAIRS = 9
FAULTS = 50_000
THREADS = 10_000
SLEEPERS = 30_000
PASSES = 9
MADV_NOHUGEPAGE = 15  # asm-generic/mman-common.h


def ns_per_fault() -> float:
    """First touch of anonymous pages, nanoseconds each."""
    with mmap.mmap(-1, FAULTS * mmap.PAGESIZE) as memory:
        memory.madvise(MADV_NOHUGEPAGE)
        buffer = (ctypes.c_char * len(memory)).from_buffer(memory)
        address = ctypes.addressof(buffer)
        started = time.perf_counter_ns()
        ctypes.memset(address, 1, FAULTS * mmap.PAGESIZE)
        elapsed = time.perf_counter_ns() - started
        del buffer
    return elapsed / FAULTS


def ns_per_thread() -> float:
    """Start and end of a thread, one after the other, nanoseconds each."""
    done = _thread.allocate_lock()

    def end() -> None:
        done.release()

    done.acquire()
    started = time.perf_counter_ns()
    for _ in range(THREADS):
        _thread.start_new_thread(end, ())
        done.acquire()
    return (time.perf_counter_ns() - started) / THREADS


def paired(work: Callable[[], float], load: Callable[[Loader], LoadedProbe]) -> tuple[float, float]:
    """Median without the probe and median difference with it, nanoseconds."""
    bare, extra = [], []
    for _ in range(PAIRS):
        with Loader() as loader, load(loader):
            loaded = work()
        without = work()
        bare.append(without)
        extra.append(loaded - without)
    return statistics.median(bare), statistics.median(extra)


def passes() -> list[str]:
    """What a pass costs: the first, which reads every stack, and later ones."""
    with (
        Loader() as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as sampler,
        sleepers(SLEEPERS, b"bench"),
    ):
        samples = [sampler.take() for _ in range(PASSES)]
    first, later = samples[0], samples[1:]
    median = statistics.median(sample.scan_seconds for sample in later)
    stacks = first.living.stacks()
    return [
        f"| first pass, {stacks:,} stacks, all read | {first.scan_seconds / stacks * 1e9:.0f} ns a"
        " stack |",
        f"| later passes, {later[0].living.reread} read again"
        f" | {median / stacks * 1e9:.0f} ns a stack, {median * 1000:.1f} ms |",
        f"| BPF maps, all | {first.bpf_memory_bytes / 1024:.0f} KiB |",
    ]


def main() -> None:
    print("page faults ...", file=sys.stderr)
    fault, fault_extra = paired(ns_per_fault, load_page_faults)
    print("threads ...", file=sys.stderr)
    thread, thread_extra = paired(ns_per_thread, load_lifecycle)
    print(f"{SLEEPERS} sleepers ...", file=sys.stderr)
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}; medians of {PAIRS} pairs.",
        "",
        "| what | cost |",
        "|---|---:|",
        f"| a page fault ({fault:.0f} ns without) | {fault_extra:+.0f} ns |",
        f"| a thread's start and end ({thread / 1000:.0f} us without)"
        f" | {thread_extra / 1000:+.1f} us |",
        *passes(),
    ]
    publish(Path(sys.argv[1]), "make bench, serve", lines)


if __name__ == "__main__":
    main()
