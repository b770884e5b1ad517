# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what `estimate` costs and write it into docs/performance.md.

Usage: python tests/bench/estimate_bench.py docs/performance.md

Everything between the markers of that file is replaced. The scan and its yardstick are
timed in turns within one run, since machines are noisy: the ratio is what counts.
"""

from __future__ import annotations

import ctypes
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from dynstack_probe.kernel.btf import Btf  # noqa: E402
from dynstack_probe.kernel.offsets import probe_macros  # noqa: E402
from dynstack_probe.loader import Iterator, LoadedProbe, Loader, probes_dir  # noqa: E402
from dynstack_probe.measure.records import read_layout  # noqa: E402
from dynstack_probe.measure.stack_scan import read_iterator, take_frame  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.live.machine import sleepers  # noqa: E402

TASK_COUNTS = (100, 10_000, 30_000)
SCANS = 15
WHOLE_RUNS = 9
SYS_BPF, BPF_ITER_CREATE = 321, 33  # asm/unistd_64.h, linux/bpf.h


def create_iterator(link_fd: int) -> int:
    """One more scan of an attached iterator, bpf(2) BPF_ITER_CREATE."""
    attributes = (ctypes.c_uint32 * 2)(link_fd, 0)
    fd = ctypes.CDLL(None).syscall(SYS_BPF, BPF_ITER_CREATE, ctypes.byref(attributes), 8)
    assert fd >= 0
    return int(fd)


def load(source: Path, macros: Mapping[str, int]) -> LoadedProbe:
    with Loader() as loader:
        return loader.load(source, macros, [Iterator("tasks", "bpf_iter__task")])


def ns_per_task(probe: LoadedProbe, record_bytes: int) -> float:
    """One scan, in nanoseconds a task."""
    fd = create_iterator(probe.links["tasks"])
    started = time.perf_counter_ns()
    raw = read_iterator(fd)
    elapsed = time.perf_counter_ns() - started
    os.close(fd)
    return elapsed / (len(raw) // record_bytes)


def scan_costs() -> list[str]:
    """A row for each number of tasks: scan, plain copy and walk, medians in ns a task."""
    with Btf() as btf:
        macros = probe_macros(btf)
    pages = take_frame().host.thread_size_bytes // 4096 - 1
    record_bytes = read_layout(probes_dir() / "records.h", "stack_record").size_bytes
    copy_source = Path(__file__).with_name("copy_only.c")
    probes = {
        "scan": (load(probes_dir() / "stack_scan.c", macros), record_bytes),
        "copy": (load(copy_source, {**macros, "COPIED_PAGES": pages}), 4),
        "walk": (load(copy_source, {**macros, "COPIED_PAGES": 0}), 4),
    }
    rows = [
        "| tasks | scan, ns a task | plain copy, ns a task | scan / copy | walk alone |",
        "|---:|---:|---:|---:|---:|",
    ]
    for count in TASK_COUNTS:
        print(f"scanning {count} sleeping threads ...", file=sys.stderr)
        with sleepers(count, b"bench"):
            times: dict[str, list[float]] = {name: [] for name in probes}
            for _ in range(SCANS):
                for name, (probe, size) in probes.items():
                    times[name].append(ns_per_task(probe, size))
        ratio = statistics.median(a / b for a, b in zip(times["scan"], times["copy"], strict=True))
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append(
            f"| {count:,} | {medians['scan']:.0f} (best {min(times['scan']):.0f})"
            f" | {medians['copy']:.0f} (best {min(times['copy']):.0f}) | {ratio:.2f}"
            f" | {medians['walk']:.0f} |"
        )
    for probe, _ in probes.values():
        probe.close()
    return rows


STEPS = {
    "child start (Python, bcc)": r"child start ([\d.]+) s",
    "compile": r"compile ([\d.]+) s",
    "load": r"load ([\d.]+) s",
    "scan": r"scan ([\d.]+) s",
    "estimate and render": r"render ([\d.]+) s",
}


def whole_command() -> list[str]:
    """Wall time of `estimate` with 100 tasks more, its steps, and peak memory."""
    command = [sys.executable, "-m", "dynstack_probe", "estimate", "-v"]
    walls: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in STEPS}
    print(f"running estimate {WHOLE_RUNS} times ...", file=sys.stderr)
    with sleepers(100, b"bench"):
        for _ in range(WHOLE_RUNS):
            started = time.perf_counter()
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            walls.append(time.perf_counter() - started)
            for name, pattern in STEPS.items():
                steps[name].append(_figure(pattern, result.stderr))
    parent, child = _peaks(result.stderr)
    with sleepers(30_000, b"bench"):
        many = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    parent_many, _ = _peaks(many.stderr)
    rows = ["| step of `estimate` with 100 threads more | median, s | best, s |", "|---|---:|---:|"]
    rows.append(f"| **whole command** | **{statistics.median(walls):.2f}** | {min(walls):.2f} |")
    for name, values in steps.items():
        rows.append(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} |")
    rows += [
        "",
        "The parent's own start (Python, typer) and its reading of BTF overlap with the",
        "child's start; what is missing from the sum is process start and end.",
        "",
        "| peak RSS (VmHWM) | MB |",
        "|---|---:|",
        f"| parent, 100 threads more | {parent / 1024:.1f} |",
        f"| parent, 30,000 threads more | {parent_many / 1024:.1f} |",
        f"| child (gone before the scan begins) | {child / 1024:.1f} |",
    ]
    return rows


def _figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found.group(1))


def _peaks(text: str) -> tuple[float, float]:
    return _figure(r"peak (\d+) KiB", text), _figure(r"child peak (\d+) KiB", text)


def main() -> None:
    uname = os.uname()
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {uname.release}, Python {sys.version.split()[0]}; medians of {SCANS} scans in"
        f" turns and of {WHOLE_RUNS} runs.",
        "",
        *scan_costs(),
        "",
        *whole_command(),
    ]
    publish(Path(sys.argv[1]), "make bench, estimate", lines)


if __name__ == "__main__":
    main()
