"""`policies`: all schemes side by side, and each in words."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Sequence

from rich.text import Text

from dynstack_probe.analysis.comparison import Comparison, Row
from dynstack_probe.analysis.timeline import Rate
from dynstack_probe.output.as_json import savings
from dynstack_probe.output.as_table import console_for, grid, plain
from dynstack_probe.policy import Policy
from dynstack_probe.text import percent, printable, small_percent, spreadsheet_safe

NAMES_SHOWN = 5
SCHEMA_VERSION = 1


def as_table(comparison: Comparison) -> str:
    """At most 80 columns."""
    console = console_for(None)
    frame, series = comparison.frame, comparison.whole is not None
    names = ["resident", "reserve", "saving", "with it", "of RAM"]
    rows: list[Sequence[str | Text]] = []
    for row in comparison.rows:
        estimate = row.estimate
        cells = [
            str(estimate.dynamic_kib),
            str(estimate.reserve_kib),
            percent(estimate.saving_ratio),
            percent(estimate.saving_with_reserve_ratio),
            small_percent(estimate.saving_with_reserve_of_ram_ratio),
        ]
        if series:
            cells.append(f"{row.rate.events:.1f}{_mark(row.rate)}" if row.rate else "-")
        rows.append((Text(row.policy.name), *cells))
    if series:
        names.append("per s")
    console.print(grid("Policy (modelled)", names, rows))
    console.print()
    source = printable(comparison.source)
    console.print(
        Text(
            f"KiB; measured on {source}: {len(frame.stacks)} stacks hold"
            f" {frame.base_kib} KiB. Of RAM: with the reserve."
        )
    )
    if comparison.whole is not None:
        whole = comparison.whole
        console.print(
            Text(
                f"Per second over {whole.seconds:.0f} s: f faults, r refills of what was taken"
                f" back. Refills are of tasks seen at both ends of an interval, which made"
                f" {percent(whole.switch_coverage_ratio)} of all context switches: they err low by"
                " the rest."
            )
        )
    for row in comparison.rows:
        if row.over_limit:
            console.print(Text(_over_limit_line(row)))
    for caveat in frame.caveats:
        console.print(Text(f"Note: {printable(caveat)}"))
    return plain(console)


def _mark(rate: Rate) -> str:
    return rate.what[0]


def _over_limit_line(row: Row) -> str:
    names = [f"{printable(name)} {count}" for name, count in row.over_limit[:NAMES_SHOWN]]
    rest = len(row.over_limit) - NAMES_SHOWN
    more = f", {rest} more names" if rest > 0 else ""
    return (
        f"{row.policy.name}: {row.estimate.over_limit_tasks} tasks were deeper than it allows,"
        f" each an overflow: {', '.join(names)}{more}"
    )


def as_json(comparison: Comparison) -> str:
    """schema_version 1; a null rate means: no series, or nothing that a second could count."""
    frame, whole = comparison.frame, comparison.whole
    document = {
        "schema_version": SCHEMA_VERSION,
        "source": printable(comparison.source),
        "stacks": len(frame.stacks),
        "base_kib": frame.base_kib,
        "series": None
        if whole is None
        else {
            "seconds": whole.seconds,
            "context_switch_coverage_ratio": whole.switch_coverage_ratio,
        },
        "caveats": list(frame.caveats),
        "policies": [_json_row(row) for row in comparison.rows],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _json_row(row: Row) -> dict[str, object]:
    return {
        "name": row.policy.name,
        "summary": row.policy.summary,
        **savings(row.estimate),
        "rate": None
        if row.rate is None
        else {
            "what": row.rate.what,
            "events_per_second": row.rate.events,
            "pages_per_second": row.rate.pages,
        },
        "over_limit": [{"name": printable(name), "tasks": count} for name, count in row.over_limit],
    }


def as_csv(comparison: Comparison) -> str:
    """A row a policy."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        (
            *("source", "policy", "stacks", "base_kib", "dynamic_kib", "reserve_kib"),
            *("saving_ratio", "saving_with_reserve_ratio", "saving_with_reserve_of_ram_ratio"),
            *("rate_of", "events_per_second", "pages_per_second", "over_limit_tasks"),
        )
    )
    for row in comparison.rows:
        estimate, rate = row.estimate, row.rate
        writer.writerow(
            (
                spreadsheet_safe(printable(comparison.source)),
                *(row.policy.name, estimate.stacks, estimate.base_kib),
                *(estimate.dynamic_kib, estimate.reserve_kib, f"{estimate.saving_ratio:.6f}"),
                f"{estimate.saving_with_reserve_ratio:.6f}",
                f"{estimate.saving_with_reserve_of_ram_ratio:.9f}",
                rate.what if rate else "",
                f"{rate.events:.3f}" if rate else "",
                f"{rate.pages:.3f}" if rate else "",
                estimate.over_limit_tasks,
            )
        )
    return buffer.getvalue()


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
