# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says: its sections, sentences and tables, from whatever source.

Every figure comes from `analysis`, so that no other command can tell another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dynstack_probe import __version__
from dynstack_probe.analysis.comparison import Row
from dynstack_probe.analysis.cost import pareto_best
from dynstack_probe.analysis.host_estimate import DepthDetails, kernel_and_user
from dynstack_probe.analysis.safety import Safety
from dynstack_probe.model.cost import HostCost
from dynstack_probe.model.history import mean
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.roles import roles
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import frames, policies
from dynstack_probe.output.as_table import RFC_COLUMNS, faults_in_words, quoted_rows, rfc_row
from dynstack_probe.output.columns import cells, titles
from dynstack_probe.output.cost import cost_rows, exported_safety_rows, safety_rows
from dynstack_probe.output.savings import (
    NET,
    NET_OF_RAM,
    NET_WORDS,
    SAVING,
    memory_in_words,
    reserve_in_words,
)
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
from dynstack_probe.report.subject import Depths, Subject
from dynstack_probe.text import counted, date

GROUPS_SHOWN = 10
SHIFTS_SHOWN_BYTES = 512

METHOD = (
    "Linux zeroes each kernel stack before it hands it out, and stacks grow down. The lowest"
    " nonzero word therefore marks the greatest depth that the task has ever reached, even before"
    " the measurement began. A BPF iterator visits all tasks and reads their stacks; no hook stays"
    " in any kernel path. Each policy is then applied to these depths."
)


def document_of(subjects: Sequence[Subject], again: Sequence[str], now: float) -> Document:
    """The report. `again` are the commands that make it, `now` is Unix time."""
    method = Section("Method and its error", list(_method(subjects)))
    if len(subjects) == 1:
        [one] = subjects
        name = one.called if one.depths is not None else one.name
        title = f"Dynamic kernel stacks: what they would save on {name}"
        sections = [Section("Host", [Facts(list(_host_facts(one)))]), method, *_sections(one)]
    else:
        title = f"Dynamic kernel stacks: what they would save on {len(subjects)} hosts"
        sections = [
            method,
            Section("All hosts", list(_fleet(subjects))),
            *(
                Section(
                    one.name,
                    [Facts([*_host_facts(one), *one.coverage])],
                    _sections(one),
                )
                for one in subjects
            ),
        ]
    sections.append(Section("How to repeat it", list(_repeat(subjects, again))))
    made = f"Made by dynstack-probe {__version__} on {date(now)}."
    return Document(title, _summary(subjects), sections, made)


def _total(subjects: Sequence[Subject]) -> Savings:
    return sum((one.headline for one in subjects), Savings())


def _summary(subjects: Sequence[Subject]) -> str:
    total = _total(subjects)
    missed = sum(one.missed for one in subjects)
    of = f" Figures are those {subjects[0].headline_of}." if len(subjects) == 1 else ""
    return (
        f"Measured: {total.stacks} kernel stacks hold {total.base_kib} KiB; {missed} more were"
        f" missed. Modelled: under {HEADLINE}, the grow-on-fault scheme of the RFC of March 2024,"
        f" they would hold {total.dynamic_kib} KiB, {SAVING.write(total.saving_ratio)} less; with"
        f" its per-CPU reserve of {total.reserve_kib} KiB,"
        f" {NET.write(total.saving_with_reserve_ratio)} less, which is"
        f" {NET_OF_RAM.write(total.saving_with_reserve_of_ram_ratio)} of all memory.{of}"
    )


def _host_facts(subject: Subject) -> Iterable[tuple[str, str]]:
    machine = subject.host
    yield "Processor", f"{machine.cpu_model}, {counted(machine.cpus, 'CPU')} online"
    yield "Memory", f"{machine.mem_total_kib // 1024} MiB"
    yield "Kernel", f"Linux {machine.kernel_release}{subject.options}"
    yield "Stacks", f"{machine.thread_size_bytes // 1024} KiB each (THREAD_SIZE)"
    kinds = subject.kinds
    kernel, user = kernel_and_user(kinds)
    yield (
        "Threads",
        f"{kernel} kernel threads (idle tasks: {kinds[Kind.IDLE]}), {user} user threads (of which"
        f" workers created by the kernel: {kinds[Kind.USER_WORKER]})",
    )
    yield "Source", subject.origin


def _method(subjects: Sequence[Subject]) -> Iterable[Part]:
    yield Paragraph(METHOD)
    if len(subjects) == 1:
        yield Facts(list(subjects[0].coverage))
    yield Facts(list(dict.fromkeys(row for one in subjects for row in one.errors)))
    missing = [one.missing for one in subjects if one.missing]
    if missing:
        yield Paragraph(missing[0])


