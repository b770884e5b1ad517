# SPDX-License-Identifier: GPL-2.0-or-later
"""The only owner of what a policy costs: counts of an interval times calibrated prices.

A stack fault is not a page fault, but its parts are: both enter by an exception, set a PTE,
and find, charge and clear a page (a stack fault takes its page from the reserve, and the
refill pays for it at the next switch). What a page fault does besides, and how much slower
a stack fault enters, gives the range (docs/cost-and-safety.md argues each bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.analysis.timeline import rate
from dynstack_probe.model.calibration import Calibration, ExportedCalibration
from dynstack_probe.model.cost import BreakEven, HostCost, PolicyCost, Prices, Range, exactly
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import Host
from dynstack_probe.model.interval import FAULTS, Interval
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.policy import Policy

_NOTHING = Range(0.0, 0.0, 0.0)


def prices_of(calibration: Calibration | None, fault_ns: float | None = None) -> Prices | None:
    """From the calibration, or from a given price of a stack fault; None without either.

    entry: as cheap as a system call at least, as dear as an exception that is taken twice at
    most; most likely as a page fault that maps the zero page. page: the rest of a minor
    fault; at most, of one whose page is in no cache. At fork a page is cleared at least, and
    costs as much as in a fault at most.
    """
    if calibration is None:
        if fault_ns is None:
            return None
        return Prices(exactly(0.0), exactly(fault_ns), None, None)
    bare, clear = calibration.bare_fault_ns, calibration.clear_page_ns
    page = max(clear, calibration.fault_ns - bare)
    cold = max(page, (calibration.cold_fault_ns or 0.0) - bare)
    entry = Range(min(calibration.syscall_ns, bare), bare, 2 * bare)
    if fault_ns is not None:
        page = cold = min(page, fault_ns)
        entry = exactly(fault_ns - page)
    forked = Range(clear, (clear + page) / 2, cold) if clear < page else exactly(clear)
    return Prices(entry, Range(page, page, cold), forked, exactly(clear))


def policy_cost(
    policy: Policy,
    savings: Savings,
    whole: Interval,
    host: Host,
    prices: Prices | None,
    *,
    feasible: bool = True,
) -> PolicyCost:
    """This policy's share of all CPU time.

    feasible: False if some task was deeper than it allows.
    """
    thread_pages = host.thread_pages
    done = rate(policy, whole, thread_pages)
    events, pages = (done.events, done.pages) if done else (0.0, 0.0)
    work = forks = None
    if prices is not None:
        forks = _fork_saving(policy, whole, thread_pages, prices, host)
    if prices is not None and policy.work_is_counted:
        in_advance = done is not None and done.what != FAULTS
        entry = _NOTHING if in_advance else prices.entry.times(events)
        page = prices.forked_page if in_advance and prices.forked_page else prices.page
        work = _share(entry + page.times(pages), host)
    return PolicyCost(
        policy=policy.name,
        savings=savings,
        what=done.what if done else None,
        events_per_second=events,
        pages_per_second=pages,
        avoided_pages_per_second=whole.per_second(policy.avoided_pages(whole, thread_pages)) or 0.0,
        lower_bound=done is not None and done.coverage < 1,
        work_ratio=work,
        fork_saving_ratio=forks,
        feasible=feasible,
    )


def _fork_saving(
    policy: Policy, whole: Interval, thread_pages: int, prices: Prices, host: Host
) -> Range | None:
    """Pages that a new task is not given; its faults pay for those it grows later.

    A cached stack's pages are there already, and today all of them are cleared: under the
    policy those that an earlier owner grew.
    """
    fewer = thread_pages - policy.pages_at_fork(thread_pages)
    if fewer <= 0:
        return _NOTHING
    created, reused = whole.per_second(whole.created), whole.per_second(whole.reused)
    if created is None or prices.forked_page is None or prices.cleared_page is None:
        return None
    cached = min(reused or 0.0, created)
    inherited = whole.per_second(policy.inherited_pages(whole, thread_pages)) or 0.0
    cleared = max(0.0, cached * fewer - inherited)
    ns = prices.forked_page.times((created - cached) * fewer) + prices.cleared_page.times(cleared)
    return _share(ns, host)


def _share(ns_per_second: Range, host: Host) -> Range:
    return ns_per_second.times(1 / (host.cpus * 1e9))


def cpu_seconds(
    policy: Policy, interval: Interval, host: Host, calibration: Calibration
) -> tuple[float, float]:
    """CPU seconds, most likely, that the policy's faults would have taken, and its forks saved."""
    # of one CPU in one second, so that shares are seconds
    whole = replace(interval, seconds=1.0)
    one = policy_cost(policy, Savings(), whole, replace(host, cpus=1), prices_of(calibration))
    work, forks = one.work_ratio, one.fork_saving_ratio
    return (work.best if work else 0.0), (forks.best if forks else 0.0)


