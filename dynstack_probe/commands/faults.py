# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe faults`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import Format, ended_by_signal, refuse_unused, seconds_of
from dynstack_probe.errors import ProbeError, UsageError

if TYPE_CHECKING:
    from dynstack_probe.faults.report import FaultReport
    from dynstack_probe.faults.reuse import Reuse
    from dynstack_probe.kernel.kallsyms import Symbols
    from dynstack_probe.loader import LoadedProbe
    from dynstack_probe.measure.call_paths import CallPaths, SampleCounters, Sampling
    from dynstack_probe.measure.faults import FaultWatch, StackFault

HELP = """Show which system calls and tasks grow their kernel stacks.

Watches every task until --duration is over or Ctrl-C. Each time a stack first uses a further
page, that is a crossing. Says who it was, in which system call, how deep and how old the
task was; then ranks the system calls. A kernel with grow-only stacks takes a fault for a
crossing unless the page came with a stack that an earlier task had: how many are faults and
how many reuse avoids is counted as `serve` counts it.

\b
  sudo dynstack-probe faults --duration 10s
  sudo dynstack-probe faults --duration 1m --format csv --output faults.csv
  sudo dynstack-probe faults -d 1m --rate 999 --deeper-than 3072 --flamegraph deep.svg

With --folded or --flamegraph it also samples which functions tasks are in while deeper
than --deeper-than; this needs CAP_SYSLOG too, for the functions' names.

It looks at each system call's end and so costs some 50 to 150 ns a call while it runs (measured
and printed at the end), nothing afterwards. What a page fault without I/O, a signal or
other work outside system calls grows, counts for the next call of its task. Without
files to write it drops all privileges once it has started.

Exit codes: 0 good, 1 failed, 2 usage, 3 this kernel can't be measured, 4 not permitted
(CAP_BPF and CAP_PERFMON are needed).
"""

READ_SECONDS = 0.25
PASS_SECONDS = 1.0
MAX_EVENTS = 100_000  # kept to be listed one by one: some 40 MB
RECENT = 8


class Watching:
    """What has been found so far."""

    def __init__(self, watch: FaultWatch, sampling: Sampling | None = None) -> None:
        from dynstack_probe.measure.call_paths import CallPaths
        from dynstack_probe.measure.faults import Ranking, Runs
        from dynstack_probe.measure.headroom import HeadroomSampler

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
        self._headroom = HeadroomSampler()

    def read(self) -> None:
        """Take over what the kernel has found."""
        if self.sampling is not None:
            for sample in self.sampling.read():
                self.paths.add(sample)
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

    def look_at_all(self) -> None:
        """Find what no system call's end has shown, and name new cgroups while they live."""
        from dynstack_probe.kernel import cgroups

        self.watch.look_at_all()
        self.read()
        if self._unnamed:
            found = cgroups.paths_by_id(self._unnamed)
            self.cgroup_paths |= {i: found.get(i, f"id:{i}") for i in self._unnamed}
            self._unnamed.clear()


@contextlib.contextmanager
def live_display(watching: Watching, duration: float | None) -> Iterator[Callable[[float], None]]:
    """A table that moves, on standard error if that is a terminal; else one line."""
    until = "until Ctrl-C" if duration is None else f"for {duration:g} s"
    if not sys.stderr.isatty():
        from dynstack_probe.text import say

        say(f"dynstack-probe: watching {until}")
        yield lambda elapsed: None
        return
    from rich.console import Console
    from rich.live import Live

    from dynstack_probe.faults.report import live

    def picture(elapsed: float) -> object:
        of = "" if duration is None else f" of {duration:g}"
        status = f"{elapsed:.0f}{of} s, {len(watching.events)} crossings; Ctrl-C ends it"
        calls = watching.ranking.ranked()
        return live(calls, list(watching.recent), watching.cgroup_paths, status)

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False, transient=True) as display:
        yield lambda elapsed: display.update(picture(elapsed), refresh=True)  # type: ignore[arg-type]


def watch_for(watching: Watching, duration: float | None) -> float:
    """Watch until the time is over or a signal comes; returns the seconds that it took."""
    started = next_pass = time.monotonic()
    end = float("inf") if duration is None else started + duration
    with ended_by_signal(worthwhile=True) as ended, live_display(watching, duration) as show:
        now = started
        while now < end and not ended.is_set():
            time.sleep(min(READ_SECONDS, max(0.0, end - now)))
            now = time.monotonic()
            if now >= next_pass + PASS_SECONDS:
                watching.look_at_all()
                next_pass = now
            else:
                watching.read()
            show(now - started)
        watching.look_at_all()
    return time.monotonic() - started


def make_report(
    watching: Watching, seconds: float, caveats: list[str], reuse: Reuse | None
) -> FaultReport:
    """The end of a watch: detaches the probe."""
    from dynstack_probe.faults.report import FaultReport
    from dynstack_probe.kernel import host

    counters = watching.watch.counters()
    return FaultReport(
        cpu_model=host.cpu_model(),
        cpus=host.online_cpus(),
        kernel_release=os.uname().release,
        seconds=seconds,
        calls=watching.ranking.ranked(),
        events=watching.events,
        events_left_out=watching.left_out,
        counters=counters,
        cost=watching.watch.end(),
        cgroup_paths=watching.cgroup_paths,
        caveats=caveats,
        reuse=reuse,
        paths=watching.paths,
        samples=None if watching.sampling is None else watching.sampling.counters(),
        runs=watching.runs,
        by_clock=watching.sampling is None or watching.sampling.by_clock,
    )