def _fleet(subjects: Sequence[Subject]) -> Iterable[Part]:
    total = _total(subjects)
    cpus = sum(one.host.cpus for one in subjects)
    rows = [rfc_row(f"{one.name}: {one.called}", one.host.cpus, one.headline) for one in subjects]
    yield Table(
        "",
        RFC_COLUMNS,
        [*rows, rfc_row(f"Total of {len(subjects)}", cpus, total)],
        f"BASE is measured, Dynamic modelled ({HEADLINE}), both in KiB; the reserve of"
        f" {total.reserve_kib} KiB for {counted(cpus, 'CPU')} is in neither. Of a series the"
        " frame with the median saving.",
    )
    savings = [(one.name, one.headline.saving_with_reserve_ratio) for one in subjects]
    yield figures.savings_plot(f"Saving by host, with the reserve ({HEADLINE})", savings)


def _sections(subject: Subject) -> list[Section]:
    sections = [
        Section("Headline", list(_headline(subject))),
        Section("Depth, ever and now", list(_depths(subject))),
        Section("Policies compared", list(_policies(subject))),
    ]
    if subject.cost is not None:
        sections.append(Section("What it would cost", list(_cost(subject.cost))))
    if subject.safety is not None:
        sections.append(Section("Is it safe", list(_safety(subject))))
    depths = subject.depths
    if depths is not None:
        shift = list(_shift(depths.details))
        sections.append(Section("If every stack were a little deeper", shift))
    if subject.faults:
        sections.append(Section("Faults over time", list(_faults(subject))))
    sections.append(Section("Who goes deep", list(_who(subject))))
    if depths is not None:
        offset = Paragraph(frames.random_offset_in_words(depths.details))
        sections.append(Section("Price of the random stack offset", [offset]))
    return sections


def _headline(subject: Subject) -> Iterable[Part]:
    headline = subject.headline
    yield Table(
        "",
        RFC_COLUMNS,
        [rfc_row(f"This: {subject.called}", subject.host.cpus, headline), *quoted_rows()],
        f"First row, {subject.headline_of}: BASE measured, Dynamic and Saving modelled. Quoted"
        " rows: the RFC's own, from idle and freshly booted machines that ran it. KiB; no row"
        " includes the reserve.",
    )
    rows = [
        *subject.facts,
        ("Reserve", f"{reserve_in_words(headline, subject.host.cpus, HEADLINE)}, modelled"),
        ("Of memory", memory_in_words(headline)),
    ]
    if subject.depths is not None:
        rows.append(("Faults so far", f"{faults_in_words(headline)}; modelled"))
    if subject.resident:
        rows.append(("Resident", subject.resident))
    if subject.pages:
        yield figures.tasks_by_pages(subject.pages)
    yield Facts(rows)
    if len(subject.over_time) > 1 and subject.over_time[-1][0] > 0:
        times, base, dynamic = zip(*subject.over_time, strict=True)
        yield figures.memory_over_time(times, base, dynamic, subject.dynamic_errs)


def _depths(subject: Subject) -> Iterable[Part]:
    if subject.pages_over_time is not None:
        yield figures.pages_over_time(*subject.pages_over_time)
    depths = subject.depths
    if depths is None:
        if subject.pages_over_time is None:
            yield Paragraph("No stack was counted.")
        return
    stacks, size = depths.stacks, subject.host.thread_size_bytes
    if not len(stacks):
        yield Paragraph("No stack was read.")
        return
    yield figures.depths_ever_and_now(stacks, size)
    yield figures.depths_by_role(stacks, roles(stacks.kinds, stacks.comms), size)
    yield Table(
        "Depth by role",
        ("Bytes", *frames.DEPTH_COLUMNS),
        list(frames.depth_rows(depths.details)),
        "Measured, in bytes, by nearest rank. Ever: the high-water mark. Now: at the saved stack"
        " pointer of tasks asleep.",
    )


def _policies(subject: Subject) -> Iterable[Part]:
    has_rates = any(row.rate is not None for row in subject.rows)
    columns = policies.SERIES_TABLE if has_rates else policies.TABLE
    note = f"All modelled, KiB, {subject.headline_of}. {NET_WORDS}"
    if subject.whole is not None:
        note += f" {policies.rates_note(subject.whole)}"
    elif has_rates:
        note += (
            f" Per second over {subject.seconds:.0f} s: f faults. {subject.faults_err} Policies"
            " that need depths in bytes are not exported."
        )
    if any(row.cost for row in subject.rows):
        note += f" {policies.worth_note(subject.rows)}"
    if subject.depths is not None:
        told = policies.asleep_note(subject.depths.stacks, [row.policy for row in subject.rows])
        note += f" {told}" if told else ""
    rows = [cells(columns, row) for row in subject.rows]
    yield Table("", ("Policy", *titles(columns)[1:]), rows, note)
    yield figures.savings_plot(
        "Saving by policy, with the reserve",
        [(row.policy.name, row.estimate.saving_with_reserve_ratio) for row in subject.rows],
    )
    over = [(row.policy.name, _over_limit(row)) for row in subject.rows if row.over_limit]
    if over:
        yield Paragraph("Tasks that were deeper than a policy allows, each an overflow:")
        yield Facts(over)