def break_even(events: int | None, seconds: float, cpus: int, saved: Range | None) -> BreakEven:
    """The time each event may take; saved: share of all CPU time."""
    a_second = events / seconds if events and seconds > 0 else 0.0
    whole_ns = may_take_ns(1.0, a_second, cpus)
    eaten = None
    if whole_ns is not None and saved is not None and saved.best > 0:
        eaten = replace(saved, low=max(0.0, saved.low)).times(whole_ns)
    return BreakEven(
        events, may_take_ns(0.001, a_second, cpus), may_take_ns(0.01, a_second, cpus), eaten
    )


def may_take_ns(share: float, events_per_second: float, cpus: int) -> float | None:
    """The time each event may take before all reach that share of CPU time; None if none."""
    return share * cpus * 1e9 / events_per_second if events_per_second and cpus else None


def host_cost(
    source: str,
    frame: Frame,
    whole: Interval,
    policies: Sequence[Policy],
    fault_ns: float | None = None,
) -> HostCost:
    """All policies over that time. `frame` tells what they would save."""
    prices = prices_of(whole.calibration, fault_ns)
    shapes = count_shapes(frame.stacks, [policy.asleep_seconds for policy in policies])
    rows = []
    for policy in policies:
        saved = estimate(policy, shapes, frame.host)
        feasible = not saved.over_limit_tasks
        rows.append(policy_cost(policy, saved, whole, frame.host, prices, feasible=feasible))
    return cost_of_rows(source, frame.host.cpus, whole, rows, prices=prices, caveats=frame.caveats)


def cost_of_rows(
    source: str,
    cpus: int,
    whole: Interval,
    rows: Sequence[PolicyCost],
    *,
    prices: Prices | None = None,
    caveats: Sequence[str] = (),
    exported: ExportedCalibration | None = None,
) -> HostCost:
    """Policies with known cost, the headline first, and the break-even prices."""
    headline = rows[0]
    faults = round(headline.events_per_second * whole.seconds) if headline.what == FAULTS else None
    net = headline.net_ratio
    kernel = whole.page_faults.kernel if whole.page_faults else None
    return HostCost(
        source=source,
        cpus=cpus,
        whole=whole,
        prices=prices,
        rows=tuple(rows),
        stack_fault=break_even(faults, whole.seconds, cpus, headline.fork_saving_ratio),
        kernel_page_fault=break_even(
            kernel, whole.seconds, cpus, None if net is None else _NOTHING - net
        ),
        caveats=tuple(caveats),
        exported=exported,
    )


def pareto_best(rows: Sequence[PolicyCost]) -> set[str]:
    """The Pareto front: no other policy saves as much memory for as little CPU time.

    Of those that would have kept every task alive, and whose cost is known.
    """
    known = [(row, row.net_ratio.best) for row in rows if row.feasible and row.net_ratio]
    return {
        row.policy
        for row, net in known
        if row.saved_kib > 0
        and not any(
            other.saved_kib >= row.saved_kib
            and cost <= net
            and (other.saved_kib, -cost) != (row.saved_kib, -net)
            for other, cost in known
        )
    }
