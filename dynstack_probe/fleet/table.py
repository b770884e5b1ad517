"""A fleet as table, JSON and CSV: the RFC's columns, a row a host, CPU model or kernel."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from dynstack_probe.fleet.model import STALE_SECONDS, By, Fleet, Row, total
from dynstack_probe.text import percent, printable, small_percent, spreadsheet_safe

SCHEMA_VERSION = 1
ROWS_SHOWN = 20
# of a name below the table; a label may be a megabyte long
NAME_CHARACTERS = 60
FIRST_COLUMN = {By.host: "Host", By.cpu: "CPU", By.kernel: "Kernel"}
FIGURES = ("#Cores", "#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving")
CSV_COLUMNS = (
    "policy",
    "by",
    "name",
    "hosts",
    "cpus",
    "stacks",
    "base_kib",
    "dynamic_kib",
    "reserve_kib",
    "saving_ratio",
    "saving_with_reserve_ratio",
    "saving_of_ram_ratio",
    "mem_total_kib",
    "kernel_stacks",
    "cpu_model",
    "kernel_release",
    "sample_age_seconds",
)


def as_table(fleet: Fleet, *, colour: bool | None = None) -> str:
    """At most 80 columns; colour only on a terminal unless said."""
    from rich.table import Table
    from rich.text import Text

    from dynstack_probe.output.as_table import console_for, grid

    with_hosts = fleet.by is not By.host
    shown, rest = fleet.rows[:ROWS_SHOWN], fleet.rows[ROWS_SHOWN:]
    everything = total(fleet.rows)
    headings = ("#Hosts", *FIGURES) if with_hosts else FIGURES
    width = _name_width(headings, _figures_of(everything, with_hosts))
    rows: list[Sequence[str | Text]] = [
        (Text(_shorten(printable(row.name), width)), *_figures_of(row, with_hosts)) for row in shown
    ]
    if rest:
        label = Text(f"... {len(rest)} more", style="dim")
        rows.append((label, *_figures_of(total(rest), with_hosts)))
    rows.append((Text("Total", style="bold"), *_figures_of(everything, with_hosts)))
    console = console_for(colour)
    console.print(grid(FIRST_COLUMN[fleet.by], headings, rows))
    console.print()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, value in _lines(fleet, everything):
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    output = console.file
    assert isinstance(output, io.StringIO)
    text = output.getvalue().replace("─", "-")  # plain text, for mails
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _figures_of(row: Row, with_hosts: bool) -> Sequence[str]:
    figures = (row.cpus, row.stacks, row.base_kib, row.dynamic_kib)
    counts = (row.hosts, *figures) if with_hosts else figures
    return *(str(count) for count in counts), percent(row.saving_ratio)


def _name_width(headings: Sequence[str], largest: Sequence[str]) -> int:
    """What the figures leave of a line; the total's are the longest."""
    from dynstack_probe.output.as_table import WIDTH

    widths = (max(map(len, column)) for column in zip(headings, largest, strict=True))
    return WIDTH - sum(widths) - 3 * len(headings)


def _shorten(name: str, width: int) -> str:
    """Cut in the middle: what tells two processors apart is at the end."""
    if len(name) <= width or width < 3:
        return name
    tail = width * 3 // 5
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def _lines(fleet: Fleet, everything: Row) -> Iterable[tuple[str, str]]:
    health = fleet.health
    yield "Hosts", _answered(fleet)
    yield "Samples", _ages(fleet)
    if everything.reserve_kib:
        yield (
            "Reserve",
            f"{everything.reserve_kib} KiB for {everything.cpus} CPUs ({fleet.policy});"
            f" saving with it {percent(everything.saving_with_reserve_ratio)}",
        )
    else:
        yield "Reserve", f"none ({printable(fleet.policy)})"
    yield (
        "Memory",
        f"{everything.saved_kib} KiB saved is {small_percent(everything.saving_of_ram_ratio)} of"
        f" all {_memory(everything.mem_total_kib)},"
        f" {small_percent(everything.saving_with_reserve_of_ram_ratio)} with the reserve",
    )
    counted = "?" if everything.kernel_stacks is None else str(everything.kernel_stacks)
    yield "Coverage", f"the kernels count {counted} stacks; read {everything.stacks}"
    if len(fleet.rows) > ROWS_SHOWN:
        yield "Rows", f"the first {ROWS_SHOWN}; --format csv has all {len(fleet.rows)}"
    if fleet.left_out:
        names = _named(fleet.left_out_names, fleet.left_out)
        yield (
            "Left out",
            f"{fleet.left_out} hosts without sensible figures of {printable(fleet.policy)}{names}",
        )
    if health.asked is None:
        yield "Note", "This server scrapes none of them itself: which are down is unknown."
    for warning in fleet.warnings:
        yield "Warning", warning


