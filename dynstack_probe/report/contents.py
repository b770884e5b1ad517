"""What a report of snapshots says: its sections, sentences and tables.

Every figure comes from `estimate`, `policies` or a snapshot, so that these and the report
can't differ.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynstack_probe import __version__
from dynstack_probe.analysis.comparison import Comparison, Row
from dynstack_probe.analysis.depths import QUANTILES
from dynstack_probe.analysis.evidence import Evidence
from dynstack_probe.analysis.host_estimate import HostEstimate, kernel_and_user, totals_of
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.roles import roles
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.as_table import RFC_COLUMNS, quoted_rows, rfc_row
from dynstack_probe.output.columns import cells, titles
from dynstack_probe.output.policies import SERIES_TABLE, TABLE, rates_note
from dynstack_probe.policy import HEADLINE
from dynstack_probe.report import figures
from dynstack_probe.report.document import (
    Commands,
    Document,
    Facts,
    Paragraph,
    Part,
    Section,
    Table,
)
from dynstack_probe.text import percent, printable, small_percent

DEEPEST_SHOWN = 10
GROUPS_SHOWN = 10
NAMES_SHOWN = 5
SHIFTS_SHOWN_BYTES = 512
SAVINGS_NOTE = "Saving: as in the RFC's table, without the reserve; net: with the reserve paid."


@dataclass(frozen=True)
class HostView:
    """One host as `estimate --by comm --depths` and `policies` see it, and its series.

    The report's first policy is the headline's. `file` is the capture that they are in, or
    would be.
    """

    report: HostEstimate
    comparison: Comparison
    evidence: Evidence
    file: str

    @property
    def frame(self) -> Frame:
        """The last one."""
        return self.report.frame

    @property
    def source(self) -> str:
        """Where it came from, fit to be shown."""
        return printable(self.report.source)


def document_of(hosts: Sequence[HostView], again: Sequence[str], now: float) -> Document:
    """The report. `again` are the commands that make it, `now` is Unix time."""
    if len(hosts) == 1:
        host = hosts[0]
        sections = [
            Section("Host", [Facts(list(_host_facts(host)))]),
            Section("Method and its error", list(_method([host]))),
            *_measured_sections(host),
        ]
        model = printable(host.frame.host.cpu_model)
        title = f"Dynamic kernel stacks: what they would save on {model}"
    else:
        sections = [
            Section("Method and its error", list(_method(hosts))),
            Section("All hosts", list(_fleet(hosts))),
            *(
                Section(
                    host.source,
                    [Facts([*_host_facts(host), *_coverage(host.frame)])],
                    _measured_sections(host),
                )
                for host in hosts
            ),
        ]
        title = f"Dynamic kernel stacks: what they would save on {len(hosts)} hosts"
    sections.append(Section("How to repeat it", list(_repeat(hosts, again))))
    return Document(title, _summary(hosts), sections, made_by(now))


def made_by(now: float) -> str:
    """By what and when the report was made."""
    return f"Made by dynstack-probe {__version__} on {date(now)}."


def date(unix_time: float) -> str:
    """In UTC, to the minute; ? where it is unknown or beyond all calendars."""
    if not unix_time:
        return "?"
    try:
        when = datetime.datetime.fromtimestamp(unix_time, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _summary(hosts: Sequence[HostView]) -> str:
    total = totals_of([host.report for host in hosts])[0]
    coverages = [host.frame.coverage for host in hosts]
    missed = sum(coverage.missed for coverage in coverages)
    saved = total.base_kib - total.dynamic_kib
    memory = sum(host.frame.host.mem_total_kib for host in hosts)
    with_reserve = saved - total.reserve_kib
    left = with_reserve / max(1, total.base_kib)
    return (
        f"Measured: {total.stacks} kernel stacks hold {total.base_kib} KiB; {missed} more were"
        f" missed. Modelled: under {HEADLINE}, the grow-on-fault scheme of the RFC of March 2024,"
        f" they would hold {total.dynamic_kib} KiB, {percent(total.saving_ratio)} less; with its"
        f" per-CPU reserve of {total.reserve_kib} KiB, {percent(left)} less, which is"
        f" {small_percent(with_reserve / memory)} of all memory."
    )


def _host_facts(host: HostView) -> Iterable[tuple[str, str]]:
    frame, machine = host.frame, host.frame.host
    yield "Processor", f"{printable(machine.cpu_model)}, {machine.cpus} CPUs online"
    yield "Memory", f"{machine.mem_total_kib // 1024} MiB"
    yield "Kernel", f"Linux {printable(machine.kernel_release)}, {_options(frame)}"
    yield "Stacks", f"{machine.thread_size_bytes // 1024} KiB each (THREAD_SIZE)"
    yield "Threads", threads(host.report.kinds())
    yield "Source", f"{host.source}, {_taken(host.evidence)}"


def threads(kinds: dict[Kind, int]) -> str:
    """How many of the kernel and of users."""
    kernel, user = kernel_and_user(kinds)
    return (
        f"{kernel} of the kernel (idle tasks: {kinds[Kind.IDLE]}), {user} of users (workers which"
        f" the kernel made for them: {kinds[Kind.USER_WORKER]})"
    )


def _options(frame: Frame) -> str:
    config = frame.kernel.config
    random = {True: "on", False: "off", None: "unknown"}[frame.kernel.random_offset]
    told = [f"random stack offset {random}"]
    for name in ("KASAN", "KMSAN", "DEBUG_STACK_USAGE", "KSTACK_ERASE", "GCC_PLUGIN_STACKLEAK"):
        if config.get(f"CONFIG_{name}") == "y":
            told.append(name)
    compiler = config.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
    if compiler:
        told.append(f"built by {printable(compiler)}")
    return ", ".join(told)


def _taken(evidence: Evidence) -> str:
    when = date(evidence.frame.taken_at)
    count = len(evidence.moments)
    if count == 1:
        return f"one snapshot of {when}"
    return f"{count} snapshots over {evidence.seconds:.0f} s, the last of {when}"


def _coverage(frame: Frame) -> Iterable[tuple[str, str]]:
    coverage = frame.coverage
    counted = "?" if coverage.kernel_stacks is None else str(coverage.kernel_stacks)
    exact = "exact" if coverage.refreshed else "off by up to some dozens"
    yield (
        "Coverage",
        f"The kernel counts {counted} stacks ({exact}); {coverage.read} were read,"
        f" {coverage.missed} missed, of which {coverage.unreadable} were found but not readable.",
    )
    stacks = max(1, coverage.read)
    seconds = frame.cost.scan_seconds
    yield "Scan", f"{seconds * 1000:.1f} ms, {seconds / stacks * 1e6:.1f} us a stack"
    if coverage.erased:
        yield (
            "Erased",
            f"{coverage.erased} stacks were overwritten by KSTACK_ERASE: their marks are lower"
            " bounds.",
        )
    for caveat in frame.caveats:
        yield "Note", printable(caveat)


METHOD = (
    "Linux zeroes each kernel stack when it hands it out, and stacks grow down. The lowest word"
    " that is not zero therefore marks the greatest depth that the task has ever reached, also"
    " before the measurement began. A BPF iterator visits all tasks and reads their stacks; no"
    " hook is left in any path of the kernel. Each policy is then applied to these depths."
)


_MEASURED_ERRORS = (
    ("BASE", "Measured: stacks read times THREAD_SIZE. Missed stacks are left out."),
    ("Depth ever", "Measured. Errs low by words that were used and held zero."),
)


def errors(*, series: bool) -> Facts:
    """Which way the figures of snapshots err."""
    rows = [
        *_MEASURED_ERRORS,
        ("Depth now", "Measured for sleeping tasks only, at the saved stack pointer."),
        (
            "Dynamic, saving",
            "Modelled. Dynamic errs low and the saving high: the kernel caches two freed stacks"
            " per CPU, which would keep their grown pages for the next owner.",
        ),
        (
            "Faults so far",
            "Modelled: at least one a task that used a second page, at most one a grown page."
            " Reuse of grown stacks would make it fewer.",
        ),
    ]
    if series:
        rows.append(
            (
                "Faults a second",
                "Modelled from pages grown between snapshots and by tasks that exited meanwhile."
                " Errs high: of tasks that still live, none is taken to have a stack that was grown"
                " before.",
            )
        )
    return Facts(rows)


def daemon_errors() -> Facts:
    """Which way the daemon's figures err."""
    return Facts(
        [
            *_MEASURED_ERRORS,
            (
                "Dynamic, saving",
                "Modelled. Stacks that the kernel hands out again keep their grown pages, which is"
                " counted for tasks created since the daemon's start. For older ones Dynamic errs"
                " low.",
            ),
            (
                "Faults a second",
                "Modelled: one a grown page, less those that a fault skipped or that came with a"
                " stack used before.",
            ),
        ]
    )


