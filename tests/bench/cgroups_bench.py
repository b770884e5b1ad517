# SPDX-License-Identifier: GPL-2.0-or-later
"""What `serve` takes on a host with 10,000 cgroups that come and go.

Usage: python tests/bench/cgroups_bench.py docs/performance.md

3,500 of the cgroups hold a task each. Beside these, three a second are made that hold five
tasks, and live for 20 s: all the largest that the daemon names are new at nearly each scan.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import cgroups, host  # noqa: E402
from tests.bench.daemon_bench import Use, cpu_ns, take_memory  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.bench.soak import room_for_pids  # noqa: E402
from tests.live.test_serve import serving  # noqa: E402

CGROUPS, WITH_TASKS = 10_000, 3_500
PODS = 500  # the folders above them, as a node agent makes them
NEW_A_SECOND, TASKS_OF_NEW, LIFE_SECONDS = 3, 5, 20.0
SETTLE_SECONDS, MEASURED_SECONDS, SCRAPE_SECONDS = 20.0, 75.0, 15.0
CPU_LIMIT_PERCENT = 0.1  # of one core: what the issue sets
NAMED = re.compile(r'^dynstack_cgroup_stack_bytes\{cgroup="(?!other")', re.MULTILINE)


def identity(n: int) -> str:
    """Of a container; its first twelve digits are what the metrics show."""
    return hashlib.sha256(str(n).encode()).hexdigest()


class Tree:
    """Cgroups of this run, and their tasks."""

    def __init__(self) -> None:
        mount = cgroups.hierarchy().mount
        assert mount is not None
        self.mount = mount
        self.top = mount / "dynstack-bench.slice"
        self._tasks: dict[Path, list[int]] = {}

    def add(self, folder: Path, tasks: int = 0) -> None:
        folder.mkdir(parents=True)
        pids = self._tasks[folder] = []
        for _ in range(tasks):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            pids.append(pid)
            (folder / "cgroup.procs").write_text(str(pid))

    def end_tasks(self, folder: Path) -> None:
        for pid in self._tasks[folder]:
            os.kill(pid, signal.SIGKILL)
        for pid in self._tasks.pop(folder):
            os.waitpid(pid, 0)

    def remove(self, folder: Path) -> None:
        self.end_tasks(folder)
        folder.rmdir()

    def close(self) -> None:
        for folder in list(self._tasks):
            self.end_tasks(folder)
        for folder in sorted(self.top.rglob("*/"), reverse=True):
            folder.rmdir()
        self.top.rmdir()


@contextlib.contextmanager
def many_cgroups() -> Iterator[Tree]:
    tree = Tree()
    try:
        for n in range(CGROUPS - PODS):
            pod = tree.top / f"pod-{n % PODS:03}.slice"
            tree.add(pod / f"cri-containerd-{identity(n)}.scope", int(n < WITH_TASKS))
        yield tree
    finally:
        tree.close()


@dataclass
class Churn:
    """Cgroups that come and go, and what each scrape showed of it."""

    tree: Tree
    made: int = 0
    living: deque[tuple[float, Path]] = field(default_factory=deque)
    named: list[int] = field(default_factory=list)

    def step(self) -> None:
        """One second's worth."""
        for _ in range(NEW_A_SECOND):
            folder = self.tree.top / f"cri-containerd-{identity(CGROUPS + self.made)}.scope"
            self.tree.add(folder, TASKS_OF_NEW)
            self.living.append((time.monotonic(), folder))
            self.made += 1
        while time.monotonic() - self.living[0][0] > LIFE_SECONDS:
            self.tree.remove(self.living.popleft()[1])


@dataclass(frozen=True)
class Result:
    cpu_percent: float
    use: Use
    walk_seconds: float
    churn: Churn


def measure() -> Result:
    use = Use()
    with room_for_pids(), many_cgroups() as tree, serving() as daemon:
        pid, churn = daemon.process.pid, Churn(tree)
        began = time.monotonic()
        scrape_at, measured_from = began + SCRAPE_SECONDS, 0.0
        while (now := time.monotonic()) < began + SETTLE_SECONDS + MEASURED_SECONDS:
            churn.step()
            if not measured_from and now >= began + SETTLE_SECONDS:
                measured_from, before = now, cpu_ns(pid)
            if now >= scrape_at:
                churn.named.append(len(NAMED.findall(daemon.get("/metrics"))))
                scrape_at += SCRAPE_SECONDS
            time.sleep(max(0.0, now + 1 - time.monotonic()))
        percent = (cpu_ns(pid) - before) / (time.monotonic() - measured_from) / 1e7
        take_memory(use, pid)
        wanted = [folder.stat().st_ino for _, folder in churn.living]
        walk_began = time.thread_time()
        assert len(cgroups.paths_by_id(wanted)) == len(wanted)
        walk_seconds = time.thread_time() - walk_began
    return Result(percent, use, walk_seconds, churn)


def table(result: Result) -> list[str]:
    met = "met" if result.cpu_percent <= CPU_LIMIT_PERCENT else "NOT met"
    shown = ", ".join(map(str, result.churn.named))
    return [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}: {CGROUPS:,} cgroups, {WITH_TASKS:,} of them with a task;"
        f" {NEW_A_SECOND} a second come with {TASKS_OF_NEW} tasks and go after"
        f" {LIFE_SECONDS:g} s, {result.churn.made} in all.",
        "",
        "| `serve`, scraped every 15 s | at most | found | |",
        "|---|---:|---:|---|",
        f"| CPU in all, of one core | {CPU_LIMIT_PERCENT}% | {result.cpu_percent:.3f}% | {met} |",
        f"| RSS, PSS | | {result.use.rss_mb:.1f}, {result.use.pss_mb:.1f} MB | |",
        f"| cgroups named, of 20, at each scrape | | {shown} | |",
        "",
        f"One walk through the tree for these names would take {result.walk_seconds:.2f} s of CPU"
        " time.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", help="where to write the figures")
    arguments = parser.parse_args()
    # So that the cgroups and their tasks go, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("cgroups_bench: terminated"))
    lines = table(measure())
    if arguments.document:
        publish(arguments.document, "make bench, cgroups", lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
