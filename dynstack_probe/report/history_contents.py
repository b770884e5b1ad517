"""What a report of a host's past in Prometheus says.

The daemon counts pages, not bytes, so depths in bytes, single tasks and what follows from
them are not there: such sections say what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dynstack_probe import __version__
from dynstack_probe.analysis.estimate import Estimate, FaultRange
from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet.history import History
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.as_table import RFC_COLUMNS, quoted_rows, rfc_row
from dynstack_probe.output.columns import cells, titles
from dynstack_probe.output.savings import DYNAMIC, NET, NET_OF_RAM, RESERVE, SAVING
from dynstack_probe.policy import HEADLINE
from dynstack_probe.report import figures
from dynstack_probe.report.contents import (
    METHOD,
    SAVINGS_NOTE,
    daemon_errors,
    date,
    made_by,
    threads,
)
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

CGROUPS_SHOWN = 10
NOT_IN_METRICS = (
    "a capture, such as `dynstack-probe record FILE` makes on that host: the daemon counts pages,"
    " not bytes or single tasks."
)


def history_document(history: History, again: Sequence[str], now: float) -> Document:
    """The report. Raises ProbeError where the headline's figures are missing."""
    estimates = _estimates(history)
    if HEADLINE not in estimates:
        raise ProbeError(f"{printable(history.instance)} does not export the policy {HEADLINE}")
    headline = estimates[HEADLINE]
    sections = [
        Section("Host", [Facts(list(_host(history)))]),
        Section("Method and its error", list(_method(history))),
        Section("Headline", list(_headline(history, headline))),
        Section("Depth, ever and now", list(_pages(history))),
        Section("Policies compared", list(_policies(history, estimates))),
        Section("If every stack were a little deeper", [Paragraph(f"This needs {NOT_IN_METRICS}")]),
        Section("Faults over time", list(_faults(history))),
        Section("Who goes deep", list(_who(history))),
        Section("Price of the random stack offset", [Paragraph(f"This needs {NOT_IN_METRICS}")]),
        Section("How to repeat it", [Commands(again), Paragraph(_versions(history))]),
    ]
    return Document(
        f"Dynamic kernel stacks: what they would save on {printable(history.instance)}",
        _summary(headline),
        sections,
        made_by(now),
    )


def _whole(history: History, metric: str, **labels: str) -> int:
    return int(history.last(metric, **labels) or 0)


def _info(history: History, label: str) -> str:
    values = history.label_values("dynstack_host_info", label)
    return printable(values[-1]) if values else "?"


