# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables and facts in a terminal, at most 80 columns wide; plain text elsewhere."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynstack_probe.text import printable

WIDTH = 80

Cell = str | bytes | Text


def console_for_stdout() -> Console:
    """Buffers what is meant for standard output: in colour if that is a terminal."""
    # on a narrower terminal lines wrap, and no figure is cut
    return buffered(WIDTH, "auto" if sys.stdout.isatty() else None)


def buffered(width: int, color_system: Any) -> Console:
    """A console whose file is a buffer. color_system: as rich calls it, None for plain text."""
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color_system is not None,
        no_color=bool(os.environ.get("NO_COLOR")),
        color_system=color_system,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def shown(cell: Cell, style: str = "") -> Text:
    """A name or figure, escaped."""
    return cell if isinstance(cell, Text) else Text(printable(cell), style)


def grid(first: str, numbers: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """A table that truncates its first column where a line is too long, never a figure."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False, show_edge=False)
    table.add_column(first, overflow="ellipsis", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    widths = [len(name) for name in numbers]
    for row in rows:
        texts = [shown(cell) for cell in row]
        table.add_row(*texts)
        widths = [max(width, len(cell)) for width, cell in zip(widths, texts[1:], strict=True)]
    between = 3 * len(numbers)  # box.SIMPLE_HEAD: a space, a divider and a space
    table.columns[0].max_width = WIDTH - sum(widths) - between
    return table


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name, style="bold"), shown(value))
    return table


def plain(console: Console) -> str:
    """What was printed, with ASCII rules and no trailing blanks, as for a mail."""
    output = console.file
    assert isinstance(output, io.StringIO)
    text = output.getvalue().replace("─", "-")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