def _cost(cost: HostCost) -> Iterable[Part]:
    yield Paragraph(
        f"Of {HEADLINE}: counts of {cost.whole.seconds:.0f} s times prices that were calibrated on"
        " this host; shares are of all CPU time."
    )
    yield Facts(list(cost_rows(cost)))
    if len(cost.rows) == 1:
        return
    best = pareto_best(cost.rows)
    for plot in (figures.cost_plot(cost.rows, best), figures.saving_against_cost(cost.rows, best)):
        if plot is not None:
            yield plot


def _safety(subject: Subject) -> Iterable[Part]:
    safety = subject.safety
    assert safety is not None
    if isinstance(safety, Safety):
        yield Facts(list(safety_rows(safety)))
    else:
        yield Facts(list(exported_safety_rows(safety, HEADLINE)))
    if subject.headroom:
        yield figures.headroom_over_time(subject.headroom, subject.headroom_of)


def _over_limit(row: Row) -> str:
    return f"{row.estimate.over_limit_tasks}: {policies.over_limit_names(row)}"


def _shift(details: DepthDetails) -> Iterable[Part]:
    yield figures.saving_by_shift(details.curve)
    yield Table(
        "",
        frames.SHIFT_COLUMNS,
        frames.shift_rows(details.curve, SHIFTS_SHOWN_BYTES),
        f"Modelled ({HEADLINE}), without the reserve; overflows: stacks that would be"
        " deeper than THREAD_SIZE.",
    )


def _faults(subject: Subject) -> Iterable[Part]:
    faults, created, exited = subject.faults, subject.created, subject.exited
    counted = " Exits were not counted, so faults of short-lived tasks are missing."
    if created and exited:
        counted = (
            f" Meanwhile {mean(created):.1f} tasks were created and"
            f" {mean(exited):.1f} exited a second, measured."
        )
    yield Paragraph(
        f"{HEADLINE} would have taken {mean(faults):.2f} faults a second over"
        f" {subject.seconds:.0f} s, {max(value for _, _, value in faults):.2f} in the busiest"
        f" {subject.rate_of}, modelled.{counted}"
    )
    yield figures.rates_over_time(
        f"Stack faults a second ({HEADLINE})",
        "faults a second",
        {HEADLINE: faults},
        f"Modelled. {subject.faults_err}",
        subject.rate_of,
    )
    if created and exited:
        yield figures.rates_over_time(
            "Tasks created and exited a second",
            "tasks a second",
            {"created": created, "exited": exited},
            "Measured by tracepoints.",
            subject.rate_of,
            in_text=False,
        )


def _deepest(depths: Depths) -> Table:
    return Table(
        "Deepest tasks",
        ("Task", "tid", "kind", "bytes", "pages"),
        [
            (comm, str(tid), kind.label, str(mark), str(-(-mark // PAGE_BYTES)))
            for comm, tid, mark, kind in depths.deepest
        ],
        "Measured: high-water marks of living tasks.",
    )


def _who(subject: Subject) -> Iterable[Part]:
    if subject.depths is not None:
        yield _deepest(subject.depths)
    grown = sorted(
        (group for group in subject.groups if group.grown_pages > 0),
        key=lambda group: (-group.grown_pages, -group.worst_mark_bytes, group.name),
    )
    if not grown:
        yield Paragraph("No task has used more than one page.")
        return
    rest = grown[GROUPS_SHOWN:]
    with_marks = subject.depths is not None
    note = (
        f"Measured: stacks{' and worst mark, bytes' if with_marks else ''}. Modelled"
        f" ({HEADLINE}): pages beyond the first."
    )
    if rest:
        note += f" {len(rest)} more have {sum(group.grown_pages for group in rest)} pages."
    marks = ("worst",) if with_marks else ()
    yield Table(
        f"{subject.grouped_by}s with most pages beyond the first",
        (subject.grouped_by, "#Stacks", *marks, "pages"),
        [
            (
                group.name,
                str(group.stacks),
                *([str(group.worst_mark_bytes)] if with_marks else []),
                str(group.grown_pages),
            )
            for group in grown[:GROUPS_SHOWN]
        ],
        note,
    )


def _repeat(subjects: Sequence[Subject], again: Sequence[str]) -> Iterable[Part]:
    yield Commands([*(line for one in subjects for line in one.recording), *again])
    kernels = sorted({one.host.kernel_release for one in subjects})
    yield Paragraph(
        f"dynstack-probe {__version__}; measured on Linux {', '.join(kernels)}. Measuring needs"
        " CAP_BPF and CAP_PERFMON; a report of a capture or of a Prometheus needs neither, on any"
        " machine."
    )
