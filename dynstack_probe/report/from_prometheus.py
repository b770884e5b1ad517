# SPDX-License-Identifier: GPL-2.0-or-later
"""A report's subject from a host's past in Prometheus.

The daemon counts pages, not bytes, so depths in bytes, single tasks and what follows from
them are not there.
"""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dynstack_probe.analysis.comparison import Row
from dynstack_probe.analysis.cost import cost_of_rows, pareto_best
from dynstack_probe.analysis.estimate import Estimate, FaultRange, Group
from dynstack_probe.analysis.safety import ExportedSafety, a_cpu_pages, deep_kib
from dynstack_probe.analysis.timeline import Rate
from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet.costs import CPUS, DEEPEST, HEADROOM, RATES, over_range
from dynstack_probe.model.calibration import ExportedCalibration
from dynstack_probe.model.cost import HostCost, PolicyCost, exactly
from dynstack_probe.model.headroom import FreeMemory
from dynstack_probe.model.history import History, Span, length, mean
from dynstack_probe.model.host import PAGE_BYTES, PAGE_KIB, Host
from dynstack_probe.model.interval import FAULTS, Interval, PageFaults
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import series_of
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.savings import series_rows
from dynstack_probe.policy import BUILT_IN, HEADLINE
from dynstack_probe.report.document import Document
from dynstack_probe.report.from_frames import MEASURED_ERRORS
from dynstack_probe.report.sections import document_of
from dynstack_probe.report.subject import Subject
from dynstack_probe.text import date, printable

_ERRORS = (
    *MEASURED_ERRORS,
    (
        "Dynamic, saving",
        "Modelled. Stacks that the kernel hands out again keep their grown pages, which is"
        " counted for tasks created since the daemon's start. For older ones Dynamic errs low.",
    ),
    (
        "Faults a second",
        "Modelled: one a grown page, less those that a fault skipped or that came with a stack"
        " used before.",
    ),
)
MISSING = (
    "The daemon counts pages, not bytes or single tasks: depths in bytes, the names of tasks and"
    " the price of the random stack offset need a capture, such as `dynstack-probe record FILE`"
    " makes on that host."
)
_FAULT_CPU, _FORK_CPU = (RATES[figure][0] for figure in ("faults_cpu", "forks_cpu"))
_PRICES = ("dynstack_calibrated_fault_seconds", "dynstack_calibrated_clear_page_seconds")


def subject_of(history: History) -> Subject:
    """Raises ProbeError where the headline's figures are missing."""
    base = history.sums("dynstack_stack_bytes")
    dynamic = history.sums("dynstack_policy_stack_bytes", policy=HEADLINE)
    times = sorted(base.keys() & dynamic.keys())
    if not times:
        raise ProbeError(f"{printable(history.instance)} does not export the policy {HEADLINE}")
    size = max(1, history.at(times[-1], "dynstack_stack_bytes")) // max(
        1, history.at(times[-1], "dynstack_stacks_read")
    )
    host = _host(history, times[-1], size)
    at, series = series_of(times, [_savings(history, moment, HEADLINE) for moment in times])
    moment = times[at]
    headline = _estimate(history, moment, HEADLINE)
    rows = _rows(history, moment, host.cpus)
    pages = _pages(history, times)
    cost = _cost(history, host, [row.cost for row in rows if row.cost])
    safety = _safety(history, host, headline, pages)
    return Subject(
        name=history.instance,
        called=host.cpu_model,
        host=host,
        options="",
        kinds={kind: history.at(moment, "dynstack_tasks", kind=kind.label) for kind in Kind},
        origin=_origin(history),
        coverage=list(_coverage(history, moment)),
        errors=_ERRORS,
        missed=max(0, history.at(moment, "dynstack_kernel_stacks") - headline.stacks),
        headline=headline,
        headline_of="of the moment with the median saving",
        rows=rows,
        pages={n: int(values[-1]) for n, values in _pages(history, [moment]).items()},
        groups=list(_groups(history, moment, size)),
        grouped_by="Cgroup",
        dynamic_errs="Dynamic counts reuse of grown stacks by tasks created since the daemon's"
        " start.",
        faults_err="Reuse of grown stacks is counted.",
        rate_of=f"{history.asked.step_seconds} s",
        series=series,
        over_time=[(t - times[0], base[t] / 1024, dynamic[t] / 1024) for t in times],
        pages_over_time=_pages_over_time(pages, times),
        faults=history.rates("dynstack_policy_faults_total", policy=HEADLINE),
        created=history.rates("dynstack_created_tasks_total"),
        exited=history.rates("dynstack_exited_tasks_total"),
        seconds=history.asked.seconds,
        missing=" ".join([MISSING, *_left_out(history, cost, safety)]),
        facts=[*series_rows(series), *([] if safety else _deepest(history))],
        cost=cost,
        safety=safety,
        headroom=list(_headroom(history)),
        headroom_of="values, each the minimum since the previous one",
    )


