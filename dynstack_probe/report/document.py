# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report says, in order: built once, and rendered by as_html and as_text.

All text is plain; names in it stand as they came, and the renderers escape them. A figure's
note says what unit it has, what it covers and which way it errs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# In one plot: as many as report.css has colours and dashes for.
MOST_CURVES = 4


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Facts:
    """Names, and what there is to say of each."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Commands:
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Its first column is a name, which gives way where space is short; the rest are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | bytes]]
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """Reaches from the first tick, a value and its label, to the last.

    `marked`: one of the ticks, whose guide is drawn bold.
    """

    label: str
    ticks: Sequence[tuple[float, str]]
    marked: float | None = None

    @property
    def low(self) -> float:
        return self.ticks[0][0]

    @property
    def high(self) -> float:
        return self.ticks[-1][0]


@dataclass(frozen=True)
class Curve:
    """Points (x, y), by x. dots: the radius of a dot for each, instead of a line; 0: a line."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: int = 0


@dataclass(frozen=True)
class TextBar:
    """A value as a bar of characters, which fills that share of the space there is."""

    share: float
    label: str


@dataclass(frozen=True)
class LinePlot:
    """Curves over one x axis.

    text_rows is the same for text: some places on the x axis, a bar for each curve there.
    None: a table close by has these figures already.
    """

    title: str
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    note: str
    text_rows: Sequence[tuple[str, Sequence[TextBar]]] | None = None


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    label: str


@dataclass(frozen=True)
class BarPlot:
    """One bar per name. `in_text` is False where a table close by has these figures."""

    title: str
    axis: Axis
    bars: Sequence[Bar]
    note: str
    in_text: bool = True


Plot = LinePlot | BarPlot
Part = Paragraph | Facts | Commands | Table | Plot


@dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part] = ()
    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Document:
    """The whole. `made` says by what, where and when."""

    title: str
    summary: str
    sections: Sequence[Section]
    made: str
