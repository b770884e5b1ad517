# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what a scan of `serve` costs and write it into docs/performance.md.

Usage: python tests/bench/serve_bench.py docs/performance.md
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from dynstack_probe.loader import Loader  # noqa: E402
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.bench.soak import room_for_pids  # noqa: E402
from tests.live.machine import sleepers  # noqa: E402

SLEEPERS = (100, 30_000, 100_000)
THREADS_A_PROCESS = 25_000  # two mappings each, of which vm.max_map_count lets it have 65,530
SCANS = 9


def scans(count: int) -> str:
    """A row: what a scan costs, the first, which reads every stack, and later ones."""
    with (
        Loader() as loader,
        load_lifecycle(loader) as probe,
        Sampler(probe) as sampler,
        contextlib.ExitStack() as processes,
    ):
        for started in range(0, count, THREADS_A_PROCESS):
            threads = min(count - started, THREADS_A_PROCESS)
            processes.enter_context(sleepers(threads, b"bench"))
        samples = [sampler.take() for _ in range(SCANS)]
    first, later = samples[0], samples[1:]
    median = statistics.median(sample.scan_seconds for sample in later)
    stacks = first.living.stacks()
    return (
        f"| {stacks:,} | {first.scan_seconds * 1000:.0f} ms,"
        f" {first.scan_seconds / stacks * 1e9:.0f} ns a stack"
        f" | {median * 1000:.1f} ms, {median / stacks * 1e9:.0f} ns a stack"
        f" | {later[0].living.reread} | {first.bpf_memory_bytes / 1024:,.0f} KiB |"
    )


def main() -> None:
    rows = []
    with room_for_pids():
        for count in SLEEPERS:
            print(f"{count} sleepers ...", file=sys.stderr)
            rows.append(scans(count))
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}; later scans are the median of {SCANS - 1}.",
        "",
        "| stacks, nearly all asleep | first scan, all read | later scans | read again"
        " | BPF maps, all |",
        "|---:|---:|---:|---:|---:|",
        *rows,
    ]
    publish(Path(sys.argv[1]), "make bench, serve", lines)


if __name__ == "__main__":
    main()
