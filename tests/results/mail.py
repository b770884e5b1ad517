# SPDX-License-Identifier: GPL-2.0-or-later
"""The same as plain text under 72 columns, to be sent to a list as it is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tests.results.answers import answers
from tests.results.captures import Guests, Measured
from tests.results.tables import busy_share, number, own_deepest, own_stacks, percent

WIDTH = 71


def text(loads: Sequence[Measured], kernels: Guests = ()) -> str:
    """ASCII, no line longer than WIDTH."""
    host = loads[0].estimate["host"]
    parts = [
        "Subject: Dynamic kernel stacks: savings, faults and cost of real loads",
        "",
        _fill(
            f"Figures of {len(loads)} loads on a stock kernel ({host['kernel_release']},"
            f" {host['cpu_model']}, {host['cpus']} virtual CPUs,"
            f" {host['mem_total_kib'] >> 10} MiB, THREAD_SIZE"
            f" {host['thread_size_bytes'] >> 10} KiB{_used(loads)}). Depths and"
            " stacks are measured: the lowest word of each kernel stack that is not zero"
            " tells how deep it has ever been. What a kernel with growing stacks would do is"
            " modelled from that. Captures and commands: docs/results.md of dynstack-probe."
        ),
        "",
        *_table(loads),
        "",
    ]
    for question, answer in answers(loads, kernels):
        parts += [_fill(question), _fill(answer, "  "), ""]
    parts += [
        _fill("To repeat it: make results (root, 30 minutes). To add a row of your own machine:"),
        "",
        "  sudo dynstack-probe record mine.dsp --duration 10m --anonymize",
        "  dynstack-probe estimate mine.dsp docs/results/*.dsp",
        "",
    ]
    return "\n".join(parts)


def _used(loads: Sequence[Measured]) -> str:
    """What the recording and other work took of the CPUs."""
    idle = [share for one in loads if one.name == "idle" and (share := busy_share(one))]
    return f", {percent(idle[0], 0)} of CPU time used with no load" if idle else ""


def _table(loads: Sequence[Measured]) -> list[str]:
    """Saving and net with the reserve paid, and the rates that decide the cost."""
    head = ("load", "#stacks", "net", "own", "max", "faults/s", "#PF k/s", "net CPU")
    rows = [
        (
            one.name,
            f"{one.estimate['measured']['stacks']}",
            percent(one.rfc_v1["saving_with_reserve_ratio"], 1),
            percent(own_stacks(one)[1], 1),
            number(own_deepest(one)).replace(",", ""),
            number(one.cost["faults_per_second"]).replace(",", ""),
            number(one.cost["page_faults_per_second"]["kernel"]).replace(",", ""),
            percent(one.cost["cost"]["net_cpu_ratio"], 4),
        )
        for one in loads
    ]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return " ".join(cells)

    legend = (
        "net: saving under rfc-v1 with the reserve paid; own: of the load's own tasks, without"
        " the reserve; max: their deepest mark, bytes; faults/s: stack faults under rfc-v1;"
        " #PF k/s: page faults in kernel mode on user memory; net CPU: stack faults less cheaper"
        " forks, of all CPU time (below zero: it saves time)."
    )
    return [line(head), "-" * len(line(head)), *map(line, rows), "", _fill(legend)]


def _fill(paragraph: str, indent: str = "") -> str:
    return textwrap.fill(
        paragraph,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
