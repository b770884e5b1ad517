# SPDX-License-Identifier: GPL-2.0-or-later
"""Independent counters over exactly the seconds of a recording.

The kernel's own, perf's, and a bpftrace program. None is the tool's: its figures are checked
against them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

PERIOD_SECONDS = 0.1
# Of the whole host since boot: name here, file, line there.
KERNEL = {
    "created": ("/proc/stat", "processes"),  # all clones, threads too: kernel/fork.c, total_forks
    "context_switches": ("/proc/stat", "ctxt"),
    "page_faults": ("/proc/vmstat", "pgfault"),
}
PERF = {
    "created": "task:task_newtask",
    "user": "page-faults:u",
    "kernel": "page-faults:k",
}
BUSY_SECONDS, OWN_SECONDS = "busy_seconds", "own_seconds"
BPFTRACE = {"exits": "@exits", "second": "@second"}
SECOND_PAGE = Path(__file__).with_name("second_page.bt")
START_TIMEOUT_SECONDS = 60

Points = list[tuple[float, float]]


class Beside:
    """Reads them ten times a second while it is open; entered, all of them count."""

    def __init__(self, cgroup: Path | None = None) -> None:
        """cgroup: whose CPU time is told beside that of all."""
        self._cgroup = cgroup
        self.counts: dict[str, dict[str, Points]] = {
            "kernel": {name: [] for name in (*KERNEL, BUSY_SECONDS, OWN_SECONDS)},
            "perf": {name: [] for name in PERF},
            "bpftrace": {name: [] for name in BPFTRACE},
        }
        self._stop = threading.Event()
        self._processes: list[subprocess.Popen[str]] = []
        self._threads = [threading.Thread(target=self._read_kernel)]

    def __enter__(self) -> Self:
        if shutil.which("perf") is not None:
            events = [word for event in PERF.values() for word in ("-e", event)]
            period = str(round(1000 * PERIOD_SECONDS))
            self._begin(["perf", "stat", "-a", "-I", period, "-x", ";", *events], self._read_perf)
        if shutil.which("bpftrace") is not None:
            self._begin(["bpftrace", str(SECOND_PAGE)], self._read_bpftrace)
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < end and not all(self._begun()):
            time.sleep(PERIOD_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(3 * PERIOD_SECONDS)  # a read of each after all that happened meanwhile
        self._stop.set()
        for process in self._processes:
            process.terminate()
            process.wait()
        for thread in self._threads:
            thread.join()

    def between(self, first: float, last: float) -> dict[str, dict[str, float]]:
        """How much each rose from one moment to another, in seconds of CLOCK_BOOTTIME.

        What was not counted all that time is left out.
        """
        return {
            source: {
                name: at(points, last) - at(points, first)
                for name, points in counts.items()
                if points and points[0][0] <= first and last <= points[-1][0]
            }
            for source, counts in self.counts.items()
        }

    def _begin(self, command: list[str], reader: Callable[[subprocess.Popen[str]], None]) -> None:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._processes.append(process)
        self._threads.append(threading.Thread(target=reader, args=(process,)))

    def _begun(self) -> Iterator[bool]:
        """Of each that runs."""
        for process, thread in zip(self._processes, self._threads[1:], strict=True):
            source = "perf" if process.args[0] == "perf" else "bpftrace"  # type: ignore[index]
            yield not thread.is_alive() or any(map(len, self.counts[source].values()))

    def _read_kernel(self) -> None:
        while not self._stop.is_set():
            texts = {file: Path(file).read_text() for file, _ in KERNEL.values()}
            now = boot_seconds()
            for name, (file, line) in KERNEL.items():
                found = re.search(rf"^{line} (\d+)", texts[file], re.MULTILINE)
                if found:
                    self.counts["kernel"][name].append((now, float(found[1])))
            self.counts["kernel"][BUSY_SECONDS].append((now, _busy_seconds(texts["/proc/stat"])))
            if self._cgroup is not None:
                self.counts["kernel"][OWN_SECONDS].append((now, used_seconds(self._cgroup)))
            self._stop.wait(PERIOD_SECONDS)

    def _read_perf(self, process: subprocess.Popen[str]) -> None:
        """Lines are 'seconds since its start;count;;event;...', count being of one period.

        Its start is where a line came soonest after the time it tells.
        """
        assert process.stdout is not None
        totals = dict.fromkeys(PERF, 0.0)
        started = float("inf")
        for line in process.stdout:
            fields = line.split(";")
            with contextlib.suppress(ValueError, IndexError):
                told, count = float(fields[0]), float(fields[1])
                started = min(started, boot_seconds() - told)
                for name, event in PERF.items():
                    if fields[3] == event:
                        totals[name] += count
                        self.counts["perf"][name].append((told, totals[name]))
        for name, points in self.counts["perf"].items():
            self.counts["perf"][name] = [(started + told, total) for told, total in points]

    def _read_bpftrace(self, process: subprocess.Popen[str]) -> None:
        """'at NANOSECONDS' since boot, and then each count so far but those that are zero."""
        assert process.stdout is not None
        told: float | None = None
        names = {there: here for here, there in BPFTRACE.items()}
        seen = dict.fromkeys(BPFTRACE, 0.0)
        for line in process.stdout:
            word, _, value = line.strip().partition(" ")
            with contextlib.suppress(ValueError):
                if word == "at":
                    self._note(told, seen)
                    told = int(value) / 1e9
                elif word.rstrip(":") in names and told is not None:
                    seen[names[word.rstrip(":")]] = float(value)
        # what it prints as it ends belongs to no moment

    def _note(self, told: float | None, seen: dict[str, float]) -> None:
        if told is not None:
            for name, count in seen.items():
                self.counts["bpftrace"][name].append((told, count))


def _busy_seconds(stat: str) -> float:
    """CPU time of all that ran, and of what a hypervisor took, since boot."""
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def used_seconds(cgroup: Path) -> float:
    """CPU time of all that ever ran in this cgroup v2; each has this file, whatever is enabled."""
    found = re.search(r"^usage_usec (\d+)", (cgroup / "cpu.stat").read_text(), re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0


def at(points: Points, moment: float) -> float:
    """A rising count at a moment, in a line between the reads before and after it."""
    after = bisect_left(points, (moment,))
    if after == len(points):
        return points[-1][1]
    (late, high), (soon, low) = points[after], points[max(0, after - 1)]
    if late == soon:
        return high
    return low + (high - low) * (moment - soon) / (late - soon)


def boot_seconds() -> float:
    """Now, in a frame's clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