def _method(hosts: Sequence[HostView]) -> Iterable[Part]:
    yield Paragraph(METHOD)
    if len(hosts) == 1:
        yield Facts(list(_coverage(hosts[0].frame)))
    yield errors(series=any(host.evidence.whole for host in hosts))


def _fleet(hosts: Sequence[HostView]) -> Iterable[Part]:
    reports = [host.report for host in hosts]
    total = totals_of(reports)[0]
    rows = [
        _rfc_row(f"{host.source}: {printable(host.frame.host.cpu_model)}", host) for host in hosts
    ]
    rows.append(rfc_row(f"Total of {total.hosts}", total.cpus, total))
    yield Table(
        "",
        RFC_COLUMNS,
        rows,
        f"BASE is measured, Dynamic modelled ({HEADLINE}), both in KiB; the reserve of"
        f" {total.reserve_kib} KiB for {total.cpus} CPUs is in neither. Of a series the last"
        " snapshot.",
    )
    savings = [(host.source, host.report.estimates[0].saving_with_reserve_ratio) for host in hosts]
    yield figures.savings_plot(f"Saving by host, with the reserve ({HEADLINE})", savings)


def _rfc_row(name: str, host: HostView) -> tuple[str, ...]:
    return rfc_row(name, host.frame.host.cpus, host.report.estimates[0])