def _memory(kib: int) -> str:
    return f"{kib >> 20} GiB" if kib >> 20 >= 100 else f"{kib >> 10} MiB"


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
        f"{_age(health.median_age_seconds)} old (median), the oldest"
        f" {_age(health.oldest_age_seconds)}"
    )
    if health.stale:
        names = _named(health.stale_names, health.stale)
        text += f"; {health.stale} of them stale, over {_age(STALE_SECONDS)}{names}"
    return text


def _age(seconds: float) -> str:
    """Two digits are enough to tell whether to worry."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _named(names: Sequence[str], count: int) -> str:
    """`: a, b, ...`, or nothing if no name is known."""
    if not names:
        return ""
    more = ", ..." if count > len(names) else ""
    return ": " + ", ".join(printable(name[:NAME_CHARACTERS]) for name in names) + more


def as_json(fleet: Fleet) -> str:
    """schema_version 1. Fields are added, never renamed; those of `estimate` have its names."""
    return json.dumps(document(fleet), indent=2, ensure_ascii=False) + "\n"


def document(fleet: Fleet) -> dict[str, Any]:
    """The same as plain dictionaries."""
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
            "down_names": [printable(name) for name in health.down_names],
            "stale_names": [printable(name) for name in health.stale_names],
            "left_out_names": [printable(name) for name in fleet.left_out_names],
        },
        "sample_age_seconds": {
            "median": health.median_age_seconds,
            "oldest": health.oldest_age_seconds,
        },
        "warnings": list(fleet.warnings),
        "total": _figures(total(fleet.rows)),
        "groups_by": fleet.by.value,
        "groups": [{"name": printable(row.name), **_figures(row)} for row in fleet.rows],
    }


def _figures(row: Row) -> dict[str, Any]:
    result: dict[str, Any] = {
        "hosts": row.hosts,
        "cpus": row.cpus,
        "stacks": row.stacks,
        "base_kib": row.base_kib,
        "dynamic_kib": row.dynamic_kib,
        "reserve_kib": row.reserve_kib,
        "saving_ratio": row.saving_ratio,
        "saving_with_reserve_ratio": row.saving_with_reserve_ratio,
        "saving_of_ram_ratio": row.saving_of_ram_ratio,
        "saving_with_reserve_of_ram_ratio": row.saving_with_reserve_of_ram_ratio,
        "mem_total_kib": row.mem_total_kib,
        "kernel_stacks": row.kernel_stacks,
    }
    if row.sample_age_seconds is not None:
        result |= {
            "cpu_model": _known(row.cpu_model),
            "kernel_release": _known(row.kernel_release),
            "sample_age_seconds": row.sample_age_seconds,
        }
    return result


def _known(name: str | None) -> str | None:
    return None if name is None else printable(name)


def as_csv(fleet: Fleet) -> str:
    """A header line and a row a group, without their sum, so that a column can be summed."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in fleet.rows:
        writer.writerow(
            (
                spreadsheet_safe(printable(fleet.policy)),
                fleet.by.value,
                spreadsheet_safe(printable(row.name)),
                row.hosts,
                row.cpus,
                row.stacks,
                row.base_kib,
                row.dynamic_kib,
                row.reserve_kib,
                f"{row.saving_ratio:.6f}",
                f"{row.saving_with_reserve_ratio:.6f}",
                f"{row.saving_of_ram_ratio:.9f}",
                row.mem_total_kib,
                row.kernel_stacks,
                spreadsheet_safe(printable(row.cpu_model or "")),
                spreadsheet_safe(printable(row.kernel_release or "")),
                "" if row.sample_age_seconds is None else f"{row.sample_age_seconds:.1f}",
            )
        )
    return buffer.getvalue()
