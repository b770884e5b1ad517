# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate` as text: the RFC's table with this host on top, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.analysis.host_estimate import (
    DepthDetails,
    HostEstimate,
    kernel_and_user,
    totals_of,
)
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import frames
from dynstack_probe.output.columns import cells, titles
from dynstack_probe.output.estimate import GROUP
from dynstack_probe.output.rfc_table import QUOTED
from dynstack_probe.output.savings import RFC, memory_in_words, reserve_in_words, series_rows
from dynstack_probe.output.tables import Cell, console_for_stdout, facts, grid, plain, shown
from dynstack_probe.policy import HEADLINE
from dynstack_probe.text import counted

GROUPS_SHOWN = 15
DEEPEST_SHOWN = 5
SHIFTS_SHOWN_BYTES = 256


def quoted_rows() -> list[tuple[str, ...]]:
    return [(f"{row.cpu} (quoted)", *map(str, row[1:])) for row in QUOTED]


def rfc_row(name: str, cpus: int, savings: Savings) -> tuple[str, ...]:
    return (name, str(cpus), *cells(RFC, savings))


RFC_COLUMNS = ("CPU", "#Cores", *titles(RFC))


def _headline(report: HostEstimate) -> Table:
    host = report.frame.host
    rows: list[Sequence[Cell]] = []
    for estimate in report.estimates:
        label = f"{report.source}: {host.cpu_model}"
        if len(report.estimates) > 1 or estimate.policy != HEADLINE:
            label = f"{report.source}, {estimate.policy}"
        *figures, saving = cells(RFC, estimate)
        rows.append(
            (
                shown(label, "bold"),
                str(host.cpus),
                *figures,
                shown(saving, "bold green"),
            )
        )
    rows += [(shown(name, "dim"), *figures) for name, *figures in quoted_rows()]
    return grid(RFC_COLUMNS[0], RFC_COLUMNS[1:], rows)


def faults_in_words(estimate: Estimate) -> str:
    """Modelled faults of living tasks over their lifetimes."""
    low, best, high = estimate.faults
    if not high:
        return f"none so far ({estimate.policy})"
    if low == high:
        return f"{best} over the lives of these tasks"
    return f"{low} to {high}, most likely {best}, over the lives of these tasks"


def reuse_in_words(estimate: Estimate) -> str:
    """By how much Dynamic(kb) may be too low."""
    low = estimate.dynamic_kib
    return (
        f"Dynamic(kb) {low} to {low + (estimate.reuse_most_kib or 0)}: cached stacks, two a CPU,"
        " keep their grown pages for their next owners; the most if each task had got one as"
        " deep as the deepest here (`serve` counts them)"
    )


def _threads(report: HostEstimate) -> str:
    kinds = report.kinds
    kernel, user = kernel_and_user(kinds)
    return (
        f"{kernel} kernel threads (idle tasks: {kinds[Kind.IDLE]}),"
        f" {user} user threads (workers: {kinds[Kind.USER_WORKER]})"
    )


def _coverage(report: HostEstimate) -> str:
    coverage = report.frame.coverage
    counted = "?" if coverage.kernel_stacks is None else str(coverage.kernel_stacks)
    return f"the kernel counts {counted} stacks; read {coverage.read}, missed {coverage.missed}"