def _measured_sections(host: HostView) -> list[Section]:
    return [
        Section("Headline", list(_headline(host))),
        Section("Depth, ever and now", list(_depths(host))),
        Section("Policies compared", list(_policies(host.comparison))),
        Section("If every stack were a little deeper", list(_shift(host))),
        Section("Faults over time", list(_faults(host))),
        Section("Who goes deep", list(_who(host))),
        Section("Price of the random stack offset", [Paragraph(_random_offset(host))]),
    ]


def _headline(host: HostView) -> Iterable[Part]:
    headline = host.report.estimates[0]
    own = _rfc_row(f"This: {printable(host.frame.host.cpu_model)}", host)
    yield Table(
        "",
        RFC_COLUMNS,
        [own, *quoted_rows()],
        "First row: BASE measured, Dynamic and Saving modelled. Quoted rows: the RFC's own, from"
        " idle and freshly booted machines that ran it. KiB; no row counts the reserve in.",
    )
    low, best, high = headline.faults
    saved = headline.base_kib - headline.dynamic_kib
    rows = [
        (
            "Reserve",
            f"{headline.reserve_kib} KiB for {host.frame.host.cpus} CPUs, modelled; saving with"
            f" it {percent(headline.saving_with_reserve_ratio)}",
        ),
        (
            "Of memory",
            f"{saved} KiB saved is {small_percent(headline.saving_of_ram_ratio)} of all memory,"
            f" {small_percent(headline.saving_with_reserve_of_ram_ratio)} with the reserve",
        ),
        (
            "Faults so far",
            f"{low} to {high}, most likely {best}, over the lives of these tasks; modelled",
        ),
    ]
    if host.frame.is_dynamic:
        grown = host.frame.grown_kib
        says = "" if grown is None else f"; the kernel counts {grown} KiB grown"
        rows.append(
            (
                "Resident",
                f"{host.frame.stacks.resident_kib()} KiB, measured: this kernel's stacks"
                f" already are dynamic{says}",
            )
        )
    yield figures.tasks_by_pages(host.report.tasks_by_pages())
    yield Facts(rows)
    moments = host.evidence.moments
    if len(moments) > 1 and host.evidence.seconds > 0:
        yield figures.memory_over_time(
            [moment.seconds for moment in moments],
            [moment.savings.base_kib for moment in moments],
            [moment.savings.dynamic_kib for moment in moments],
            "Dynamic errs low: reuse of grown stacks is not seen in it.",
        )


