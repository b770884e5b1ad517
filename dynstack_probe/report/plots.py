# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots as inline SVG, drawn by pygal: no script, no colour and no font of their own.

pygal is told to lay out; its style sheet, script and tooltips are thrown away, and what
remains takes its looks from the page's style sheet by the class names that pygal gives.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from dynstack_probe.errors import ProbeError
from dynstack_probe.report.document import MOST_CURVES, Axis, BarPlot, LinePlot, Plot

# In units of the viewBox, which is stretched to the width that there is: letters are to
# be read on a phone of 360 pixels and not to shout on a desk.
WIDTH = 440
HEIGHT = 270
BAR_HEIGHT = 21
SHORTEST_BAR = 2.0
MARGIN = 6
LETTER = 13
LONGEST_NAME = 18

_SVG = "{http://www.w3.org/2000/svg}"


def load_pygal() -> Any:
    """Import pygal. Raises ProbeError if it is missing."""
    try:
        return importlib.import_module("pygal")
    except ImportError as error:
        raise ProbeError(
            "an HTML report needs pygal for its plots: apt install python3-pygal, or"
            " pip install pygal in its own environment; --format text does without"
        ) from error


def svg(plot: Plot) -> ElementTree.Element:
    """The plot as an element of an HTML page. Raises ProbeError where pygal is missing."""
    pygal = load_pygal()
    chart = _lines(pygal, plot) if isinstance(plot, LinePlot) else _bars(pygal, plot)
    root = ElementTree.fromstring(chart.render())
    _strip(root)
    if isinstance(plot, BarPlot):
        _show_short_bars(root, plot)
        _place_labels(root, plot)
    elif plot.x.marked is not None:
        _guide(root, plot.x, plot.x.marked).set("class", "marked line")
    root.set("role", "img")
    root.set("aria-label", f"{plot.title}. {plot.note}")
    return root


def _options() -> dict[str, object]:
    style = importlib.import_module("pygal.style").Style(
        label_font_size=LETTER,
        major_label_font_size=LETTER,
        # less room than its letters will take: pygal leaves a line above and below them
        title_font_size=LETTER // 2,
        value_font_size=LETTER,
    )
    return {
        "style": style,
        "js": [],
        "width": WIDTH,
        "show_legend": False,
        "margin": MARGIN,
        "truncate_label": -1,
    }


def _lines(pygal: Any, plot: LinePlot) -> Any:
    chart = pygal.XY(
        **_options(),
        height=HEIGHT,
        show_dots=False,
        x_title=plot.x.label,
        y_title=plot.y.label,
        show_x_guides=True,
        margin_right=max(MARGIN, math.ceil(_text_width(plot.x.ticks[-1][1]) / 2)),
        range=(plot.y.low, plot.y.high),
        xrange=(plot.x.low, plot.x.high),
    )
    chart.x_labels = _labels(plot.x)
    chart.y_labels = _labels(plot.y)
    for curve in plot.curves[:MOST_CURVES]:
        dots = {"stroke": False, "show_dots": True, "dots_size": curve.dots} if curve.dots else {}
        chart.add(curve.name, list(curve.points), **dots)
    return chart


def _bars(pygal: Any, plot: BarPlot) -> Any:
    chart = pygal.HorizontalBar(
        **_options(),
        height=BAR_HEIGHT * len(plot.bars) + 60,
        x_title=plot.axis.label,
        print_values=True,
        print_values_position="top",
        margin_right=MARGIN + _beyond(plot),
        # pygal takes an end at 0 for none, and draws up to 1
        range=(plot.axis.low, plot.axis.high or math.ulp(0.0)),
    )
    bars = list(reversed(plot.bars))  # pygal begins at the bottom
    room = WIDTH - LONGEST_NAME * LETTER / 2 - _beyond(plot)
    chart.x_labels = [_shortened(bar.name) for bar in bars]
    chart.y_labels = _labels(plot.axis, _every(plot.axis, room))
    chart.add("", [{"value": bar.value, "formatter": lambda _, bar=bar: bar.label} for bar in bars])
    return chart


def _beyond(plot: BarPlot) -> int:
    """Roughly how far a label extends beyond the end of the axis."""
    axis, room = plot.axis, WIDTH - LONGEST_NAME * LETTER / 2
    reaches = [
        _text_width(bar.label) - room * (axis.high - max(bar.value, 0.0)) / (axis.high - axis.low)
        for bar in plot.bars
    ]
    return max(0, *map(round, reaches), 0)


def _guide(root: ElementTree.Element, axis: Axis, at: float) -> ElementTree.Element:
    """Of the x axis; pygal draws one for each tick, in order."""
    guides = root.findall(".//g[@class='axis x always_show']/g/path")
    ticks = [value for value, _ in axis.ticks]
    return dict(zip(ticks, guides, strict=True))[at]


def _show_short_bars(root: ElementTree.Element, plot: BarPlot) -> None:
    """What is not zero has a bar to be seen, to its side of zero."""
    bars = root.findall(".//g[@class='bars']/g/rect")
    for rect, bar in zip(bars, reversed(plot.bars), strict=True):
        missing = SHORTEST_BAR - float(rect.get("width", "0"))
        if bar.value and missing > 0:
            rect.set("width", f"{SHORTEST_BAR}")
            if bar.value < 0:
                rect.set("x", f"{float(rect.get('x', '0')) - missing:g}")


def _place_labels(root: ElementTree.Element, plot: BarPlot) -> None:
    """Of bars to the left of zero: to its right, where nothing is below them."""
    # M<x> 0 v<height>
    at_zero = _guide(root, plot.axis, 0.0).get("d", "")[1:].split()[0]
    labels = root.findall(".//g[@class='plot text-overlay']/g/text")
    for label, bar in zip(labels, reversed(plot.bars), strict=True):
        if bar.value < 0:
            label.set("x", f"{float(at_zero) + 6:g}")


def _text_width(text: str) -> float:
    """About."""
    return len(text) * LETTER * 0.6


def _every(axis: Axis, room: float) -> int:
    """Of so many ticks one is labelled, so that labels in that much room don't touch."""
    widest = max(_text_width(label) for _, label in axis.ticks) + LETTER / 2
    return math.ceil(widest * (len(axis.ticks) - 1) / room)


def _labels(axis: Axis, every: int = 1) -> Sequence[dict[str, object]]:
    """Counted from 0, or where the axis begins."""
    first = next((at for at, (value, _) in enumerate(axis.ticks) if value == 0), 0)
    return [
        {"value": value, "label": "" if (at - first) % every else label}
        for at, (value, label) in enumerate(axis.ticks)
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"


def _strip(element: ElementTree.Element) -> None:
    """Drop all but shapes, text and class names; HTML needs no namespaces."""
    element.tag = element.tag.removeprefix(_SVG)
    for name in ("id", "style"):
        element.attrib.pop(name, None)
    for child in list(element):
        kind = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if kind not in ("g", "path", "rect", "text", "circle", "line") or _is_tooltip(child):
            element.remove(child)
        else:
            _strip(child)


def _is_tooltip(element: ElementTree.Element) -> bool:
    return "tooltip-overlay" in element.get("class", "")
