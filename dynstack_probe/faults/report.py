# SPDX-License-Identifier: GPL-2.0-or-later
"""`faults` as text, JSON and CSV: who first used a further page of a stack, and in what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dynstack_probe.analysis.safety import shares
from dynstack_probe.faults.reuse import Reuse
from dynstack_probe.measure.call_paths import CallPaths, PathTally, SampleCounters
from dynstack_probe.measure.contexts import Context
from dynstack_probe.measure.faults import CallTally, Counters, Runs, StackFault, WatchCost
from dynstack_probe.model.host import PAGE_KIB
from dynstack_probe.output.columns import Column, as_dict, cells, csv_text, json_text, titles
from dynstack_probe.output.cost import contexts_in_words
from dynstack_probe.output.tables import Cell, console_for_stdout, facts, plain, shown
from dynstack_probe.text import counted, duration, percent, printable

CALLS_SHOWN = 15
TASKS_SHOWN = 10
RECENT_SHOWN = 8
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class FaultReport:
    """A finished watch. `events` are the crossings one by one; events_left_out were too many.

    cgroup_paths names those cgroups that were still there when they were looked up.
    """

    cpu_model: str
    cpus: int
    kernel_release: str
    seconds: float
    calls: Sequence[CallTally]
    events: Sequence[StackFault]
    events_left_out: int
    counters: Counters
    cost: WatchCost
    cgroup_paths: Mapping[int, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()
    paths: CallPaths = field(default_factory=CallPaths)
    samples: SampleCounters | None = None
    reuse: Reuse | None = None
    runs: Runs = field(default_factory=Runs)
    by_clock: bool = True

    def total(self, name: str) -> int:
        return sum(getattr(call, name) for call in self.calls)

    @property
    def cpu_seconds(self) -> float:
        """CPU time that the watch took: system calls and scans."""
        return self.counters.syscalls * self.cost.ns_per_syscall / 1e9 + self.cost.scan_seconds

    @property
    def cpu_ratio(self) -> float:
        """That as a share of all CPUs' time."""
        return self.cpu_seconds / max(1e-9, self.seconds * self.cpus)


def _cgroup(cgroup_id: int, paths: Mapping[int, str]) -> str:
    """Its path, or its id where it is gone."""
    return paths.get(cgroup_id, f"id:{cgroup_id}")


def _event_columns(paths: Mapping[int, str]) -> tuple[Column[StackFault], ...]:
    """Of a crossing, in JSON and CSV."""
    return (
        Column("tid", lambda event: event.tid),
        Column("tgid", lambda event: event.tgid),
        Column("comm", lambda event: event.comm),
        Column("cgroup", lambda event: _cgroup(event.cgroup_id, paths)),
        Column("call", lambda event: event.call),
        Column("context", lambda event: event.context.name.lower()),
        Column("found", lambda event: "by scan" if event.late else "exact"),
        Column("mark_bytes", lambda event: event.mark_bytes),
        Column("pages_before", lambda event: event.pages_before),
        Column("pages", lambda event: event.pages, modelled=True),
        Column("faults", lambda event: event.faults, modelled=True),
        Column("age_seconds", lambda event: round(event.age_seconds, 6)),
        Column(
            "headroom_kib",
            lambda event: None if event.headroom_pages is None else event.headroom_pages * PAGE_KIB,
        ),
    )


# In tables the name and the task stand apart from the figures.
CALL: tuple[Column[CallTally], ...] = (
    Column("name", lambda call: call.name),
    Column("crossings", lambda call: call.events),
    Column("late", lambda call: call.late),
    Column("faults", lambda call: call.faults, "Faults", modelled=True),
    Column("pages", lambda call: call.pages, "Pages", modelled=True),
    Column("deepest_bytes", lambda call: call.deepest_bytes, "Deepest, bytes"),
    Column("deepest_comm", lambda call: call.deepest_comm),
    Column("tasks", lambda call: [{"comm": c, "faults": n} for c, n in _ranked(call.tasks)]),
)