def _depths(host: HostView) -> Iterable[Part]:
    stacks, size = host.frame.stacks, host.frame.host.thread_size_bytes
    details = host.report.details
    assert details is not None
    if not len(stacks):
        yield Paragraph("No stack was read.")
        return
    yield figures.depths_ever_and_now(stacks, size)
    yield figures.depths_by_role(stacks, roles(stacks.kinds, stacks.comms), size)
    rows = []
    for row in details.by_role:
        for name, count, values in (
            (f"{row.role}, ever", row.stacks, row.ever),
            ("  now, asleep", row.sleeping, row.now),
        ):
            rows.append((name, str(count), *(str(values.get(q, "-")) for q in QUANTILES)))
    yield Table(
        "Depth by role",
        ("Bytes", "#Stacks", *QUANTILES),
        rows,
        "Measured, in bytes, by nearest rank. Ever: the high-water mark. Now: at the saved stack"
        " pointer of tasks asleep.",
    )


def _policies(comparison: Comparison) -> Iterable[Part]:
    columns = TABLE if comparison.whole is None else SERIES_TABLE
    note = f"All modelled, KiB. {SAVINGS_NOTE}"
    if comparison.whole is not None:
        note += f" {rates_note(comparison.whole)}"
    rows = [cells(columns, row) for row in comparison.rows]
    yield Table("", ("Policy", *titles(columns)[1:]), rows, note)
    yield figures.savings_by_policy(comparison)
    over = [(row.policy.name, _over_limit(row)) for row in comparison.rows if row.over_limit]
    if over:
        yield Paragraph("Tasks that were deeper than a policy allows, each an overflow:")
        yield Facts(over)


def _over_limit(row: Row) -> str:
    names = [f"{printable(name)} {count}" for name, count in row.over_limit[:NAMES_SHOWN]]
    rest = len(row.over_limit) - NAMES_SHOWN
    more = f", {rest} more names" if rest > 0 else ""
    return f"{row.estimate.over_limit_tasks}: {', '.join(names)}{more}"


def _shift(host: HostView) -> Iterable[Part]:
    details = host.report.details
    assert details is not None
    yield figures.saving_by_shift(details.curve)
    yield Table(
        "",
        ("Each deeper by", "Dynamic(kb)", "Saving", "overflows"),
        [
            (
                f"{point.shift_bytes:+d} bytes" if point.shift_bytes else "as it is",
                str(point.dynamic_kib),
                percent(point.saving_ratio),
                str(point.over_limit_tasks),
            )
            for point in details.curve
            if point.shift_bytes % SHIFTS_SHOWN_BYTES == 0
        ],
        f"Modelled ({HEADLINE}), without the reserve; overflows: stacks that would be"
        " deeper than THREAD_SIZE.",
    )


