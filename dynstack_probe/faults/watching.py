# SPDX-License-Identifier: GPL-2.0-or-later
"""Watch crossings until the duration ends or a signal arrives, and report them."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from dynstack_probe.ending import ended_by_signal
from dynstack_probe.errors import ProbeError
from dynstack_probe.faults import reuse
from dynstack_probe.faults.report import FaultReport, live
from dynstack_probe.faults.sampling import PathOptions, sampling_of
from dynstack_probe.kernel import cgroups, host
from dynstack_probe.kernel.privileges import drop_privileges, may_iterate_without_privileges
from dynstack_probe.loader import Loader
from dynstack_probe.measure.call_paths import CallPaths, SampleCounters, Sampling
from dynstack_probe.measure.faults import (
    FaultWatch,
    Ranking,
    Runs,
    StackFault,
    caveats,
    load_faults,
)
from dynstack_probe.measure.headroom import HeadroomSampler
from dynstack_probe.text import tell

READ_SECONDS = 0.25
SCAN_SECONDS = 1.0
MAX_EVENTS = 100_000  # kept to be listed one by one: some 40 MB
RECENT = 8


class Watching:
    def __init__(self, watch: FaultWatch, sampling: Sampling | None) -> None:
        self.watch = watch
        self.sampling = sampling
        self.paths = CallPaths()
        self.ranking = Ranking()
        self.events: list[StackFault] = []
        self.left_out = 0
        self.recent: deque[StackFault] = deque(maxlen=RECENT)
        self.cgroup_paths: dict[int, str] = {}
        self._unnamed: set[int] = set()
        self.runs = Runs()
        self._headroom = HeadroomSampler(limits=False)

    def read(self) -> None:
        """Drain the events and samples that the kernel has recorded."""
        self._read_samples()
        found = self.watch.read()
        pages = self._headroom.sample() if found else None
        for seen in found:
            fault = replace(seen, headroom_pages=pages)
            self.ranking.add(fault)
            self.runs.add(fault)
            self.recent.append(fault)
            if fault.cgroup_id not in self.cgroup_paths:
                self._unnamed.add(fault.cgroup_id)
            if len(self.events) < MAX_EVENTS:
                self.events.append(fault)
            else:
                self.left_out += 1

    def _read_samples(self) -> None:
        if self.sampling is not None:
            for sample in self.sampling.read():
                self.paths.add(sample)

    def _sample_counters(self) -> SampleCounters | None:
        """Of the samples that were read and those that were lost: sampling goes on meanwhile."""
        if self.sampling is None:
            return None
        self._read_samples()
        counters = self.sampling.counters()
        return counters._replace(deep=self.paths.contexts.total() + counters.lost)

    def scan_all_tasks(self) -> None:
        """Find what no system call's end has shown, and name new cgroups while they live."""
        self.watch.scan_all_tasks()
        self.read()
        if self._unnamed:
            found = cgroups.paths_by_id(self._unnamed)
            self.cgroup_paths |= {i: found.get(i, f"id:{i}") for i in self._unnamed}
            self._unnamed.clear()

    def report(self, seconds: float, known_caveats: list[str]) -> FaultReport:
        """All that was found; detaches the probe."""
        sampling = self.sampling
        return FaultReport(
            cpu_model=host.cpu_model(),
            cpus=host.online_cpus(),
            kernel_release=os.uname().release,
            seconds=seconds,
            calls=self.ranking.ranked(),
            events=self.events,
            events_left_out=self.left_out,
            counters=self.watch.counters(),
            cost=self.watch.end(),
            cgroup_paths=self.cgroup_paths,
            caveats=known_caveats,
            paths=self.paths,
            samples=self._sample_counters(),
            runs=self.runs,
            by_clock=sampling is None or sampling.by_clock,
        )


def watch_faults(
    duration_seconds: float | None, paths: PathOptions, btf: Path, *, keep_privileges: bool
) -> FaultReport:
    """Watch this host for so long, or until Ctrl-C.

    All privileges are dropped once it has started, unless they are needed to write files
    or, before Linux 5.19, to read on. Raises ProbeError and its kinds.
    """
    with (
        Loader() as loader,
        load_faults(loader, btf_path=btf) as probe,
        FaultWatch(probe) as watch,
        sampling_of(paths, btf) as sampling,
        reuse.watched(btf) as sampler,
    ):
        known_caveats = caveats(probe)
        if not keep_privileges and may_iterate_without_privileges(probe.links.values()):
            drop_privileges()
        watch.begin()
        reused = reuse.ReuseWatch(sampler) if sampler else None
        watching = Watching(watch, sampling)
        try:
            seconds = _watch_for(watching, duration_seconds)
        except OSError as error:
            raise ProbeError(f"the watch failed: {error.strerror}") from error
        report = watching.report(seconds, known_caveats)
        return replace(report, reuse=reused.end()) if reused else report


def _watch_for(watching: Watching, duration: float | None) -> float:
    """Returns the seconds that it took."""
    started = next_scan = time.monotonic()
    end = float("inf") if duration is None else started + duration
    with ended_by_signal(worthwhile=True) as ended, _display(watching, duration) as show:
        now = started
        while now < end and not ended.is_set():
            time.sleep(min(READ_SECONDS, max(0.0, end - now)))
            now = time.monotonic()
            if now >= next_scan + SCAN_SECONDS:
                watching.scan_all_tasks()
                next_scan = now
            else:
                watching.read()
            show(now - started)
        watching.scan_all_tasks()
    return time.monotonic() - started


@contextlib.contextmanager
def _display(watching: Watching, duration: float | None) -> Iterator[Callable[[float], None]]:
    """A live table on standard error if that is a terminal; else one line."""
    if not sys.stderr.isatty():
        until = "until Ctrl-C" if duration is None else f"for {duration:g} s"
        tell(f"watching {until}")
        yield lambda elapsed: None
        return
    of = "" if duration is None else f" of {duration:g}"
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False, transient=True) as display:

        def show(elapsed: float) -> None:
            status = f"{elapsed:.0f}{of} s, {len(watching.events)} crossings; Ctrl-C ends it"
            calls, recent = watching.ranking.ranked(), list(watching.recent)
            display.update(live(calls, recent, watching.cgroup_paths, status), refresh=True)

        yield show
