# SPDX-License-Identifier: GPL-2.0-or-later
"""The two figures: saving against net cost, and how deep stacks are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynstack_probe.capture import read_frames
from dynstack_probe.model.stacks import Kind
from dynstack_probe.report.plots import load_pygal
from tests.results.captures import Measured, ask
from tests.results.place import LOADS
from tests.results.tables import is_own

POLICIES = ("rfc-v1", "accessed-bit", "below-sp", "vendor", "static-8k", "static-12k")
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#777777", "#010101")
# What each colour is where the reader's screen is dark.
DARK = {
    "#ffffff": "#101418", "#111111": "#e6e9ec", "#333333": "#c3cad1", "#bbbbbb": "#7d8690",
    "#dddddd": "#2a3138",
    "#c9ced4": "#424b55",
    "#0072b2": "#56b4e9", "#e69f00": "#ffbe3d", "#009e73": "#2bd1a0", "#cc79a7": "#e8a5cb",
    "#d55e00": "#ff8c42", "#777777": "#9aa3ac", "#010101": "#fefefe",
}  # fmt: skip
WIDTH, HEIGHT, LETTER = 640, 520, 14  # shown as large as that, and on phones smaller
# The table of the RFC's cover letter: 72.8% to 74.9%, "70-75%" in words.
CLAIM_LEAST, CLAIM_MOST = 0.70, 0.75
CLAIM = "claimed: 70-75%"
CLAIM_COLOUR = "#c9ced4"
# Costs on both sides of zero, from 0.0001% to 10%: the exponent counts from here.
LINEAR_PERCENT = 1e-4
DEPTH_STEP_BYTES, LEAST_PERCENT = 128, 0.01


def saving_against_cost(loads: Sequence[Measured], path: Path) -> None:
    """A dot for each load and policy."""
    pygal = load_pygal()
    dots: dict[str, list[dict[str, Any]]] = {name: [] for name in POLICIES}
    options = [word for name in POLICIES for word in ("--policy", name)]
    for one in loads:
        savings = {p["name"]: p["saving_with_reserve_ratio"] for p in one.policies["policies"]}
        for found in ask("cost", one.capture, *options)["policies"]:
            net = found["net_cpu_ratio"]
            if net is not None:
                dot = {
                    "value": (_signed_log(100 * net), 100 * savings[found["policy"]]),
                    "label": one.name,
                }
                dots[found["policy"]].append(dot)
    powers = [10.0**exponent for exponent in (-3, -1, 1)]
    ticks = [*(-power for power in reversed(powers)), 0.0, *powers]
    widest = max((abs(dot["value"][0]) for of in dots.values() for dot in of), default=1.0)
    shown = [tick for tick in ticks if abs(_signed_log(tick)) <= widest + 0.5]
    chart = _chart(
        pygal,
        colours=(CLAIM_COLOUR, *COLOURS),
        stroke=False,
        legend_at_bottom_columns=3,
        margin_bottom=3 * LETTER,
        title="Saving against net cost: one dot a load",
        x_title="net cost, % of CPU time; < 0 saves time; logarithmic",
        y_title="saving, reserve paid, %",
        dots_size=4,
        range=(0, 100),
        x_labels=[{"value": _signed_log(tick), "label": f"{tick:g}"} for tick in shown],
        y_labels=[0, 25, 50, 75, 100],
    )
    ends = [_signed_log(tick) for tick in shown]
    ends += [dot["value"][0] for of in dots.values() for dot in of]
    left, right = min(ends), max(ends)
    claim = [(left, 75), (right, 75), (right, 70), (left, 70)]
    chart.add(CLAIM, claim, stroke=True, show_dots=False, fill=True)
    for name in POLICIES:
        chart.add(name, dots[name])
    _write(chart, path)


def _signed_log(percent: float) -> float:
    """0 at 0, +-1 at LINEAR_PERCENT, and one more for each power of ten."""
    size = abs(percent) / LINEAR_PERCENT
    return math.copysign(size if size < 1 else 1 + math.log10(size), percent)


def depth_distribution(loads: Sequence[Measured], path: Path) -> None:
    """Of each load, the share of stacks deeper than so many bytes; a colour a kind of load."""
    pygal = load_pygal()
    kinds = list(dict.fromkeys(_kind(one) for one in loads))
    ordered = sorted(loads, key=lambda one: kinds.index(_kind(one)))
    marks = {one.name: _marks(one) for one in ordered}
    deepest_kib = -(-max(map(max, marks.values())) // 1024)
    chart = _chart(
        pygal,
        colours=[COLOURS[kinds.index(_kind(one)) % len(COLOURS)] for one in ordered],
        show_dots=False,
        title="Stacks deeper than x, ever: own and kernel threads, a line a load",
        x_title="high-water mark (a stack has 16 KiB)",
        y_title="% of stacks, logarithmic",
        legend_at_bottom_columns=4,
        margin_bottom=-4 * LETTER,  # pygal leaves room for the lines without a name too
        range=(-2, 2),
        xrange=(0, deepest_kib << 10),
        x_labels=[{"value": kib << 10, "label": f"{kib} KiB"} for kib in range(deepest_kib + 1)],
        y_labels=[{"value": power, "label": f"{10.0**power:g}"} for power in range(-2, 3)],
    )
    named: set[str] = set()
    for one in ordered:
        kind = _kind(one)
        chart.add(None if kind in named else kind, _tail(marks[one.name]))
        named.add(kind)
    _write(chart, path)


def _kind(one: Measured) -> str:
    """The module that declares the load."""
    return LOADS[one.name].start.__module__.rpartition(".")[2] if one.name in LOADS else "sent in"


def _marks(one: Measured) -> list[int]:
    """Of the load's own tasks and of the kernel's threads; of a capture that was sent in, all."""
    *_, last = read_frames(one.capture)
    stacks = last.stacks
    own = {n for n, path in last.cgroup_paths.items() if is_own(one.name, path)}
    return sorted(
        mark
        for mark, kind, cgroup in zip(
            stacks.mark_bytes, stacks.kinds, stacks.cgroup_ids, strict=True
        )
        if kind != Kind.USER or cgroup in own or one.name not in LOADS
    )


def _tail(marks: Sequence[int]) -> list[tuple[int, float]]:
    points, at = [], 0
    for depth in range(0, 16385, DEPTH_STEP_BYTES):
        while at < len(marks) and marks[at] <= depth:
            at += 1
        if at == len(marks):
            break
        share = 100 * (len(marks) - at) / len(marks)
        if share < LEAST_PERCENT:
            break
        points.append((depth, math.log10(share)))
    return points


def _chart(pygal: Any, *, colours: Sequence[str] = COLOURS, **options: object) -> Any:
    style = pygal.style.Style(
        background="#ffffff",
        plot_background="#ffffff",
        foreground="#333333",
        foreground_strong="#111111",
        foreground_subtle="#bbbbbb",
        colors=colours,
        font_family="sans-serif",
        guide_stroke_color="#dddddd",
        major_guide_stroke_color="#dddddd",
        label_font_size=LETTER,
        major_label_font_size=LETTER,
        title_font_size=LETTER,
        legend_font_size=LETTER,
        opacity=".9",
    )
    return pygal.XY(
        style=style,
        js=[],
        width=WIDTH,
        height=HEIGHT,
        show_y_guides=True,
        show_x_guides=True,
        legend_at_bottom=True,
        truncate_legend=-1,
        legend_box_size=10,
        **options,
    )


def _write(chart: Any, path: Path) -> None:
    text = chart.render(is_unicode=True, disable_xml_declaration=True)
    # the same captures, the same file: no date, no random name
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).replace(chart.uuid, path.stem)
    light, dark = (
        "".join(f"--c{n}:{pair[which]};" for n, pair in enumerate(DARK.items())) for which in (0, 1)
    )
    for n, colour in enumerate(DARK):
        text = text.replace(colour, f"var(--c{n})")
    schemes = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    text = text.replace('<style type="text/css">', f'<style type="text/css">{schemes}', 1)
    text = text.replace("<svg ", f'<svg width="{WIDTH}" height="{HEIGHT}" ', 1)
    path.write_text(f"{text}\n")


Plot = Callable[[Sequence[Measured], Path], None]
PLOTS: dict[str, Plot] = {
    "saving-against-cost.svg": saving_against_cost,
    "depths.svg": depth_distribution,
}