def _lines(report: HostEstimate) -> Iterable[tuple[str, str]]:
    host = report.frame.host
    cpus = host.cpus
    yield (
        "Host",
        f"{host.cpu_model}, Linux {host.kernel_release},"
        f" stacks of {host.thread_size_bytes // 1024} KiB",
    )
    yield "Threads", _threads(report)
    yield "Tasks by pages", "  ".join(f"{n}: {count}" for n, count in report.pages.items())
    for estimate in report.estimates:
        suffix = f" {estimate.policy}" if len(report.estimates) > 1 else ""
        yield f"Reserve{suffix}", reserve_in_words(estimate, cpus, estimate.policy)
        if estimate.reuse_most_kib and not report.frame.is_dynamic:
            yield f"Reuse{suffix}", reuse_in_words(estimate)
        yield f"Memory{suffix}", memory_in_words(estimate)
        yield f"Faults{suffix}", faults_in_words(estimate)
        if estimate.over_limit_tasks:
            yield f"Overflow{suffix}", f"{estimate.over_limit_tasks} tasks were deeper than that"
    frame = report.frame
    if frame.is_dynamic:
        yield "Resident", frames.resident_in_words(frame)
    error = report.model_error_ratio()
    if error is not None:
        yield (
            "Model error",
            f"{error:+.2%}: {report.estimates[0].policy} models"
            f" {report.estimates[0].dynamic_kib} KiB, the kernel counts"
            f" {frame.coverage.kernel_stack_kib} KiB",
        )
    if report.series is not None:
        yield from series_rows(report.series)
    yield "Coverage", _coverage(report)
    yield "Scan", frames.scan_in_words(frame)
    for caveat in frame.caveats:
        yield "Note", caveat


def _deepest(report: HostEstimate) -> Table:
    rows = [
        (comm, str(tid), kind.label, str(mark))
        for comm, tid, mark, kind in report.deepest(DEEPEST_SHOWN)
    ]
    return grid("Deepest tasks", ("tid", "kind", "mark, bytes"), rows)


def _depths(details: DepthDetails) -> Iterable[Table | str]:
    yield grid("Depth in bytes", frames.DEPTH_COLUMNS, frames.depth_rows(details))
    yield ""
    yield frames.random_offset_in_words(details)
    yield ""
    first, *names = frames.SHIFT_COLUMNS
    yield grid(first, names, frames.shift_rows(details.curve, SHIFTS_SHOWN_BYTES))


def _groups(report: HostEstimate) -> Table:
    groups = report.groups or ()
    first, *names = titles(GROUP)
    rows = [(group.name, *cells(GROUP, group)) for group in groups[:GROUPS_SHOWN]]
    rest = groups[GROUPS_SHOWN:]
    if rest:
        summed = Group(
            **vars(sum(rest, Savings())),
            name=f"... {len(rest)} more",
            worst_mark_bytes=max(group.worst_mark_bytes for group in rest),
        )
        rows.append((summed.name, *cells(GROUP, summed)))
    return grid(f"By {report.by} ({report.estimates[0].policy})", [first, *names], rows)


def render(report: HostEstimate) -> str:
    """At most 80 columns."""
    console = console_for_stdout()
    console.print(_headline(report))
    console.print()
    console.print(facts(_lines(report)))
    if report.groups is not None:
        console.print()
        console.print(_groups(report))
        if len(report.groups) > GROUPS_SHOWN:
            console.print(f"--format csv has all {len(report.groups)} groups")
    console.print()
    console.print(_deepest(report))
    if report.details is not None:
        console.print()
        for part in _depths(report.details):
            console.print(part)
    return plain(console)


def render_many(reports: Sequence[HostEstimate]) -> str:
    """The RFC's table, a row a capture, and a total; one table a policy."""
    console = console_for_stdout()
    for at, total in enumerate(totals_of(reports)):
        rows = [
            rfc_row(
                f"{report.source}: {report.frame.host.cpu_model}",
                report.frame.host.cpus,
                report.estimates[at],
            )
            for report in reports
        ]
        rows.append(rfc_row(f"Total of {total.hosts}", total.cpus, total))
        first = f"CPU ({total.policy})" if total.policy != HEADLINE else "CPU"
        console.print(grid(first, RFC_COLUMNS[1:], rows))
        console.print(f"Reserve: {total.reserve_kib} KiB more for {counted(total.cpus, 'CPU')}")
        if total.over_limit_tasks:
            console.print(f"Overflow: {total.over_limit_tasks} tasks were deeper than that")
        console.print()
    for report in reports:
        for caveat in report.frame.caveats:
            console.print(shown(f"Note, {report.source}: {caveat}"))
    return plain(console)
