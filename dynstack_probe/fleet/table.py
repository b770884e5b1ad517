# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet as table, JSON and CSV: the RFC's columns, one row per host, CPU model or kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dynstack_probe.fleet.model import STALE_SECONDS, By, Costs, Fleet, Row, total
from dynstack_probe.output.columns import Column, as_dict, cells, csv_text, json_text, of, titles
from dynstack_probe.output.rates import nanoseconds
from dynstack_probe.output.savings import (
    NET,
    NET_OF_RAM,
    OF_RAM,
    RESERVE,
    RFC,
    SAVING,
    memory_in_words,
    reserve_in_words,
)
from dynstack_probe.text import counted, duration, printable, small_percent

SCHEMA_VERSION = 1
ROWS_SHOWN = 20
# per name below the table; a label may be a megabyte long
NAME_CHARACTERS = 60
FIRST_COLUMN = {By.host: "Host", By.cpu: "CPU", By.kernel: "Kernel"}
# What the policy would cost, and whether it is safe. Ratios are of all CPU time.
COSTS: tuple[Column[Costs], ...] = (
    Column("cost_hosts", lambda costs: costs.hosts),
    Column("faults_cpu_ratio", lambda costs: costs.faults_ratio, digits=12, modelled=True),
    Column(
        "fork_saving_cpu_ratio", lambda costs: costs.fork_saving_ratio, digits=12, modelled=True
    ),
    Column("net_cpu_ratio", lambda costs: costs.net_ratio, "net CPU", small_percent, 12, True),
    Column(
        "stack_fault_break_even_ns",
        lambda costs: costs.stack_fault_ns,
        "stack fault",
        nanoseconds,
        1,
        modelled=True,
    ),
    Column(
        "kernel_page_fault_break_even_ns",
        lambda costs: costs.kernel_page_fault_ns,
        "kernel #PF",
        nanoseconds,
        1,
    ),
    Column("least_headroom_kib", lambda costs: costs.headroom_kib, "free KiB"),
    Column("deepest_bytes", lambda costs: costs.deepest_bytes, "deepest"),
    Column("too_deep_tasks", lambda costs: costs.too_deep_tasks, "too deep"),
)


def _costs(row: Row) -> Costs:
    return row.costs


COSTS_OF_ROW: tuple[Column[Row], ...] = tuple(of(_costs, COSTS))
# Of a group of hosts; HOST's of a single one.
GROUP: tuple[Column[Row], ...] = (
    Column("name", lambda row: row.name),
    Column("hosts", lambda row: row.hosts, "#Hosts"),
    Column("cpus", lambda row: row.cpus, "#Cores"),
    *(*RFC[:3], RESERVE, SAVING, NET, OF_RAM, NET_OF_RAM),
    Column("mem_total_kib", lambda row: row.mem_total_kib),
    Column("kernel_stacks", lambda row: row.kernel_stacks),
    *COSTS_OF_ROW,
)
HOST: tuple[Column[Row], ...] = (
    Column("cpu_model", lambda row: row.cpu_model),
    Column("kernel_release", lambda row: row.kernel_release),
    Column("sample_age_seconds", lambda row: row.sample_age_seconds, digits=1),
)
TABLE: tuple[Column[Row], ...] = (GROUP[2], *RFC)
GROUP_TABLE: tuple[Column[Row], ...] = (GROUP[1], *TABLE)


def as_table(fleet: Fleet) -> str:
    """At most 80 columns."""
    from dynstack_probe.output.tables import Cell, console_for_stdout, facts, grid, plain, shown

    first, rest = fleet.rows[:ROWS_SHOWN], fleet.rows[ROWS_SHOWN:]
    everything = total(fleet.rows)
    console = console_for_stdout()
    for columns in (TABLE if fleet.by is By.host else GROUP_TABLE, COSTS_OF_ROW):
        shown_cells = [cells(columns, row) for row in first]
        width = _name_width(titles(columns), [*shown_cells, cells(columns, everything)])
        rows: list[Sequence[Cell]] = [
            (_shorten(printable(row.name), width), *of_row)
            for row, of_row in zip(first, shown_cells, strict=True)
        ]
        if rest:
            rows.append((shown(f"... {len(rest)} more", "dim"), *cells(columns, total(rest))))
        rows.append((shown("Total", "bold"), *cells(columns, everything)))
        console.print(grid(FIRST_COLUMN[fleet.by], titles(columns), rows))
        console.print()
    console.print(facts(_lines(fleet, everything)))
    return plain(console)