def _ranked(counts: Mapping[bytes, int]) -> list[tuple[bytes, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _table(title: str, numbers: Sequence[str], last: str, rows: Iterable[Sequence[Cell]]) -> Table:
    """Truncates the first and last column where a line is too long, never a figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=min(20, len(title)))
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    return table


def calls_table(calls: Sequence[CallTally], most: int = CALLS_SHOWN) -> Table:
    rows: list[Sequence[Cell]] = [
        (call.name, *cells(CALL, call), call.deepest_comm) for call in calls[:most]
    ]
    rest = calls[most:]
    if rest:
        summed = CallTally(
            name=f"... {len(rest)} more",
            faults=sum(call.faults for call in rest),
            pages=sum(call.pages for call in rest),
            deepest_bytes=max(call.deepest_bytes for call in rest),
        )
        rows.append((summed.name, *cells(CALL, summed), ""))
    return _table("System call", titles(CALL), "deepest by", rows)


def _events_table(title: str, events: Sequence[StackFault], paths: Mapping[int, str]) -> Table:
    rows = [
        (
            event.comm,
            str(event.tid),
            event.call,
            str(event.mark_bytes),
            duration(event.age_seconds),
            _cgroup(event.cgroup_id, paths),
        )
        for event in events
    ]
    return _table(title, ("tid", "in", "bytes", "age"), "cgroup", rows)


def _tasks_table(calls: Sequence[CallTally]) -> Table:
    faults: Counter[bytes] = Counter()
    most: dict[bytes, tuple[int, str]] = {}
    for call in calls:
        faults.update(call.tasks)
        for comm, count in call.tasks.items():
            most[comm] = max(most.get(comm, (0, "")), (count, call.name))
    ranked = _ranked(faults)
    rows: list[Sequence[Cell]] = [
        (comm, str(count), most[comm][1]) for comm, count in ranked[:TASKS_SHOWN]
    ]
    rest = ranked[TASKS_SHOWN:]
    if rest:
        rows.append((f"... {len(rest)} more", str(sum(count for _, count in rest)), ""))
    return _table("Task name", ("Faults",), "mostly in", rows)


def _path_table(path: PathTally) -> Table:
    """The deepest moment that was sampled, function by function."""
    sample = path.deepest
    rows = []
    reached = 0
    for frame in sample.frames:
        own = "?" if frame.depth_bytes is None else str(frame.depth_bytes - reached)
        reached = reached if frame.depth_bytes is None else frame.depth_bytes
        depth = "?" if frame.depth_bytes is None else str(frame.depth_bytes)
        rows.append((frame.function, own, depth, ""))
    title = f"Deepest sample: {printable(sample.comm)} in {sample.call}"
    return _table(title, ("own bytes", "depth"), "", rows)


def live(
    calls: Sequence[CallTally], recent: Sequence[StackFault], paths: Mapping[int, str], status: str
) -> Group:
    """What is shown while it runs."""
    return Group(
        Text(status, style="bold"),
        Text(""),
        calls_table(calls, 10),
        Text(""),
        _events_table("Latest", recent[-RECENT_SHOWN:], paths),
    )


def _facts(report: FaultReport) -> Iterable[tuple[str, str]]:
    counters, cost = report.counters, report.cost
    events, late = report.total("events"), report.total("late")
    yield (
        "Host",
        f"{report.cpu_model}, {counted(report.cpus, 'CPU')}, Linux {report.kernel_release}",
    )
    yield (
        "Found",
        f"{events} crossings onto {report.total('pages')} pages in {report.seconds:.1f} s, each"
        " used by its task for the first time",
    )
    if report.reuse is not None:
        reuse = report.reuse
        yield (
            "Faults",
            f"{reuse.faults} for {reuse.fault_pages} pages under rfc-v1, modelled; reuse of grown"
            f" stacks avoids {reuse.avoided_pages} pages of the {reuse.crossed_pages} that the"
            " lifecycle probe counted meanwhile",
        )
    yield (
        "Exactness",
        f"{events - late} of {events} crossings were seen at the end of the call that"
        f" crossed; {late} by the next scan, in the call that the task was then in",
    )
    missing = [
        (counters.lost, "did not fit into the ring buffer"),
        (counters.untracked, "belong to stacks that could not be followed"),
        (counters.unread, "could not be read"),
        (report.events_left_out, "are counted above but not listed"),
    ]
    for count, what in missing:
        if count:
            yield "Missing", f"{count} {what}"
    yield (
        "Cost",
        f"{cost.ns_per_syscall:.0f} ns a system call ({counters.syscalls} of them) and"
        f" {cost.scans} scans of all tasks in {cost.scan_seconds * 1000:.1f} ms:"
        f" {percent(report.cpu_ratio)} of all CPU time while it ran, none from now on",
    )
    if report.events:
        yield "Headroom", _headroom(report)
        runs = report.runs
        yield (
            "Reserve",
            f"{runs.most_pages} pages at most between two context switches of a task;"
            f" {runs.in_same_run} crossings came in the same run as the one before",
        )
    if report.paths.contexts:
        yield (
            "Contexts",
            contexts_in_words(report.paths.contexts, "that deep", by_clock=report.by_clock),
        )
    if report.samples is not None:
        taken, in_kernel, deep, lost, elsewhere = report.samples
        yield (
            "Samples",
            f"{taken} taken, {in_kernel} in the kernel, {elsewhere} on a"
            f" stack of the CPU's own; {deep} deep enough,"
            f" on {len(report.paths.paths)} paths; {lost + report.paths.left_out} lost",
        )
    for caveat in report.caveats:
        yield "Note", caveat


def _contexts_table(paths: CallPaths) -> Table:
    """Deep samples by call, and the share of each that preemption or more was off in."""
    by_call: dict[str, Counter[Context]] = {}
    for (_, call, _), tally in paths.paths.items():
        by_call.setdefault(call, Counter()).update(tally.contexts)
    ordered = sorted(by_call.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    rows = []
    for call, contexts in ordered[:CALLS_SHOWN]:
        told = shares(contexts)
        free = told.pop(Context.PREEMPTIBLE.value, 0.0)
        rest = ", ".join(f"{percent(share)} {name}" for name, share in told.items())
        rows.append((call, str(contexts.total()), percent(free), rest))
    return _table("Deep in", ("samples", "preemptible"), "else", rows)


def _headroom(report: FaultReport) -> str:
    known = [e.headroom_pages for e in report.events if e.headroom_pages is not None]
    if not known:
        return "was not sampled"
    at_zero = sum(1 for pages in known if not pages)
    return (
        f"measured: {min(known) * PAGE_KIB} KiB free above the minimum watermarks at least when a"
        f" crossing was read; none at {at_zero} of {len(known)} crossings"
    )


def as_table(report: FaultReport) -> str:
    """At most 80 columns."""
    console = console_for_stdout()
    if report.calls:
        console.print(calls_table(report.calls))
        console.print()
        console.print(_tasks_table(report.calls))
        console.print()
        deepest = sorted(report.events, key=lambda event: -event.mark_bytes)[:TASKS_SHOWN]
        console.print(_events_table("Deepest", deepest, report.cgroup_paths))
    else:
        console.print(Text("No stack used a page that it had not used before."))
    if report.paths.paths:
        console.print()
        console.print(_contexts_table(report.paths))
        console.print()
        console.print(_path_table(report.paths.deepest_first()[0]))
    console.print()
    console.print(facts(_facts(report)))
    return plain(console)


def _path(path: PathTally) -> dict[str, Any]:
    sample = path.deepest
    return {
        "comm": sample.comm,
        "call": sample.call,
        "samples": path.samples,
        "deepest_bytes": sample.depth_bytes,
        "contexts": shares(path.contexts),
        "frames": [
            {"function": frame.function, "depth_bytes": frame.depth_bytes}
            for frame in sample.frames
        ],
    }


def document(report: FaultReport) -> dict[str, Any]:
    cost, counters = report.cost, report.counters
    events = _event_columns(report.cgroup_paths)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "host": {
            "cpu_model": report.cpu_model,
            "cpus": report.cpus,
            "kernel_release": report.kernel_release,
        },
        "seconds": report.seconds,
        "found": {
            "crossings": report.total("events"),
            "late": report.total("late"),
            "faults": report.total("faults"),
            "pages": report.total("pages"),
            "lost": counters.lost,
            "untracked": counters.untracked,
            "unreadable": counters.unread,
            "not_listed": report.events_left_out,
        },
        "rfc_v1": None
        if report.reuse is None
        else {**asdict(report.reuse), "crossed_pages": report.reuse.crossed_pages},
        "reserve": {
            "most_pages_in_a_run": report.runs.most_pages,
            "crossings_in_same_run": report.runs.in_same_run,
        },
        "caveats": list(report.caveats),
        "calls": [as_dict(CALL, call) for call in report.calls],
        "crossings": [as_dict(events, event) for event in report.events],
        "cost": {
            "ns_per_syscall": cost.ns_per_syscall,
            "syscalls": counters.syscalls,
            "passes": cost.scans,
            "pass_seconds": cost.scan_seconds,
            "cpu_seconds": report.cpu_seconds,
            "cpu_ratio": report.cpu_ratio,
        },
    }
    if report.samples is not None:
        result["samples"] = {**report.samples._asdict(), "not_kept": report.paths.left_out}
        result["contexts"] = shares(report.paths.contexts)
        result["paths"] = [_path(path) for path in report.paths.deepest_first()]
    return result


def as_json(report: FaultReport) -> str:
    """schema_version 1. Fields are added, never renamed."""
    return json_text(document(report))


def as_csv(report: FaultReport) -> str:
    return csv_text(_event_columns(report.cgroup_paths), report.events)
