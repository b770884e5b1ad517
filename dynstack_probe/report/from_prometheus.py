# SPDX-License-Identifier: GPL-2.0-or-later
"""A report's subject from a host's past in Prometheus.

The daemon counts pages, not bytes, so depths in bytes, single tasks and what follows from
them are not there.
"""

from __future__ import annotations

import datetime
import shlex
import time
from collections.abc import Iterable, Sequence

from dynstack_probe.analysis.comparison import Row
from dynstack_probe.analysis.estimate import Estimate, FaultRange, Group
from dynstack_probe.analysis.timeline import Rate
from dynstack_probe.errors import ProbeError
from dynstack_probe.model.history import History, Span
from dynstack_probe.model.host import Host
from dynstack_probe.model.interval import FAULTS
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import series_of
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.savings import series_rows
from dynstack_probe.policy import BUILT_IN, HEADLINE
from dynstack_probe.report.document import Document
from dynstack_probe.report.figures import mean
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
        rows=_rows(history, moment),
        pages={n: int(values[-1]) for n, values in _pages(history, [moment]).items()},
        groups=list(_groups(history, moment, size)),
        grouped_by="Cgroup",
        dynamic_errs="Dynamic counts reuse of grown stacks by tasks created since the daemon's"
        " start.",
        faults_err="Reuse of grown stacks is counted.",
        rate_of=f"{history.asked.step_seconds} s",
        series=series,
        over_time=[(t - times[0], base[t] / 1024, dynamic[t] / 1024) for t in times],
        pages_over_time=_pages_over_time(history, times),
        faults=history.rates("dynstack_policy_faults_total", policy=HEADLINE),
        created=history.rates("dynstack_created_tasks_total"),
        exited=history.rates("dynstack_exited_tasks_total"),
        seconds=history.asked.seconds,
        missing=MISSING,
        facts=[*series_rows(series), *_deepest(history)],
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


def _rows(history: History, moment: float) -> list[Row]:
    rows = []
    for name in history.label_values("dynstack_policy_stack_bytes", "policy"):
        policy = BUILT_IN.get(name)
        if policy is None:
            continue  # of another version of the daemon
        estimate = _estimate(history, moment, name)
        over = [(b"living tasks", estimate.over_limit_tasks)] if estimate.over_limit_tasks else []
        rows.append(Row(policy, estimate, _rate(history, name), over))
    return rows


def _rate(history: History, policy: str) -> Rate | None:
    faults = history.rates("dynstack_policy_faults_total", policy=policy)
    pages: Sequence[Span] = history.rates("dynstack_policy_fault_pages_total", policy=policy)
    return Rate(FAULTS, mean(faults), mean(pages)) if faults else None


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
    yield "Samples", f"{steps} of {wanted} moments asked for have one."
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
    history: History, times: Sequence[float]
) -> tuple[list[float], dict[int, list[float]]] | None:
    counts = _pages(history, times)
    return ([t - times[0] for t in times], counts) if counts and len(times) > 1 else None


def _deepest(history: History) -> Iterable[tuple[str, str]]:
    deepest = history.sums("dynstack_deepest_stack_bytes")
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
