"""`estimate` for people: the RFC's table with this host on top, and what it leaves out."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynstack_probe.analysis.depths import QUANTILES
from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.model import DepthDetails, EstimateReport, kernel_and_user, totals_of
from dynstack_probe.output.rfc_table import QUOTED
from dynstack_probe.text import percent, printable, small_percent

WIDTH = 80
GROUPS_SHOWN = 15
DEEPEST_SHOWN = 5


def console_for(colour: bool | None) -> Console:
    """Writes to a buffer; None: in colour where standard output is a terminal."""
    if colour is None:
        colour = sys.stdout.isatty()
    return Console(
        file=io.StringIO(),
        width=WIDTH,  # on a narrower terminal lines wrap, and no figure is cut
        force_terminal=colour,
        no_color=not colour or bool(os.environ.get("NO_COLOR")),
        color_system="auto" if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def grid(first: str, numbers: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table whose first column gives way where a line is too long, and no figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False, show_edge=False)
    table.add_column(first, overflow="ellipsis", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    widths = [len(name) for name in numbers]
    for row in rows:
        table.add_row(*row)
        widths = [max(width, len(cell)) for width, cell in zip(widths, row[1:], strict=True)]
    between = 3 * len(numbers)  # box.SIMPLE_HEAD: a space, a divider and a space
    table.columns[0].max_width = WIDTH - sum(widths) - between
    return table


def _headline(report: EstimateReport) -> Table:
    host = report.frame.host
    rows: list[Sequence[str | Text]] = []
    for estimate in report.estimates:
        label = f"{printable(report.source)}: {printable(host.cpu_model)}"
        if len(report.estimates) > 1 or estimate.policy != "rfc-v1":
            label = f"{printable(report.source)}, {estimate.policy}"
        rows.append(
            (
                Text(label, style="bold"),
                str(host.cpus),
                str(estimate.stacks),
                str(estimate.base_kib),
                str(estimate.dynamic_kib),
                Text(percent(estimate.saving_ratio), style="bold green"),
            )
        )
    rows += [
        (
            Text(f"{row.cpu} (quoted)", style="dim"),
            *(str(n) for n in (row.cores, row.stacks, row.base_kib, row.dynamic_kib)),
            row.saving,
        )
        for row in QUOTED
    ]
    return grid("CPU", ("#Cores", "#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving"), rows)


def _reserve(estimate: Estimate, cpus: int) -> str:
    if not estimate.reserve_kib:
        return f"none ({estimate.policy})"
    return (
        f"{estimate.reserve_kib} KiB for {cpus} CPUs ({estimate.policy});"
        f" saving with it {percent(estimate.saving_with_reserve_ratio)}"
    )


def _of_memory(estimate: Estimate) -> str:
    saved = estimate.base_kib - estimate.dynamic_kib
    return (
        f"{saved} KiB saved is {small_percent(estimate.saving_of_ram_ratio)} of all"
        f" {estimate.mem_total_kib // 1024} MiB,"
        f" {small_percent(estimate.saving_with_reserve_of_ram_ratio)} with the reserve"
    )


def _faults(estimate: Estimate) -> str:
    low, best, high = estimate.faults
    if not high:
        return f"none so far ({estimate.policy})"
    return f"{low} to {high}, most likely {best}, over the lives of these tasks"


def _threads(report: EstimateReport) -> str:
    kinds = report.kinds()
    kernel, user = kernel_and_user(kinds)
    return (
        f"{kernel} kernel threads (idle tasks: {kinds[Kind.IDLE]}),"
        f" {user} user threads (workers: {kinds[Kind.USER_WORKER]})"
    )


def _pages(report: EstimateReport) -> str:
    counts = report.tasks_by_pages()
    return "  ".join(f"{n}: {count}" for n, count in counts.items())


def _coverage(report: EstimateReport) -> str:
    coverage = report.frame.coverage
    counted = "?" if coverage.kernel_stacks is None else str(coverage.kernel_stacks)
    return f"the kernel counts {counted} stacks; read {coverage.read}, missed {coverage.missed}"


def _scan(report: EstimateReport) -> str:
    seconds = report.frame.cost.scan_seconds
    stacks = max(1, report.frame.coverage.read)
    return f"{seconds * 1000:.1f} ms, {seconds / stacks * 1e6:.1f} us a stack"


def _lines(report: EstimateReport) -> Iterable[tuple[str, str]]:
    host = report.frame.host
    cpus = host.cpus
    yield (
        "Host",
        f"{printable(host.cpu_model)}, Linux {printable(host.kernel_release)},"
        f" stacks of {host.thread_size_bytes // 1024} KiB",
    )
    yield "Threads", _threads(report)
    yield "Tasks by pages", _pages(report)
    for estimate in report.estimates:
        suffix = f" {estimate.policy}" if len(report.estimates) > 1 else ""
        yield f"Reserve{suffix}", _reserve(estimate, cpus)
        yield f"Memory{suffix}", _of_memory(estimate)
        yield f"Faults{suffix}", _faults(estimate)
        if estimate.over_limit_tasks:
            yield f"Overflow{suffix}", f"{estimate.over_limit_tasks} tasks were deeper than that"
    frame = report.frame
    if frame.is_dynamic:
        grown = frame.grown_kib
        says = "" if grown is None else f"; the kernel counts {grown} KiB grown"
        yield (
            "Resident",
            f"{frame.stacks.resident_kib()} KiB, measured: this kernel's stacks already"
            f" are dynamic{says}",
        )
    yield "Coverage", _coverage(report)
    yield "Scan", _scan(report)
    for caveat in report.frame.caveats:
        yield "Note", caveat


def _deepest(report: EstimateReport) -> Table:
    rows = [
        (Text(printable(comm)), str(tid), kind.label, str(mark))
        for comm, tid, mark, kind in report.deepest(DEEPEST_SHOWN)
    ]
    return grid("Deepest tasks", ("tid", "kind", "mark, bytes"), rows)


def _bytes(values: Mapping[str, int]) -> Sequence[str]:
    return [str(values[name]) if name in values else "-" for name in QUANTILES]


def _depths(details: DepthDetails) -> Iterable[Table | str]:
    rows: list[Sequence[str | Text]] = []
    for row in details.by_role:
        rows.append((Text(f"{row.role}, ever"), str(row.stacks), *_bytes(row.ever)))
        rows.append((Text("  now, asleep"), str(row.sleeping), *_bytes(row.now)))
    yield grid("Depth in bytes", ("#Stacks", *QUANTILES), rows)
    yield ""
    yield from _random_offset(details)
    yield ""
    points = [
        (
            Text(f"{point.shift_bytes:+d}" if point.shift_bytes else "as it is"),
            str(point.dynamic_kib),
            percent(point.saving_ratio),
            str(point.over_limit_tasks),
        )
        for point in details.curve
        if point.shift_bytes % 256 == 0
    ]
    yield grid("Every stack deeper by", ("Dynamic(kb)", "Saving", "over THREAD_SIZE"), points)


def _random_offset(details: DepthDetails) -> Iterable[str]:
    price = details.offset_price
    state = {True: "on", False: "off", None: "can't be told"}[details.random_offset]
    yield f"Random stack offset (RANDOMIZE_KSTACK_OFFSET): {state} on this kernel"
    if details.random_offset is not False:
        yield (
            f"  {price.low_pages:.0f} to {price.high_pages} pages of {price.user_stacks} user"
            " stacks are used only because of it:"
        )
        yield "  the least if one call alone went deepest, the most if many did."


def _group_row(name: str, groups: Sequence[Group]) -> Sequence[str | Text]:
    worst = max(group.worst_mark_bytes for group in groups)
    base = sum(group.base_kib for group in groups)
    dynamic = sum(group.dynamic_kib for group in groups)
    stacks = sum(group.stacks for group in groups)
    saving = percent(1 - dynamic / base)
    return Text(name), str(stacks), str(base), str(dynamic), saving, str(worst)


def _groups(report: EstimateReport) -> Table:
    groups = report.groups or ()
    rows = [_group_row(printable(group.name), [group]) for group in groups[:GROUPS_SHOWN]]
    rest = groups[GROUPS_SHOWN:]
    if rest:
        rows.append(_group_row(f"... {len(rest)} more (--format csv has all)", rest))
    first = f"By {report.by} ({report.estimates[0].policy})"
    return grid(first, ("#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving", "worst"), rows)


def render(report: EstimateReport, *, colour: bool | None = None) -> str:
    """At most 80 columns; colour only on a terminal unless said."""
    console = console_for(colour)
    console.print(_headline(report))
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, value in _lines(report):
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    if report.groups is not None:
        console.print()
        console.print(_groups(report))
    console.print()
    console.print(_deepest(report))
    if report.details is not None:
        console.print()
        for part in _depths(report.details):
            console.print(part)
    return plain(console)


def render_many(reports: Sequence[EstimateReport], *, colour: bool | None = None) -> str:
    """The RFC's table, a row a capture, and a total; one table a policy."""
    console = console_for(colour)
    for at, total in enumerate(totals_of(reports)):
        rows: list[Sequence[str | Text]] = []
        for report in reports:
            host, estimate = report.frame.host, report.estimates[at]
            rows.append(
                (
                    Text(f"{printable(report.source)}: {printable(host.cpu_model)}"),
                    *(str(host.cpus), str(estimate.stacks)),
                    *(str(estimate.base_kib), str(estimate.dynamic_kib)),
                    percent(estimate.saving_ratio),
                )
            )
        numbers = (total.cpus, total.stacks, total.base_kib, total.dynamic_kib)
        cells = [*map(str, numbers), percent(total.saving_ratio)]
        last: Sequence[str | Text] = [Text(f"Total of {total.hosts}"), *cells]
        first = f"CPU ({total.policy})" if total.policy != "rfc-v1" else "CPU"
        names = ("#Cores", "#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving")
        console.print(grid(first, names, [*rows, last]))
        console.print(f"Reserve: {total.reserve_kib} KiB more for {total.cpus} CPUs")
        if total.over_limit_tasks:
            console.print(f"Overflow: {total.over_limit_tasks} tasks were deeper than that")
        console.print()
    for report in reports:
        for caveat in report.frame.caveats:
            console.print(Text(f"Note, {printable(report.source)}: {printable(caveat)}"))
    return plain(console)


def plain(console: Console) -> str:
    """What was printed, as a mail may hold it."""
    output = console.file
    assert isinstance(output, io.StringIO)
    text = output.getvalue().replace("─", "-")  # plain text, for mails
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