def _name_width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The width left for names."""
    from dynstack_probe.output.tables import WIDTH

    widths = (max(map(len, column)) for column in zip(headings, *rows, strict=True))
    return WIDTH - sum(widths) - 3 * len(headings)


def _shorten(name: str, width: int) -> str:
    """Elide the middle: CPU models differ at the end."""
    if len(name) <= width or width < 3:
        return name
    tail = width * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _lines(fleet: Fleet, everything: Row) -> Iterable[tuple[str, str]]:
    health = fleet.health
    yield "Hosts", _answered(fleet)
    yield "Samples", _ages(fleet)
    yield "Reserve", reserve_in_words(everything, everything.cpus, fleet.policy)
    yield "Memory", memory_in_words(everything)
    yield "Cost", _cost(everything)
    yield (
        "Safety",
        "free KiB: least above the minimum watermarks of any host; deepest: bytes, of living"
        " tasks; too deep: tasks that exceed the policy's stack. All measured",
    )
    counted = "?" if everything.kernel_stacks is None else str(everything.kernel_stacks)
    yield "Coverage", f"the kernels count {counted} stacks; read {everything.stacks}"
    if len(fleet.rows) > ROWS_SHOWN:
        yield "Rows", f"the first {ROWS_SHOWN}; --format csv has all {len(fleet.rows)}"
    if fleet.left_out:
        names = _named(fleet.left_out_names, fleet.left_out)
        yield (
            "Left out",
            f"{fleet.left_out} hosts without valid figures for {fleet.policy}{names}",
        )
    if health.asked is None:
        yield "Note", "This server does not scrape them itself: which are down is unknown."
    for warning in fleet.warnings:
        yield "Warning", warning


def _cost(everything: Row) -> str:
    known = everything.costs.hosts
    told = f"of {counted(known, 'host')}"
    if known < everything.hosts:
        silent = everything.hosts - known
        told += f"; {silent} unknown: scraped slim, not calibrated, or not yet scraped twice"
    return (
        "net CPU: stack faults minus what cheaper forks save, of all CPU time, modelled. stack"
        " fault, kernel #PF: the cost, or extra cost, of one at which all take 0.1% of CPU time."
        f" Rates over 5 min, {told}"
    )


def _answered(fleet: Fleet) -> str:
    health = fleet.health
    if health.asked is None:
        return f"{health.answered} answered"
    names = _named(health.down_names, health.asked - health.answered)
    down = f"; down{names}" if names else ""
    return f"{health.asked} asked, {health.answered} answered{down}"


def _ages(fleet: Fleet) -> str:
    health = fleet.health
    if health.median_age_seconds is None or health.oldest_age_seconds is None:
        return "of unknown age"
    text = (
        f"{duration(round(health.median_age_seconds))} old (median), the oldest"
        f" {duration(round(health.oldest_age_seconds))}"
    )
    if health.stale:
        names = _named(health.stale_names, health.stale)
        text += f"; {health.stale} of them stale, over {duration(STALE_SECONDS)}{names}"
    return text


def _named(names: Sequence[str], count: int) -> str:
    """`: a, b, ...`, or nothing if no name is known."""
    if not names:
        return ""
    more = ", ..." if count > len(names) else ""
    return ": " + ", ".join(printable(name[:NAME_CHARACTERS]) for name in names) + more


def as_json(fleet: Fleet) -> str:
    """schema_version 1. Fields are added, never renamed; shared ones are named as in `estimate`."""
    return json_text(document(fleet))


def document(fleet: Fleet) -> dict[str, Any]:
    health = fleet.health
    return {
        "schema_version": SCHEMA_VERSION,
        "prometheus": fleet.url,
        "job": fleet.job,
        "policy": fleet.policy,
        "hosts": {
            "asked": health.asked,
            "answered": health.answered,
            "stale": health.stale,
            "left_out": fleet.left_out,
            "down_names": health.down_names,
            "stale_names": health.stale_names,
            "left_out_names": fleet.left_out_names,
        },
        "sample_age_seconds": {
            "median": health.median_age_seconds,
            "oldest": health.oldest_age_seconds,
        },
        "warnings": list(fleet.warnings),
        "total": _figures(total(fleet.rows)),
        "groups_by": fleet.by.value,
        "groups": [{"name": row.name, **_figures(row)} for row in fleet.rows],
    }


def _figures(row: Row) -> dict[str, Any]:
    columns = GROUP[1:] if row.sample_age_seconds is None else (*GROUP[1:], *HOST)
    return as_dict(columns, row)


def as_csv(fleet: Fleet) -> str:
    """A header line and one row per group, without a total, so that columns can be summed."""
    columns: tuple[Column[Row], ...] = (
        Column("policy", lambda _: fleet.policy),
        Column("by", lambda _: fleet.by.value),
        *GROUP,
        *HOST,
    )
    return csv_text(columns, fleet.rows)
