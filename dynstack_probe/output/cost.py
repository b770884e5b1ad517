# SPDX-License-Identifier: GPL-2.0-or-later
"""`cost`: what a policy would cost in CPU time, and whether it is safe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from dynstack_probe.analysis.cost import pareto_best
from dynstack_probe.analysis.safety import ExportedSafety, Safety, shares
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.cost import BreakEven, HostCost, PolicyCost, Range
from dynstack_probe.model.headroom import FreeMemory
from dynstack_probe.model.host import PAGE_KIB
from dynstack_probe.model.interval import FAULTS
from dynstack_probe.output.columns import Column, as_dict, cells, csv_text, json_text, titles
from dynstack_probe.output.rates import NO_FAULT_NS, nanoseconds, per_second
from dynstack_probe.text import counted, names_in_words, percent, printable, small_percent

SCHEMA_VERSION = 1
NAMES_SHOWN = 4
# measure.contexts.Context.UNKNOWN, which this room does not know
CANT_BE_TOLD = "can't be told"
NO_PREEMPT_COUNT = "this kernel has no CONFIG_PREEMPT_COUNT, or its preempt count was not found"
_Name = TypeVar("_Name", bound=str)


def ratio_in_words(ratio: Range | None) -> str:
    """The best guess, and its bounds."""
    if ratio is None:
        return "not known"
    if ratio.low == ratio.high:
        return small_percent(ratio.best)
    return (
        f"{small_percent(ratio.best)} ({small_percent(ratio.low)} to {small_percent(ratio.high)})"
    )


def _net(row: PolicyCost) -> str | None:
    bound = ">=" if row.lower_bound else ""
    return bound + small_percent(row.net_ratio.best) if row.net_ratio else None


def worth_in_words(row: PolicyCost) -> str | None:
    """KiB for 0.001% of all CPU time."""
    if row.net_ratio is None:
        return None
    if row.kib_per_unit is None:
        return "free" if row.saved_kib > 0 else "-"
    return f"{row.kib_per_unit:.0f}"


def _ratio(key: str, of: str, part: str) -> Column[PolicyCost]:
    """A figure of a JSON document or CSV file: the best guess of a ratio, or one of its bounds."""

    def value(row: PolicyCost) -> float | None:
        found = getattr(row, of)
        return None if found is None else float(getattr(found, part))

    return Column(key if part == "best" else f"{key}_{part}", value, digits=12, modelled=True)


RATIOS = {
    "work_cpu_ratio": "work_ratio",
    "fork_saving_cpu_ratio": "fork_saving_ratio",
    "net_cpu_ratio": "net_ratio",
}
ROW: tuple[Column[PolicyCost], ...] = (
    Column("policy", lambda row: row.policy),
    Column("rate_of", lambda row: row.what or ""),
    Column("events_per_second", lambda row: row.events_per_second, digits=3, modelled=True),
    Column("pages_per_second", lambda row: row.pages_per_second, digits=3, modelled=True),
    Column(
        "avoided_pages_per_second",
        lambda row: row.avoided_pages_per_second,
        digits=3,
        modelled=True,
    ),
    Column("lower_bound", lambda row: row.lower_bound),
    *(_ratio(key, of, part) for key, of in RATIOS.items() for part in ("best", "low", "high")),
    Column("saved_kib", lambda row: row.saved_kib, modelled=True),
    Column("kib_per_0_001_percent", lambda row: row.kib_per_unit, digits=1, modelled=True),
    Column("feasible", lambda row: row.feasible),
)
TABLE: tuple[Column[PolicyCost], ...] = (
    Column("policy", lambda row: row.policy, "Policy"),
    Column("saved", lambda row: row.saved_kib, "saved KiB"),
    Column("work", lambda row: row.work_ratio and row.work_ratio.best, "work", small_percent),
    Column("net", _net, "net CPU"),
    Column("worth", worth_in_words, "KiB/0.001%"),
)


def as_table(cost: HostCost, safety: Safety) -> str:
    """One screen, at most 80 columns."""
    from dynstack_probe.output.tables import console_for_stdout, facts, grid, plain

    console = console_for_stdout()
    console.print(
        f"What {printable(cost.headline.policy)} would cost"
        f" ({printable(cost.source)}, {cost.whole.seconds:.0f} s, {cost.cpus} CPUs)"
    )
    console.print(facts(cost_rows(cost)))
    if len(cost.rows) > 1:
        console.print()
        best = pareto_best(cost.rows)
        star = Column[PolicyCost]("best", lambda row: "*" if row.policy in best else "", "best")
        columns = (*TABLE, star)
        first, *names = titles(columns)
        console.print(grid(first, names, [cells(columns, row) for row in cost.rows]))
        console.print(BEST_WORDS)
    console.print()
    console.print("Is it safe")
    console.print(facts([*safety_rows(safety), *(("Note", note) for note in cost.caveats)]))
    return plain(console)


BEST_WORDS = (
    "saved: with the reserve paid. work: faults or refills; net: less what forks save."
    " *: no other saves as much for as little."
)


def cost_rows(cost: HostCost) -> Iterable[tuple[str, str]]:
    """The first half of the screen: the figures, and how each was obtained."""
    row = cost.headline
    yield "Net", _net_in_words(row)
    yield "Measured", _measured(cost)
    yield "Calibrated", _calibrated(cost)
    if row.what == FAULTS:
        yield "Stack faults", _stack_faults(cost)
    elif row.what is not None:
        yield "Refills", _refills(row)
    yield "Cheaper forks", _forks(cost)
    yield "#PF path", _even("page fault", " in kernel mode", cost.kernel_page_fault, cost)
    if row.what == FAULTS:
        yield "Break-even", _even("stack fault", "", cost.stack_fault, cost)
    if cost.exported is not None:
        yield "Not told", _RANGES_NOT_TOLD


def _net_in_words(row: PolicyCost) -> str:
    """The answer: memory saved, and its net cost in CPU time."""
    saved = f"{row.saved_kib} KiB saved with the reserve paid"
    if row.net_ratio is None:
        return f"modelled: {saved}, CPU cost unknown"
    bound = "at least " if row.lower_bound else ""
    told = f"modelled: {bound}{ratio_in_words(row.net_ratio)} of all CPU time, {saved}"
    if row.saved_kib > 0 and row.kib_per_unit:
        most = "at most " if row.lower_bound else ""
        told += f": {most}{row.kib_per_unit:.0f} KiB for 0.001% of CPU time"
    return told + _which_way(row.net_ratio)


def _which_way(net: Range) -> str:
    if net.best >= 0:
        return ""
    if net.low == net.high:
        return ". Negative: at best guess it saves time too"
    if net.high < 0:
        return ". Negative: it saves time too"
    return ". Negative: likely it saves time too, but the range leaves that open"


def _measured(cost: HostCost) -> str:
    whole = cost.whole
    created, reused = whole.per_second(whole.created), whole.per_second(whole.reused)
    parts = ["tasks created: not counted"]
    if created is not None:
        share = f", {percent((reused or 0) / created)} on a cached stack" if created else ""
        parts = [f"{per_second(created)} tasks created a second{share}"]
    if whole.page_faults is None:
        parts.append("page faults: not counted")
    else:
        user, kernel = (whole.per_second(n) or 0.0 for n in whole.page_faults)
        parts.append(
            f"page faults a second: {per_second(user)} in user mode (errs high: pages that the"
            f" kernel faults in itself), {per_second(kernel)} in kernel mode on user memory"
        )
    return "; ".join(parts)


def _calibrated(cost: HostCost) -> str:
    found, exported = cost.whole.calibration, cost.exported
    if exported is not None:
        return (
            f"a minor page fault {exported.fault_ns:.0f} ns, clearing a page"
            f" {exported.clear_page_ns:.0f} ns, as the daemon started: load then makes them err"
            " high"
        )
    if found is None:
        return "none: this capture has no calibration"
    cold = "" if found.cold_fault_ns is None else f", {found.cold_fault_ns:.0f} on cold memory"
    return (
        f"a minor page fault {found.fault_ns:.0f} ns (quartiles {percent(found.spread_ratio)}"
        f" apart){cold}, {found.bare_fault_ns:.0f} without its page; clearing a page"
        f" {found.clear_page_ns:.0f} ns, a system call {found.syscall_ns:.0f} ns; medians with"
        f" {found.runnable} runnable{'' if found.pinned else ', not pinned'}: load makes them"
        " err high"
    )


def _stack_faults(cost: HostCost) -> str:
    row, prices = cost.headline, cost.prices
    told = (
        f"modelled: {per_second(row.events_per_second)} faults of"
        f" {per_second(row.pages_per_second)} pages a second"
    )
    if row.avoided_pages_per_second:
        told += (
            f" ({per_second(row.avoided_pages_per_second)} more pages a second came with a"
            " cached stack)"
        )
    if row.work_ratio is None:
        return f"{told}; price unknown: give --fault-ns N"
    if prices is None:
        return f"{told} (errs high): {ratio_in_words(row.work_ratio)} of all CPU time"
    fault = prices.fault
    each = (
        f"{fault.best:.0f} ns each"
        if fault.low == fault.high
        else f"{fault.best:.0f} ns each ({fault.low:.0f} to {fault.high:.0f}), refill included"
    )
    return f"{told} (errs high), {each}: {ratio_in_words(row.work_ratio)} of all CPU time"


def _refills(row: PolicyCost) -> str:
    bound = "at least " if row.lower_bound else ""
    return (
        f"modelled: {bound}{per_second(row.events_per_second)} refills of"
        f" {per_second(row.pages_per_second)} pages a second: {bound}"
        f"{ratio_in_words(row.work_ratio)} of all CPU time. If each reclaim needs a TLB"
        f" shootdown, {per_second(row.events_per_second)} of these a second; their time and"
        " the search for pages to take are not counted"
    )


def _forks(cost: HostCost) -> str:
    row = cost.headline
    if row.fork_saving_ratio is None:
        return "unknown: task creation was not counted, or there is no calibration"
    if not row.fork_saving_ratio.high:
        return "none: a new task gets all of its pages, or none was created"
    bounds = ": cleared at least, found and charged at most" if cost.prices else ""
    return (
        f"modelled: {ratio_in_words(row.fork_saving_ratio)} of all CPU time for pages that a"
        f" new task does not get{bounds}"
    )


def _even(what: str, where: str, even: BreakEven, cost: HostCost) -> str:
    if even.events is None:
        return f"{what}s{where} were not counted"
    if even.tenth_percent is None or even.one_percent is None or not even.is_sound:
        return (
            f"{counted(even.events, what)}{where} in {cost.whole.seconds:.0f} s: too few to tell"
            " what each may cost"
        )
    what += where
    more = " more" if where else ""
    if even.tenth_percent > NO_FAULT_NS:
        told = f"each {what} may cost over 1 ms{more}, before all take 0.1% of CPU time"
    else:
        tenth, one = nanoseconds(even.tenth_percent), nanoseconds(even.one_percent)
        told = (
            f"each {what} may cost {tenth}{more} before all take 0.1% of CPU time, {one} before 1%"
        )
    if even.fork_saving is not None:
        eaten = even.fork_saving
        low, best, high = (nanoseconds(bound) for bound in (eaten.low, eaten.best, eaten.high))
        bounds = f" ({low} to {high})" if eaten.low != eaten.high else ""
        told += f", {best}{bounds} before that eats what is saved"
    return f"from counts: {told}; errs low, as counts err high"


def safety_rows(safety: Safety) -> Iterable[tuple[str, str]]:
    """The second half."""
    yield "Headroom", _headroom(safety)
    yield "Cgroups", _cgroups(safety)
    yield "Reserve", _reserve(safety)
    yield "Contexts", _contexts(safety)
    deeper = "; ".join(_deeper(kib, safety) for kib in safety.deeper)
    yield "Deepest", f"{_deepest(safety.deepest_bytes)}; {deeper}"


_RANGES_NOT_TOLD = (
    "the bounds of these prices: the daemon exports best guesses (`cost` and `record` on that"
    " host tell how far off they may be), and its page faults in kernel mode are scaled from the"
    " seconds in which it counts them"
)
_SAFETY_NOT_TOLD = (
    "what no daemon samples: in which contexts stacks are deep and what one run on a CPU takes"
    " of the reserve (`faults`), stalled allocations, zones below their low watermarks and memory"
    " cgroups at their limits (`cost`, `record`)"
)


def exported_safety_rows(safety: ExportedSafety, policy: str) -> Iterable[tuple[str, str]]:
    """The same as far as the daemon exports it, and a line on what it does not."""
    yield (
        "Headroom",
        f"{_free(safety.free, safety.reserve_pages)} values, each the daemon's minimum since the"
        " previous one (errs high: dips between its samples are not seen)",
    )
    yield "Reserve", _reserve(safety)
    counts = [f"{count or 'none'} over {kib} KiB" for kib, count in safety.deeper.items()]
    if safety.too_deep_tasks is not None:
        counts.append(f"{safety.too_deep_tasks or 'none'} too deep for {policy}")
    told = f"; of tasks, the most at a time: {', '.join(counts)}" if counts else ""
    yield "Deepest", f"{_deepest(safety.deepest_bytes)}{told}"
    yield "Not told", _SAFETY_NOT_TOLD


def _deepest(size_bytes: int) -> str:
    return f"measured: {size_bytes} bytes, living tasks (errs low: exited ones are not included)"


def _headroom(safety: Safety) -> str:
    found = safety.headroom
    if found is None:
        return "not sampled"
    return (
        f"{_free(found, safety.reserve_pages)} samples (errs high: dips between them are not"
        f" seen); a zone below its low watermark in"
        f" {found.below_low} of them. Meanwhile {found.stalls} allocations stalled,"
        f" {found.direct_reclaimed_pages} pages reclaimed directly,"
        f" {found.compaction_failures} compactions failed"
    )


def _free(found: FreeMemory, reserve_pages: int) -> str:
    """The least and the median of so many... what these are is for the caller to say."""
    times = found.reserves(reserve_pages)
    reserves = "" if times is None else f", {times:.0f} times all reserves"
    return (
        f"measured: {found.least_pages * PAGE_KIB} KiB ({found.least_pages} pages{reserves})"
        f" free above the minimum watermarks at least, {found.median_pages * PAGE_KIB} KiB"
        f" median of {len(found.above_min_pages)}"
    )


def _cgroups(safety: Safety) -> str:
    found = safety.headroom
    if found is None or found.limit_hits is None or found.limit_failures is None:
        return "limits not counted: only cgroup v2 counts charges that hit memory.max"
    if not found.limit_hits:
        return "measured: no charge hit a memory.max, where a refill would have to reclaim"
    return (
        f"measured: {found.limit_hits} charges hit a memory.max, where a refill would have had to"
        " reclaim however much is free elsewhere (not part of the stalls above);"
        f" {found.limit_failures} of them failed"
    )


def _reserve(safety: Safety | ExportedSafety) -> str:
    if not safety.reserve_pages:
        return "none in this policy"
    told = (
        f"modelled: {safety.reserve_pages} pages for all CPUs. One task takes"
        f" {safety.a_cpu_pages} at most before its CPU's are refilled, so a reserve runs dry"
        " only if a refill fails"
    )
    if isinstance(safety, Safety) and safety.refills_below_min is not None:
        told += f"; {safety.refills_below_min} refills fell below the minimum watermark"
    return told


def _contexts(safety: Safety) -> str:
    if safety.contexts is None:
        why = safety.not_sampled or "`cost` samples a live host, `faults --folded` by call path"
        return f"not sampled: {why}"
    if not any(safety.contexts.values()):
        return (
            f"measured: none of {safety.kernel_samples} samples in the kernel met a stack deeper"
            " than a page"
        )
    return contexts_in_words(
        safety.contexts,
        f"deeper than a page, of {safety.kernel_samples} in the kernel",
        by_clock=safety.sampled_by_clock,
    )


def contexts_in_words(contexts: Mapping[_Name, int], deep: str, *, by_clock: bool) -> str:
    """What the CPU was doing in deep samples; `deep` says how deep these are."""
    told = ", ".join(f"{percent(share)} {name}" for name, share in shares(contexts).items())
    blind = "; by the clock, which is blind where interrupts are off" if by_clock else ""
    untold = f"; {CANT_BE_TOLD}: {NO_PREEMPT_COUNT}" if CANT_BE_TOLD in contexts else ""
    return f"measured: {told} of {sum(contexts.values())} samples {deep}{blind}{untold}"


def _deeper(kib: int, safety: Safety) -> str:
    names = safety.deeper[kib]
    if not names:
        return f"none over {kib} KiB"
    shown = names_in_words(names.most_common(), NAMES_SHOWN)
    return f"{names.total()} over {kib} KiB ({shown})"


def as_json(cost: HostCost, safety: Safety) -> str:
    """schema_version 1; ratios are of all CPU time of the host, null is not known."""
    whole, row = cost.whole, cost.headline
    best = pareto_best(cost.rows)
    faults = whole.page_faults
    user = whole.per_second(faults.user if faults else None)
    kernel = whole.per_second(faults.kernel if faults else None)
    is_faults = row.what == FAULTS
    figures = as_dict(ROW, row)
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "source": cost.source,
            "policy": row.policy,
            "caveats": list(cost.caveats),
            "seconds": whole.seconds,
            "cpus": cost.cpus,
            "faults_per_second": row.events_per_second if is_faults else 0.0,
            "fault_pages_per_second": row.pages_per_second if is_faults else 0.0,
            "avoided_pages_per_second": row.avoided_pages_per_second,
            "created_per_second": whole.per_second(whole.created),
            "reused_per_second": whole.per_second(whole.reused),
            "page_faults_per_second": {"user": user, "kernel": kernel},
            "calibration": _calibration_json(cost),
            "cost": {
                "faults_cpu_ratio": figures["work_cpu_ratio"],
                "faults_cpu_ratio_range": _bounds(row.work_ratio),
                "fork_saving_cpu_ratio": figures["fork_saving_cpu_ratio"],
                "fork_saving_cpu_ratio_range": _bounds(row.fork_saving_ratio),
                "net_cpu_ratio": figures["net_cpu_ratio"],
                "net_cpu_ratio_range": _bounds(row.net_ratio),
            },
            "break_even": {
                **_even_json("stack_fault_ns", cost.stack_fault),
                **_even_json("kernel_page_fault_ns", cost.kernel_page_fault),
            },
            "safety": safety_json(safety),
            "policies": [
                {**as_dict(ROW, one), "pareto_best": one.policy in best} for one in cost.rows
            ],
        }
    )


def _bounds(ratio: Range | None) -> list[float] | None:
    return None if ratio is None else [ratio.low, ratio.high]


def _calibration_json(cost: HostCost) -> dict[str, Any]:
    found, prices = cost.whole.calibration, cost.prices
    return {
        **{field.name: getattr(found, field.name, None) for field in fields(Calibration)},
        "stack_fault_ns": prices.fault.best if prices else None,
        "stack_fault_ns_range": _bounds(prices.fault) if prices else None,
    }


def _even_json(name: str, even: BreakEven) -> dict[str, Any]:
    """The plain name is for 0.1% of all CPU time."""
    return {
        name: even.tenth_percent,
        f"{name}_at_1_percent": even.one_percent,
        f"{name}_eats_the_saving": even.fork_saving.best if even.fork_saving else None,
        f"{name}_eats_the_saving_range": _bounds(even.fork_saving),
    }


def safety_json(safety: Safety) -> dict[str, Any]:
    found = safety.headroom
    return {
        "headroom_kib": {
            "least": found.least_pages * PAGE_KIB if found else None,
            "median": found.median_pages * PAGE_KIB if found else None,
        },
        "headroom_samples": len(found.above_min_pages) if found else 0,
        "headroom_reserves": found.reserves(safety.reserve_pages) if found else None,
        "below_low_samples": found.below_low if found else None,
        "allocation_stalls": found.stalls if found else None,
        "direct_reclaimed_pages": found.direct_reclaimed_pages if found else None,
        "compaction_failures": found.compaction_failures if found else None,
        "cgroup_limit_hits": found.limit_hits if found else None,
        "cgroup_limit_failures": found.limit_failures if found else None,
        "contexts": shares(safety.contexts or {}),
        "context_samples": None if safety.contexts is None else sum(safety.contexts.values()),
        "kernel_samples": None if safety.contexts is None else safety.kernel_samples,
        "not_sampled": safety.not_sampled or None,
        "sampled_by_clock": safety.sampled_by_clock,
        "reserve": {
            "pages": safety.reserve_pages,
            "pages_a_cpu": safety.a_cpu_pages,
            "refills_below_min": safety.refills_below_min,
        },
        "deepest_bytes": safety.deepest_bytes,
        "tasks_over_kib": {str(kib): names.total() for kib, names in safety.deeper.items()},
    }


def as_csv(cost: HostCost, safety: Safety) -> str:
    best = pareto_best(cost.rows)
    columns: Sequence[Column[PolicyCost]] = (
        Column("source", lambda row: cost.source),
        Column("seconds", lambda row: cost.whole.seconds, digits=3),
        *ROW,
        Column("pareto_best", lambda row: row.policy in best),
    )
    return csv_text(columns, cost.rows)