def _estimates(history: History) -> dict[str, Estimate]:
    """The newest of each policy. Faults so far are not there."""
    base_kib = _whole(history, "dynstack_stack_bytes") // 1024
    return {
        name: Estimate(
            policy=name,
            stacks=_whole(history, "dynstack_stacks_read"),
            base_kib=base_kib,
            dynamic_kib=_whole(history, "dynstack_policy_stack_bytes", policy=name) // 1024,
            reserve_kib=_whole(history, "dynstack_policy_reserve_bytes", policy=name) // 1024,
            faults=FaultRange(0, 0, 0),
            over_limit_tasks=_whole(history, "dynstack_policy_over_limit_tasks", policy=name),
            mem_total_kib=max(1, _whole(history, "dynstack_host_memory_bytes") // 1024),
        )
        for name in history.label_values("dynstack_policy_stack_bytes", "policy")
    }


def _summary(headline: Estimate) -> str:
    return (
        f"Measured: {headline.stacks} kernel stacks hold {headline.base_kib} KiB. Modelled: under"
        f" {HEADLINE}, the grow-on-fault scheme of the RFC of March 2024, they would hold"
        f" {headline.dynamic_kib} KiB, {percent(headline.saving_ratio)} less; with its per-CPU"
        f" reserve of {headline.reserve_kib} KiB, {percent(headline.saving_with_reserve_ratio)}"
        f" less, which is {small_percent(headline.saving_with_reserve_of_ram_ratio)} of all"
        " memory. Figures are those of the newest sample of the range."
    )


def _host(history: History) -> Iterable[tuple[str, str]]:
    asked = history.asked
    yield (
        "Processor",
        f"{_info(history, 'cpu_model')}, {_whole(history, 'dynstack_host_cpus')} CPUs online",
    )
    yield "Memory", f"{_whole(history, 'dynstack_host_memory_bytes') >> 20} MiB"
    yield "Kernel", f"Linux {_info(history, 'kernel_release')}"
    yield "Stacks", f"{_info(history, 'thread_size_bytes')} bytes each (THREAD_SIZE)"
    kinds = {kind: _whole(history, "dynstack_tasks", kind=kind.label) for kind in Kind}
    yield "Threads", threads(kinds)
    yield (
        "Source",
        f"{history.url}, instance {printable(history.instance)}, job {printable(history.job)};"
        f" {date(asked.end - asked.seconds)} to {date(asked.end)},"
        f" every {asked.step_seconds} s",
    )


def _method(history: History) -> Iterable[Part]:
    yield Paragraph(METHOD)
    counted = history.last("dynstack_kernel_stacks")
    read = _whole(history, "dynstack_stacks_read")
    said = "?" if counted is None else str(int(counted))
    missed = 0 if counted is None else max(0, int(counted) - read)
    steps = len(history.sums("dynstack_stack_bytes"))
    wanted = int(history.asked.seconds // history.asked.step_seconds) + 1
    rows = [
        (
            "Coverage",
            f"The kernel counts {said} stacks (off by up to some dozens); {read} were read,"
            f" {missed} missed, of which {_whole(history, 'dynstack_stacks_unreadable')} were"
            " found but not readable.",
        ),
        ("Samples", f"{steps} of {wanted} moments asked for have one."),
    ]
    erased = _whole(history, "dynstack_stacks_erased")
    if erased:
        rows.append(("Erased", f"{erased} stacks were overwritten by KSTACK_ERASE."))
    rows += [("Note", printable(line)) for line in history.warnings]
    yield Facts(rows)
    yield daemon_errors()


def _headline(history: History, headline: Estimate) -> Iterable[Part]:
    name = f"This: {_info(history, 'cpu_model')}"
    own = rfc_row(name, _whole(history, "dynstack_host_cpus"), headline)
    yield Table(
        "",
        RFC_COLUMNS,
        [own, *quoted_rows()],
        "First row: BASE measured, Dynamic and Saving modelled, the newest sample. Quoted rows:"
        " the RFC's own, from idle and freshly booted machines that ran it. KiB; no row counts"
        " the reserve in.",
    )
    base = history.sums("dynstack_stack_bytes")
    held = history.sums("dynstack_policy_stack_bytes", policy=HEADLINE)
    times = sorted(base.keys() & held.keys())
    if len(times) > 1:
        yield figures.memory_over_time(
            [at - times[0] for at in times],
            [base[at] / 1024 for at in times],
            [held[at] / 1024 for at in times],
            "Dynamic counts reuse of grown stacks by tasks created since the daemon's start.",
        )


def _pages(history: History) -> Iterable[Part]:
    by_pages = _tasks_by_pages(history)
    if not by_pages:
        yield Paragraph(f"This needs {NOT_IN_METRICS}")
        return
    newest = {pages: int(values[max(values)]) for pages, values in by_pages.items()}
    yield figures.tasks_by_pages(newest)
    times = sorted(set.intersection(*(set(values) for values in by_pages.values())))
    if len(times) > 1:
        yield figures.pages_over_time(
            [at - times[0] for at in times],
            {pages: [values[at] for at in times] for pages, values in by_pages.items()},
        )
    deepest = history.sums("dynstack_deepest_stack_bytes")
    if deepest:
        yield Paragraph(
            f"The deepest mark of that time was {max(deepest.values()):.0f} bytes, measured."
            f" Depth now, and all depths in bytes, need {NOT_IN_METRICS}"
        )


def _tasks_by_pages(history: History) -> dict[int, dict[float, float]]:
    names = history.label_values("dynstack_tasks", "pages")
    sums = {
        int(name): history.sums("dynstack_tasks", pages=name)
        for name in names
        if name.isdecimal() and len(name) < 3
    }
    return {pages: sums[pages] for pages in sorted(sums) if sums[pages]}


def _policies(history: History, estimates: Mapping[str, Estimate]) -> Iterable[Part]:
    rows = []
    savings = (DYNAMIC, RESERVE, SAVING, NET, NET_OF_RAM)
    for name, estimate in estimates.items():
        rates = history.sums("dynstack_policy_faults_total", policy=name)
        mean = sum(rates.values()) / len(rates) if rates else None
        faults = "-" if mean is None else f"{mean:.2f}"
        rows.append([printable(name), *cells(savings, estimate), faults])
    yield Table(
        "",
        ("Policy", *titles(savings), "faults/s"),
        rows,
        "All modelled, KiB, the newest sample; faults a second: the mean of the range."
        f" {SAVINGS_NOTE} Reuse of grown stacks is counted. Policies that need depths in bytes are"
        " not exported.",
    )
    yield figures.savings_plot(
        "Saving by policy, with the reserve",
        [(printable(name), one.saving_with_reserve_ratio) for name, one in estimates.items()],
    )
    over = [
        (printable(name), f"{one.over_limit_tasks} tasks")
        for name, one in estimates.items()
        if one.over_limit_tasks
    ]
    if over:
        yield Paragraph("Living tasks that were deeper than a policy allows, each an overflow:")
        yield Facts(over)


def _spans(history: History, metric: str, **labels: str) -> list[figures.Span]:
    rates = history.sums(metric, **labels)
    step = history.asked.step_seconds
    first = min(rates, default=0.0)
    return [(at - first, step, rates[at]) for at in sorted(rates)]


def _faults(history: History) -> Iterable[Part]:
    faults = _spans(history, "dynstack_policy_faults_total", policy=HEADLINE)
    if not faults:
        yield Paragraph("The server has no rate of faults from that time.")
        return
    over = history.asked.rate_seconds
    yield Paragraph(
        f"{HEADLINE} would have taken {figures.mean(faults):.2f} faults a second over"
        f" {history.asked.seconds:.0f} s, {max(value for _, _, value in faults):.2f} in the"
        f" busiest {over} s, modelled."
    )
    yield figures.rates_over_time(
        f"Stack faults a second ({HEADLINE})",
        "faults a second",
        {HEADLINE: faults},
        f"Modelled, each a mean over the {over} s before. Reuse of grown stacks is counted.",
    )
    created = _spans(history, "dynstack_created_tasks_total")
    exited = _spans(history, "dynstack_exited_tasks_total")
    if created and exited:
        yield figures.rates_over_time(
            "Tasks created and exited a second",
            "tasks a second",
            {"created": created, "exited": exited},
            f"Measured by tracepoints, each a mean over the {over} s before.",
            in_text=False,
        )


def _who(history: History) -> Iterable[Part]:
    rows = []
    size = int(history.last("dynstack_stack_bytes") or 0) // max(
        1, _whole(history, "dynstack_stacks_read")
    )
    for name in history.label_values("dynstack_cgroup_stack_bytes", "cgroup"):
        base = _whole(history, "dynstack_cgroup_stack_bytes", cgroup=name)
        held = _whole(history, "dynstack_cgroup_policy_stack_bytes", cgroup=name, policy=HEADLINE)
        stacks = base // size if size else 0
        rows.append((printable(name), stacks, max(0, held // PAGE_BYTES - stacks)))
    rows.sort(key=lambda row: (-row[2], row[0]))
    if rows:
        yield Table(
            "Cgroups with most pages beyond the first",
            ("Cgroup", "#Stacks", "pages"),
            [(name, str(stacks), str(pages)) for name, stacks, pages in rows[:CGROUPS_SHOWN]],
            f"Stacks are measured; pages beyond the first modelled ({HEADLINE}). The newest"
            " sample, of the cgroups that the daemon names.",
        )
    yield Paragraph(f"The names of tasks need {NOT_IN_METRICS}")


def _versions(history: History) -> str:
    return (
        f"dynstack-probe {__version__}; measured on Linux {_info(history, 'kernel_release')} by"
        " `dynstack-probe serve`."
    )