def _faults(host: HostView) -> Iterable[Part]:
    evidence = host.evidence
    faults = figures.spans_of(evidence.moments, lambda moment: moment.faults_per_second)
    if not faults:
        yield Paragraph(
            "One snapshot can't tell: this needs a series, such as `dynstack-probe record FILE"
            " --duration 10m --interval 10s` makes."
        )
        return
    created = figures.spans_of(evidence.moments, lambda moment: moment.created_per_second)
    exited = figures.spans_of(evidence.moments, lambda moment: moment.exited_per_second)
    counted = (
        f" Meanwhile {figures.mean(created):.1f} tasks were created and {figures.mean(exited):.1f}"
        " exited a second, measured."
        if created and exited
        else " Exits were not counted in this series, so faults of short-lived tasks are missing."
    )
    yield Paragraph(
        f"{HEADLINE} would have taken {figures.mean(faults):.2f} faults a second over"
        f" {evidence.seconds:.0f} s, {max(value for _, _, value in faults):.2f} in the busiest"
        f" interval, modelled.{counted}"
    )
    yield figures.rates_over_time(
        f"Stack faults a second ({HEADLINE})",
        "faults a second",
        {HEADLINE: faults},
        "Modelled, mean of each interval between two snapshots. Errs high: of tasks that still"
        " live, none is taken to have a stack that was grown before.",
    )
    if created and exited:
        yield figures.rates_over_time(
            "Tasks created and exited a second",
            "tasks a second",
            {"created": created, "exited": exited},
            "Measured by tracepoints, mean of each interval.",
            in_text=False,
        )


def _who(host: HostView) -> Iterable[Part]:
    yield Table(
        "Deepest tasks",
        ("Task", "tid", "kind", "bytes", "pages"),
        [
            (printable(comm), str(tid), kind.label, str(mark), str(-(-mark // PAGE_BYTES)))
            for comm, tid, mark, kind in host.report.deepest(DEEPEST_SHOWN)
        ],
        "Measured: high-water marks of living tasks.",
    )
    groups = host.report.groups or ()
    rows = [(group.dynamic_kib * 1024 // PAGE_BYTES - group.stacks, group) for group in groups]
    grown = sorted(
        ((pages, group) for pages, group in rows if pages > 0),
        key=lambda row: (-row[0], -row[1].worst_mark_bytes, row[1].name),
    )
    if not grown:
        yield Paragraph("No task has used more than one page.")
        return
    rest = grown[GROUPS_SHOWN:]
    note = (
        f"By command name. Measured: stacks and worst mark, bytes. Modelled ({HEADLINE}): pages"
        " beyond the first."
    )
    if rest:
        note += f" {len(rest)} more names have {sum(pages for pages, _ in rest)} pages."
    yield Table(
        "Names with most pages beyond the first",
        ("Name", "#Stacks", "worst", "pages"),
        [
            (printable(group.name), str(group.stacks), str(group.worst_mark_bytes), str(pages))
            for pages, group in grown[:GROUPS_SHOWN]
        ],
        note,
    )


def _random_offset(host: HostView) -> str:
    details = host.report.details
    assert details is not None
    price = details.offset_price
    if details.random_offset is False:
        return "This kernel has RANDOMIZE_KSTACK_OFFSET off: it costs nothing."
    state = "has" if details.random_offset else "may have (that can't be told)"
    return (
        f"This kernel {state} RANDOMIZE_KSTACK_OFFSET on. Of the pages of {price.user_stacks} user"
        f" stacks, {price.low_pages:.0f} to {price.high_pages} are used only because of it,"
        " modelled from measured marks: the least if one call alone went deepest, the most if many"
        " did."
    )


def _repeat(hosts: Sequence[HostView], again: Sequence[str]) -> Iterable[Part]:
    yield Commands([*_recording(hosts), *again])
    kernels = sorted({printable(host.frame.host.kernel_release) for host in hosts})
    yield Paragraph(
        f"dynstack-probe {__version__}; measured on Linux {', '.join(kernels)}. Recording needs"
        " CAP_BPF and CAP_PERFMON; a report of a capture needs neither, on any machine."
    )


def _recording(hosts: Sequence[HostView]) -> list[str]:
    lines = []
    for host in hosts:
        evidence, name = host.evidence, shlex.quote(printable(host.file))
        line = f"sudo dynstack-probe record {name}"
        if len(evidence.moments) > 1:
            interval = evidence.seconds / (len(evidence.moments) - 1)
            line += f" --duration {evidence.seconds:.0f}s --interval {interval:.3g}s"
        lines.append(line)
    return lines
