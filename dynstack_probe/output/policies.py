# SPDX-License-Identifier: GPL-2.0-or-later
"""`policies`: all policies side by side, and each explained."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence

from dynstack_probe.analysis.comparison import Comparison, Row
from dynstack_probe.analysis.estimate import Estimate
from dynstack_probe.analysis.timeline import Rate
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.stacks import Stacks
from dynstack_probe.output.columns import Column, as_dict, cells, csv_text, json_text, of, titles
from dynstack_probe.output.cost import worth_in_words
from dynstack_probe.output.rates import rate_in_words
from dynstack_probe.output.savings import (
    BASE,
    DYNAMIC,
    NET,
    NET_OF_RAM,
    NET_WORDS,
    POLICY,
    RESERVE,
    SAVING,
    STACKS,
    series_json,
    series_rows,
)
from dynstack_probe.policy import Policy
from dynstack_probe.text import counted, names_in_words, percent

NAMES_SHOWN = 5
SCHEMA_VERSION = 1


def _estimate(row: Row) -> Estimate:
    return row.estimate


NAME: Column[Row] = Column("policy", lambda row: row.policy.name, "Policy")
RATE: Column[Row] = Column("rate", lambda row: row.rate, "per s", rate_in_words, modelled=True)
# What a table shows; the rate of a series only.
TABLE: tuple[Column[Row], ...] = (
    NAME,
    *of(_estimate, (DYNAMIC, RESERVE, SAVING, NET, NET_OF_RAM)),
)
SERIES_TABLE: tuple[Column[Row], ...] = (
    Column[Row](
        "policy", lambda row: row.policy.name + (" *" if row.pareto_best else ""), "Policy"
    ),
    *TABLE[1:],
    RATE,
)
COST: tuple[Column[Row], ...] = (
    Column(
        "net_cpu_ratio",
        lambda row: row.cost.net_ratio.best if row.cost and row.cost.net_ratio else None,
        digits=12,
        modelled=True,
    ),
    Column(
        "kib_per_0_001_percent",
        lambda row: row.cost.kib_per_unit if row.cost else None,
        digits=1,
        modelled=True,
    ),
    Column("pareto_best", lambda row: row.pareto_best),
)
JSON: tuple[Column[Row], ...] = (
    Column("name", lambda row: row.policy.name),
    Column("summary", lambda row: row.policy.summary),
    *of(_estimate, POLICY),
    Column("over_limit_tasks", lambda row: row.estimate.over_limit_tasks),
    Column("rate", lambda row: row.rate and _rate(row.rate), modelled=True),
    Column("over_limit", lambda row: [{"name": name, "tasks": n} for name, n in row.over_limit]),
    *COST,
)
CSV: tuple[Column[Row], ...] = (
    NAME,
    *of(_estimate, (STACKS, BASE, *POLICY)),
    Column("rate_of", lambda row: row.rate.what if row.rate else ""),
    Column("events_per_second", lambda row: row.rate and row.rate.events, digits=3, modelled=True),
    Column("pages_per_second", lambda row: row.rate and row.rate.pages, digits=3, modelled=True),
    Column("over_limit_tasks", lambda row: row.estimate.over_limit_tasks),
    *COST,
)


def _rate(rate: Rate) -> dict[str, object]:
    return {
        "what": rate.what,
        "events_per_second": rate.events,
        "pages_per_second": rate.pages,
        "lower_bound": rate.coverage < 1,
    }


def as_table(comparison: Comparison) -> str:
    """At most 80 columns."""
    from dynstack_probe.output.tables import console_for_stdout, grid, plain, shown

    console = console_for_stdout()
    columns = TABLE if comparison.whole is None else SERIES_TABLE
    first, *names = titles(columns)
    console.print(grid(first, names, [cells(columns, row) for row in comparison.rows]))
    console.print()
    for line in notes(comparison):
        console.print(shown(line))
    return plain(console)


def notes(comparison: Comparison) -> Iterable[str]:
    """What a reader of the table must know."""
    frame = comparison.frame
    yield (
        f"All modelled, KiB, on what was measured on {comparison.source}:"
        f" {counted(len(frame.stacks), 'stack')} of"
        f" {frame.base_kib} KiB. {NET_WORDS}"
    )
    if comparison.series is not None:
        for name, words in series_rows(comparison.series):
            yield f"{name}: {words}"
    if comparison.whole is not None:
        yield rates_note(comparison.whole)
    if any(row.cost for row in comparison.rows):
        yield worth_note(comparison.rows)
    for row in comparison.rows:
        if row.over_limit:
            yield _over_limit_line(row)
    told = asleep_note(frame.stacks, [row.policy for row in comparison.rows])
    if told is not None:
        yield told
    for caveat in frame.caveats:
        yield f"Note: {caveat}"


def asleep_note(stacks: Stacks, policies: Sequence[Policy]) -> str | None:
    """Which policies err, and which way, by tasks whose time asleep is unknown."""
    unknown = stacks.asleep_unknown()
    names = [policy.name for policy in policies if policy.asleep_seconds]
    if not unknown or not names:
        return None
    return (
        f"The sleep time of {unknown} of {len(stacks)} tasks is unknown: {' and '.join(names)}"
        " count them as awake, so their memory errs high."
    )


def worth_note(rows: Sequence[Row]) -> str:
    """What memory each policy saves for what CPU time, and which are best."""
    costs = [row.cost for row in rows if row.cost]
    worth = [(cost, worth_in_words(cost)) for cost in costs]
    told = ", ".join(f"{cost.policy} {words}" for cost, words in worth if words not in (None, "-"))
    return (
        "*: no other policy saves as much memory for as little CPU time (`cost`). KiB saved, with"
        f" the reserve paid, for 0.001% of CPU on balance: {told or 'none saves any'}."
    )


def rates_note(whole: Interval) -> str:
    """In which direction the rates of a series err."""
    return (
        f"Per second over {whole.seconds:.0f} s: f faults, r refills of what was taken back."
        " Refills are of tasks seen at both ends of an interval, which made"
        f" {percent(whole.switch_coverage_ratio)} of all context switches: >= is a lower bound."
    )


def _over_limit_line(row: Row) -> str:
    return (
        f"{row.policy.name}: {row.estimate.over_limit_tasks} tasks were deeper than it allows,"
        f" each an overflow: {over_limit_names(row)}"
    )


def over_limit_names(row: Row) -> str:
    """Who was deeper than the policy allows, most frequent first."""
    return names_in_words(row.over_limit, NAMES_SHOWN)


def as_json(comparison: Comparison) -> str:
    """schema_version 1; a null rate means: no series, or nothing that a second could count."""
    frame, whole = comparison.frame, comparison.whole
    series = None
    if whole is not None:
        series = {
            "seconds": whole.seconds,
            "context_switch_coverage_ratio": whole.switch_coverage_ratio,
            **(series_json(comparison.series) if comparison.series else {}),
        }
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "source": comparison.source,
            "stacks": len(frame.stacks),
            "base_kib": frame.base_kib,
            "asleep_unknown_tasks": frame.stacks.asleep_unknown(),
            "series": series,
            "caveats": list(frame.caveats),
            "policies": [as_dict(JSON, row) for row in comparison.rows],
        }
    )


def as_csv(comparison: Comparison) -> str:
    source: Column[Row] = Column("source", lambda _: comparison.source)
    return csv_text((source, *CSV), comparison.rows)


def explain(policy: Policy) -> str:
    """The model in words and formula, its parameters, what it ignores and how that errs."""
    parameters = [
        f"{field.name} = {getattr(policy, field.name)}"
        for field in dataclasses.fields(policy)
        if field.metadata
    ]
    asks = "marks only" if policy.marks_suffice else "marks and depth of sleeping tasks"
    parts = (
        ("", f"{policy.name}: {policy.summary}"),
        ("Model", f"{policy.model}; it needs {asks}"),
        ("Words", policy.words),
        ("Formula", policy.formula),
        ("Parameters", ", ".join(parameters) or "none"),
        ("Ignores", policy.ignores),
        (
            "Letters",
            "h pages down to the high-water mark, P pages of THREAD_SIZE, C CPUs online, k pages"
            " mapped at fork; depth at the saved stack pointer, rounded up to KiB",
        ),
    )
    return "\n".join(
        textwrap.fill(
            text, 80, initial_indent=f"{name:<12}" if name else "", subsequent_indent=" " * 12
        )
        for name, text in parts
    )