def document_of_history(history: History) -> Document:
    """The report. Raises ProbeError as subject_of()."""
    asked = history.asked
    begin = datetime.datetime.fromtimestamp(asked.end - asked.seconds, datetime.UTC)
    again = (
        f"dynstack-probe report --prometheus {shlex.quote(history.url)}"
        f" --instance {shlex.quote(printable(history.instance))}"
        f" --job {shlex.quote(printable(history.job))}"
        f" --from {begin:%Y-%m-%dT%H:%M:%SZ} --duration {asked.seconds:.0f}s"
    )
    return document_of([subject_of(history)], [again, f"{again} --format text"], time.time())


def _info(history: History, label: str) -> str:
    values = history.label_values("dynstack_host_info", label)
    return values[-1] if values else "?"


def _host(history: History, moment: float, size: int) -> Host:
    return Host(
        cpu_model=_info(history, "cpu_model"),
        cpus=history.at(moment, "dynstack_host_cpus"),
        kernel_release=_info(history, "kernel_release"),
        thread_size_bytes=size,
        mem_total_kib=max(1, history.at(moment, "dynstack_host_memory_bytes") // 1024),
    )


def _savings(history: History, moment: float, policy: str) -> Savings:
    return Savings(
        stacks=history.at(moment, "dynstack_stacks_read"),
        base_kib=history.at(moment, "dynstack_stack_bytes") // 1024,
        dynamic_kib=history.at(moment, "dynstack_policy_stack_bytes", policy=policy) // 1024,
        reserve_kib=history.at(moment, "dynstack_policy_reserve_bytes", policy=policy) // 1024,
        mem_total_kib=max(1, history.at(moment, "dynstack_host_memory_bytes") // 1024),
    )


def _estimate(history: History, moment: float, policy: str) -> Estimate:
    """Faults so far are not there."""
    return Estimate(
        **vars(_savings(history, moment, policy)),
        policy=policy,
        faults=FaultRange(0, 0, 0),
        over_limit_tasks=history.at(moment, "dynstack_policy_over_limit_tasks", policy=policy),
    )


def _rows(history: History, moment: float, cpus: int) -> list[Row]:
    rows = []
    for name in history.label_values("dynstack_policy_stack_bytes", "policy"):
        policy = BUILT_IN.get(name)
        if policy is None:
            continue  # of another version of the daemon
        estimate = _estimate(history, moment, name)
        over = [(b"living tasks", estimate.over_limit_tasks)] if estimate.over_limit_tasks else []
        rate = _rate(history, name)
        rows.append(Row(policy, estimate, rate, over, _policy_cost(history, estimate, rate, cpus)))
    best = pareto_best([row.cost for row in rows if row.cost])
    return [replace(row, pareto_best=row.policy.name in best) for row in rows]


def _rate(history: History, policy: str) -> Rate | None:
    faults = history.rates("dynstack_policy_faults_total", policy=policy)
    pages: Sequence[Span] = history.rates("dynstack_policy_fault_pages_total", policy=policy)
    return Rate(FAULTS, mean(faults), mean(pages)) if faults else None


def _policy_cost(
    history: History, estimate: Estimate, rate: Rate | None, cpus: int
) -> PolicyCost | None:
    """None where the range does not tell."""
    found = over_range(history, estimate.policy, cpus)
    if found.faults_ratio is None or found.fork_saving_ratio is None:
        return None
    avoided = history.rates("dynstack_policy_avoided_fault_pages_total", policy=estimate.policy)
    return PolicyCost(
        policy=estimate.policy,
        savings=estimate,
        what=rate.what if rate else None,
        events_per_second=found.faults_per_second,
        pages_per_second=rate.pages if rate else 0.0,
        avoided_pages_per_second=mean(avoided),
        lower_bound=False,
        work_ratio=exactly(found.faults_ratio),
        fork_saving_ratio=exactly(found.fork_saving_ratio),
        feasible=not found.too_deep_tasks,
    )


def _cost(history: History, host: Host, costs: Sequence[PolicyCost]) -> HostCost | None:
    """The headline's; None where the range does not tell it, or at what prices."""
    headline = [cost for cost in costs if cost.policy == HEADLINE]
    fault, clear = (history.last(price) for price in _PRICES)
    if not headline or fault is None or clear is None:
        return None
    seconds = length(history.rates(_FAULT_CPU, policy=HEADLINE))

    def count(metric: str, **labels: str) -> int | None:
        spans = history.rates(metric, **labels)
        return round(mean(spans) * seconds) if spans else None

    user, kernel = (count("dynstack_page_faults_total", mode=mode) for mode in ("user", "kernel"))
    whole = Interval(
        seconds,
        created=count("dynstack_created_tasks_total"),
        reused=count("dynstack_reused_stacks_total"),
        page_faults=None if user is None or kernel is None else PageFaults(user, kernel),
    )
    others = [cost for cost in costs if cost.policy != HEADLINE]
    exported = ExportedCalibration(fault_ns=fault * 1e9, clear_page_ns=clear * 1e9)
    rows = [*headline, *others]
    return cost_of_rows(history.instance, host.cpus, whole, rows, exported=exported)


def _safety(
    history: History, host: Host, headline: Estimate, pages: Mapping[int, Sequence[float]]
) -> ExportedSafety | None:
    """None where free memory was not sampled."""
    found = over_range(history, HEADLINE, host.cpus)
    if found.headroom_kib is None or found.deepest_bytes is None:
        return None
    deeper = {}
    for kib in deep_kib(host.thread_size_bytes) if pages else ():
        counts = [values for number, values in pages.items() if number * PAGE_KIB > kib]
        deeper[kib] = int(max(map(sum, zip(*counts, strict=True)), default=0))
    return ExportedSafety(
        free=FreeMemory(tuple(free for _, free in _headroom(history))),
        reserve_pages=headline.reserve_kib // PAGE_KIB,
        a_cpu_pages=a_cpu_pages(BUILT_IN[HEADLINE], host.thread_pages),
        deepest_bytes=found.deepest_bytes,
        deeper=deeper,
        too_deep_tasks=found.too_deep_tasks,
    )


def _headroom(history: History) -> Iterable[tuple[float, int]]:
    """Seconds since the first moment that has it, and free pages."""
    samples = sorted(history.sums(HEADROOM).items())
    return ((at - samples[0][0], int(free) // PAGE_BYTES) for at, free in samples)


def _left_out(
    history: History, cost: HostCost | None, safety: ExportedSafety | None
) -> Iterable[str]:
    """Which sections the range can't fill, and why."""

    def none_of(*metrics: str) -> list[str]:
        return [metric for metric in metrics if history.last(metric) is None]

    if cost is None:
        counters = (_FAULT_CPU, _FORK_CPU)
        once = [name for name in counters if not history.rates(name, policy=HEADLINE)]
        lacking = ", ".join([*once, *none_of(*_PRICES, CPUS)])
        yield (
            f"The cost is left out: this range has fewer than two samples of {lacking}, which older"
            " daemons, and those that could not calibrate, do not export."
        )
    if safety is None:
        lacking = ", ".join(none_of(HEADROOM, DEEPEST))
        yield (
            f"Safety is left out: this range has no {lacking}, which older daemons do not export."
        )


def _origin(history: History) -> str:
    asked = history.asked
    return (
        f"{history.url}, instance {history.instance}, job {history.job};"
        f" {date(asked.end - asked.seconds)} to {date(asked.end)}, every {asked.step_seconds} s"
    )


def _coverage(history: History, moment: float) -> Iterable[tuple[str, str]]:
    counted = history.last("dynstack_kernel_stacks")
    read = history.at(moment, "dynstack_stacks_read")
    kernel = history.at(moment, "dynstack_kernel_stacks")
    steps = len(history.sums("dynstack_stack_bytes"))
    wanted = int(history.asked.seconds // history.asked.step_seconds) + 1
    yield (
        "Coverage",
        f"The kernel counts {'?' if counted is None else kernel} stacks (off by up to some"
        f" dozens); {read} were read, {max(0, kernel - read)} missed, of which"
        f" {history.at(moment, 'dynstack_stacks_unreadable')} were found but not readable.",
    )
    yield "Samples", f"{steps} of {wanted} query steps have one."
    erased = history.at(moment, "dynstack_stacks_erased")
    if erased:
        yield "Erased", f"{erased} stacks were overwritten by KSTACK_ERASE."
    for line in history.warnings:
        yield "Note", line


def _pages(history: History, times: Sequence[float]) -> dict[int, list[float]]:
    """Stacks by pages down to the mark, at each of these moments."""
    names = history.label_values("dynstack_tasks", "pages")
    numbers = sorted(int(name) for name in names if name.isdecimal() and len(name) < 3)
    return {
        number: [float(history.at(t, "dynstack_tasks", pages=str(number))) for t in times]
        for number in numbers
    }


def _pages_over_time(
    counts: Mapping[int, Sequence[float]], times: Sequence[float]
) -> tuple[list[float], Mapping[int, Sequence[float]]] | None:
    return ([t - times[0] for t in times], counts) if counts and len(times) > 1 else None


def _deepest(history: History) -> Iterable[tuple[str, str]]:
    """Of a daemon that does not export the rest of what is told of safety."""
    deepest = history.sums(DEEPEST)
    if deepest:
        yield (
            "Deepest",
            f"{max(deepest.values()):.0f} bytes, the deepest mark of that time, measured",
        )


def _groups(history: History, moment: float, size: int) -> Iterable[Group]:
    for name in history.label_values("dynstack_cgroup_stack_bytes", "cgroup"):
        base = history.at(moment, "dynstack_cgroup_stack_bytes", cgroup=name)
        dynamic = history.at(
            moment, "dynstack_cgroup_policy_stack_bytes", cgroup=name, policy=HEADLINE
        )
        yield Group(
            name=name,
            stacks=base // size if size else 0,
            base_kib=base // 1024,
            dynamic_kib=dynamic // 1024,
        )
