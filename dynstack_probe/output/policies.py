"""`policies`: all schemes side by side, and each in words."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from dynstack_probe.analysis.estimate import Estimate
from dynstack_probe.analysis.estimate import estimate as apply
from dynstack_probe.analysis.timeline import Activity, Rate
from dynstack_probe.analysis.timeline import rate as rate_of
from dynstack_probe.model.frame import Snapshot
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.output.as_json import savings
from dynstack_probe.output.as_table import console_for, grid, plain
from dynstack_probe.policy import Policy, Shape, count_shapes
from dynstack_probe.policy.custom import BOUNDS, MODELS
from dynstack_probe.text import percent, printable, small_percent, spreadsheet_safe

NAMES_SHOWN = 5
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One policy: its estimate, what it would do a second, and who is deeper than it allows."""

    policy: Policy
    estimate: Estimate
    rate: Rate | None
    over_limit: Sequence[tuple[bytes, int]]


@dataclass(frozen=True)
class Comparison:
    """All policies on one snapshot; `activity` where there was a series."""

    source: str
    snapshot: Snapshot
    rows: Sequence[Row]
    activity: Activity | None


def compare(
    snapshot: Snapshot, policies: Sequence[Policy], activity: Activity | None, source: str
) -> Comparison:
    """Apply each policy."""
    thread_pages = snapshot.host.thread_size_bytes // PAGE_BYTES
    shapes = count_shapes(snapshot.stacks, [policy.asleep_seconds for policy in policies])
    rows = [
        Row(
            policy,
            apply(policy, shapes, snapshot.host),
            rate_of(policy, activity, thread_pages) if activity else None,
            _over_limit(policy, snapshot, thread_pages),
        )
        for policy in policies
    ]
    return Comparison(source, snapshot, rows, activity)


def _over_limit(policy: Policy, snapshot: Snapshot, thread_pages: int) -> list[tuple[bytes, int]]:
    """Names of the tasks that were deeper, most frequent first, each with its tasks."""
    over = {
        pages
        for pages in range(1, thread_pages + 1)
        if policy.over_limit(Shape(pages, 1), thread_pages)
    }
    if not over:
        return []
    least_bytes = (min(over) - 1) * PAGE_BYTES
    stacks = snapshot.stacks
    pairs = zip(stacks.comms, stacks.mark_bytes, strict=True)
    return Counter(comm for comm, mark in pairs if mark > least_bytes).most_common()


def as_table(comparison: Comparison) -> str:
    """At most 80 columns."""
    console = console_for(None)
    snapshot, series = comparison.snapshot, comparison.activity is not None
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
            f"KiB; measured on {source}: {len(snapshot.stacks)} stacks hold"
            f" {snapshot.base_kib} KiB. Of RAM: with the reserve."
        )
    )
    if comparison.activity is not None:
        activity = comparison.activity
        console.print(
            Text(
                f"Per second over {activity.seconds:.0f} s: f faults, r refills of what was taken"
                f" back. Refills are of tasks seen at both ends of an interval, which made"
                f" {percent(activity.coverage_ratio)} of all context switches: they err low by"
                " the rest."
            )
        )
    for row in comparison.rows:
        if row.over_limit:
            console.print(Text(_over_limit_line(row)))
    for caveat in snapshot.caveats:
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
    snapshot, activity = comparison.snapshot, comparison.activity
    document = {
        "schema_version": SCHEMA_VERSION,
        "source": printable(comparison.source),
        "stacks": len(snapshot.stacks),
        "base_kib": snapshot.base_kib,
        "series": None
        if activity is None
        else {
            "seconds": activity.seconds,
            "context_switch_coverage_ratio": activity.coverage_ratio,
        },
        "caveats": list(snapshot.caveats),
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
    model = next(name for name, kind in MODELS.items() if isinstance(policy, kind))
    parameters = [
        f"{field.name} = {getattr(policy, field.name)}"
        for field in dataclasses.fields(MODELS[model])
        if field.name in BOUNDS
    ]
    asks = "marks only" if policy.marks_suffice else "marks and depth of sleeping tasks"
    parts = (
        ("", f"{policy.name}: {policy.summary}"),
        ("Model", f"{model}; it needs {asks}"),
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