def render(report: FaultReport, form: Format) -> str:
    """The report in the form asked for."""
    from dynstack_probe.faults import report as faults

    if form is Format.json:
        return faults.render_json(report)
    if form is Format.csv:
        return faults.render_csv(report)
    return faults.render_table(report)


@dataclass(frozen=True)
class PathOptions:
    """What was asked for of call paths."""

    folded: Path | None
    flamegraph: Path | None
    rate_hz: int
    deeper_than: int
    force: bool

    @property
    def wanted(self) -> bool:
        """Whether there is anything to sample for."""
        return self.folded is not None or self.flamegraph is not None

    def check(self) -> None:
        """Raise UsageError before any work."""
        from dynstack_probe.output.writing import check_writable

        if self.flamegraph and self.flamegraph.suffix not in (".svg", ".html"):
            raise UsageError("--flamegraph must name a .svg or .html file")
        if not 1 <= self.rate_hz <= 10_000:
            raise UsageError("--rate must be 1 to 10000 samples a second")
        if self.deeper_than < 0:
            raise UsageError("--deeper-than must be 0 bytes or more")
        check_writable(self.folded, self.force)
        check_writable(self.flamegraph, self.force)

    def write(self, paths: CallPaths, samples: SampleCounters) -> None:
        """The files asked for."""
        from dynstack_probe.faults import flamegraph, folded
        from dynstack_probe.output.writing import write

        if self.folded is not None:
            write(folded.render(paths), self.folded, self.force)
        if self.flamegraph is not None:
            title = (
                f"Kernel stacks deeper than {self.deeper_than} bytes on"
                f" {os.uname().nodename}: {samples.deep} of {samples.in_kernel} samples in"
                f" the kernel, {self.rate_hz} Hz"
            )
            is_svg = self.flamegraph.suffix == ".svg"
            picture = (flamegraph.render_svg if is_svg else flamegraph.render_html)(paths, title)
            write(picture, self.flamegraph, self.force)


@contextlib.contextmanager
def sampling_of(options: PathOptions, btf: Path) -> Iterator[Sampling | None]:
    """Samples, if they are wanted, while it is open."""
    if not options.wanted:
        yield None
        return
    from dynstack_probe.kernel.kallsyms import read_symbols
    from dynstack_probe.loader import Loader
    from dynstack_probe.measure.call_paths import Sampling, load_call_paths

    with Loader() as loader:
        symbols: Symbols = read_symbols()  # while the child starts
        with (
            load_call_paths(
                loader,
                rate_hz=options.rate_hz,
                deeper_than=options.deeper_than,
                btf_path=btf,
            ) as probe,
            Sampling(probe, symbols) as sampling,
        ):
            yield sampling


def drop_what_is_not_needed(probe: LoadedProbe, files: Sequence[Path | None]) -> None:
    """Give up all privileges, unless some are needed to write files or to read on."""
    from dynstack_probe.kernel.privileges import drop_privileges, may_iterate_without_privileges

    if not any(files) and may_iterate_without_privileges(probe.links.values()):
        drop_privileges()


def command(
    context: typer.Context,
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None, "--duration", "-d", metavar="TIME", help="30s, 10m or 2h.  [default: until Ctrl-C]"
    ),
    form: Format = options.FORMAT,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    folded: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--folded", help="Write sampled call paths here, for flame-graph tools."
    ),
    flamegraph: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--flamegraph", help="Write a flame graph of them here: .svg or .html."
    ),
    rate: int = typer.Option(99, "--rate", metavar="HZ", help="Samples a second of each CPU."),
    deeper_than: int = typer.Option(
        4096, "--deeper-than", metavar="BYTES", help="Keep samples of stacks deeper than this."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite files that exist."),
    btf: Path = options.BTF,
) -> None:
    """Run HELP's command."""
    from dynstack_probe.output.writing import check_writable, write

    wanted_seconds = None if duration is None else seconds_of(duration, "--duration")
    check_writable(output, force)
    paths = PathOptions(folded, flamegraph, rate, deeper_than, force)
    paths.check()
    if not paths.wanted:
        unused = ["rate", "deeper_than"]
        refuse_unused(context, unused, "for call paths: give --folded or --flamegraph too")
    if not (output or paths.wanted):
        refuse_unused(context, ["force"], "for files: give --output, --folded or --flamegraph too")

    from dynstack_probe.faults import reuse
    from dynstack_probe.loader import Loader
    from dynstack_probe.measure.faults import FaultWatch, caveats, load_faults

    with (
        Loader() as loader,
        load_faults(loader, btf_path=btf) as probe,
        FaultWatch(probe) as watch,
        sampling_of(paths, btf) as sampling,
        reuse.watched(btf) as sampler,
    ):
        known_caveats = caveats(probe)
        drop_what_is_not_needed(probe, (output, folded, flamegraph))
        watch.begin()
        reused = reuse.ReuseWatch(sampler) if sampler else None
        watching = Watching(watch, sampling)
        try:
            seconds = watch_for(watching, wanted_seconds)
        except OSError as error:
            raise ProbeError(f"the watch broke off: {error.strerror}") from error
        report = make_report(watching, seconds, known_caveats, reused.end() if reused else None)
    write(render(report, form), output, force)
    if report.samples is not None:
        paths.write(report.paths, report.samples)
