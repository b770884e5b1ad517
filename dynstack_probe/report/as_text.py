# SPDX-License-Identifier: GPL-2.0-or-later
"""A report for a mailing list: plain ASCII, no line of more than 71 characters."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from dynstack_probe.report.document import (
    BarPlot,
    Commands,
    Document,
    Facts,
    LinePlot,
    Paragraph,
    Part,
    Section,
    Table,
    TextBar,
)
from dynstack_probe.text import printable

WIDTH = 71
UNDERLINES = "=-~"


def render(document: Document) -> str:
    """The whole document, one trailing newline."""
    lines = [*_heading(document.title, 0), *_wrapped(document.summary), ""]
    for number, section in enumerate(document.sections, start=1):
        lines += _section(section, f"{number}", 1)
    lines += _wrapped(document.made)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _section(section: Section, number: str, level: int) -> Iterable[str]:
    yield from _heading(f"{number}. {section.title}", level)
    for part in section.parts:
        lines = list(_part(part))
        if lines:
            yield from (*lines, "")
    for at, inner in enumerate(section.sections, start=1):
        yield from _section(inner, f"{number}.{at}", level + 1)


def _heading(title: str, level: int) -> Sequence[str]:
    lines = _wrapped(title)
    return [*lines, UNDERLINES[min(level, 2)] * max(map(len, lines)), ""]


def ascii_only(text: str | bytes) -> str:
    r"""With all else escaped: \xfc."""
    return printable(text).encode("ascii", "backslashreplace").decode("ascii")


def _wrapped(text: str, first: str = "", indent: str = "") -> list[str]:
    return textwrap.wrap(
        ascii_only(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def _part(part: Part) -> Iterable[str]:
    match part:
        case Paragraph(text):
            return _wrapped(text)
        case Facts(rows):
            return _facts(rows)
        case Commands(lines):
            return [piece for line in lines for piece in _command(line)]
        case Table():
            return _table(part)
        case LinePlot():
            return _line_plot(part)
        case BarPlot():
            return _bar_plot(part)


def _facts(rows: Sequence[tuple[str, str]]) -> Iterable[str]:
    width = min(20, max((len(name) for name, _ in rows), default=0))
    for name, text in rows:
        yield from _wrapped(text, f"{_cut(ascii_only(name), width):<{width}}  ", " " * (width + 2))


def _command(line: str) -> Iterable[str]:
    """Broken between words as a shell allows it."""
    text = f"  {ascii_only(line)}"
    if len(text) <= WIDTH:
        yield text
        return
    *pieces, last = textwrap.wrap(
        text,
        WIDTH - 2,
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (f"{piece} \\" for piece in pieces)
    yield last


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."[:width]


def _table(table: Table) -> Iterable[str]:
    rows = [[ascii_only(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    figures = sum(widths[1:])
    gap = 2 if figures + widths[0] + 2 * len(widths) <= WIDTH + 2 else 1
    widths[0] = max(1, min(widths[0], WIDTH - figures - gap * (len(widths) - 1)))
    if table.title:
        yield from (*_wrapped(f"{table.title}:"), "")
    for at, row in enumerate(rows):
        cells = [f"{_cut(row[0], widths[0]):<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield (" " * gap).join(cells)[:WIDTH]
        if at == 0:
            yield "-" * min(WIDTH, sum(widths) + gap * (len(widths) - 1))
    if table.note:
        yield from ("", *_wrapped(table.note))


def _line_plot(plot: LinePlot) -> Iterable[str]:
    if plot.text_rows is None:
        return
    named = [curve.name for curve in plot.curves]
    rows = [(ascii_only(name), bars) for name, bars in plot.text_rows]
    yield from _bars(plot.title, plot.note, named, rows)


def _bar_plot(plot: BarPlot) -> Iterable[str]:
    if not plot.in_text:
        return
    low, high = plot.axis.low, plot.axis.high
    rows = [
        (ascii_only(bar.name), [TextBar((bar.value - low) / (high - low), bar.label)])
        for bar in plot.bars
    ]
    yield from _bars(plot.title, plot.note, [], rows)


def _bars(
    title: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[TextBar]]],
) -> Iterable[str]:
    yield from (*_wrapped(f"{title}:"), "")
    first = min(24, max((len(name) for name, _ in rows), default=0))
    count = max((len(bars) for _, bars in rows), default=0)
    if count:
        space = (WIDTH - first) // count
        label = max(len(bar.label) for _, bars in rows for bar in bars)
        length = max(0, space - label - 3)
        if columns:
            heads = [f"  {_cut(ascii_only(name), space - 2):<{space - 2}}" for name in columns]
            yield " " * first + "".join(heads)
        for name, bars in rows:
            cells = [f"  {bar.label:>{label}} {_characters(bar.share, length)}" for bar in bars]
            yield (f"{_cut(name, first):>{first}}" + "".join(cells)).rstrip()
    yield from ("", *_wrapped(note))


def _characters(share: float, length: int) -> str:
    """At least one `#` for any share above 0."""
    count = round(min(1.0, share) * length) if share > 0 else 0
    return f"{'#' * max(count, 1 if share > 0 else 0):<{length}}"
