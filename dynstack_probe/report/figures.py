# SPDX-License-Identifier: GPL-2.0-or-later
"""The plots of a report, from what was measured and modelled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from dynstack_probe.analysis.depths import ShiftPoint
from dynstack_probe.model.cost import PolicyCost
from dynstack_probe.model.history import Span, length, mean
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import Stacks
from dynstack_probe.policy import HEADLINE
from dynstack_probe.report.document import MOST_CURVES, Axis, Bar, BarPlot, Curve, LinePlot, TextBar
from dynstack_probe.report.scales import number_axis, time_axis
from dynstack_probe.text import clock, counted, percent, small_percent

# Finer than a pixel: a plot of 16 KiB is some 370 wide.
_GRAIN_BYTES = 64
_MOST_POINTS = 240
_MOST_TEXT_ROWS = 15
_ROLES_SHOWN = 4


def depths_ever_and_now(stacks: Stacks, thread_size_bytes: int) -> LinePlot:
    """The share of stacks that are deeper than x, a depth."""
    ever = Counter(stacks.mark_bytes)
    now = Counter(depth for depth in stacks.depth_bytes if depth)
    named = {"ever": ever, "now, asleep": now}
    counts = {name: of for name, of in named.items() if of}
    share = _share_axis(counts.values())
    return LinePlot(
        title="Stacks deeper than a depth, ever and now",
        x=_depth_axis(thread_size_bytes),
        y=share,
        curves=[Curve(name, _deeper_than(of, share.low)) for name, of in counts.items()],
        note=(
            f"Measured, in bytes: high-water marks of {ever.total()} stacks, and depths at the"
            f" saved stack pointers of the {now.total()} whose tasks slept. Both err low: what"
            " lies below them was not used, or held zero only."
        ),
        text_rows=_deeper_than_each_kib(counts),
    )


def depths_by_role(stacks: Stacks, roles: Sequence[str], thread_size_bytes: int) -> LinePlot:
    """The same for the roles that have most stacks."""
    largest = [role for role, _ in Counter(roles).most_common(_ROLES_SHOWN)]
    counts: dict[str, Counter[int]] = {role: Counter() for role in largest}
    for role, mark in zip(roles, stacks.mark_bytes, strict=True):
        if role in counts:
            counts[role][mark] += 1
    share = _share_axis(counts.values())
    return LinePlot(
        title="Stacks deeper than a depth, ever, by role",
        x=_depth_axis(thread_size_bytes),
        y=share,
        curves=[
            Curve(f"{role} ({of.total()})", _deeper_than(of, share.low))
            for role, of in counts.items()
        ],
        note=(
            "Measured: high-water marks as a share of each role's own stacks, whose number is in"
            " brackets. Errs low as above."
        ),
    )


def _depth_axis(thread_size_bytes: int) -> Axis:
    pages = thread_size_bytes // PAGE_BYTES
    step = max(1, pages // 8)
    ticks = [
        (float(n * PAGE_BYTES), f"{n * PAGE_BYTES // 1024}")
        for n in sorted({1, *range(0, pages + 1, step)})
    ]
    return Axis("depth, KiB; bold line: 4 KiB, one page", ticks, marked=float(PAGE_BYTES))


def _share_axis(counts: Iterable[Counter[int]]) -> Axis:
    """Powers of ten of percent, down to less than one stack of the most."""
    most = max((of.total() for of in counts), default=1)
    decades = max(1, math.ceil(math.log10(max(1, most)) + 1e-9))
    return Axis(
        "share of stacks",
        [(float(n), f"{10.0 ** (n + 2):g}%") for n in range(-decades, 1)],
    )


def _deeper_than(counts: Mapping[int, int], floor: float) -> list[tuple[float, float]]:
    """Steps (x, log10 of the share deeper than x); `floor` stands for the log of none."""
    grains: Counter[int] = Counter()
    for depth, count in counts.items():
        grains[-(-depth // _GRAIN_BYTES) * _GRAIN_BYTES] += count
    total = left = grains.total()
    if not total:
        return []
    points = [(0.0, 0.0)]
    for depth in sorted(grains):
        points.append((float(depth), math.log10(left / total)))
        left -= grains[depth]
        if left:
            points.append((float(depth), math.log10(left / total)))
    return [*points, (points[-1][0], floor)]


def _deeper_than_each_kib(
    counts: Mapping[str, Counter[int]],
) -> list[tuple[str, Sequence[TextBar]]]:
    deepest = max((max(of) for of in counts.values()), default=0)
    rows: list[tuple[str, Sequence[TextBar]]] = []
    for kib in range(-(-deepest // 1024) + 1):
        bars = []
        for of in counts.values():
            deeper = sum(count for depth, count in of.items() if depth > kib * 1024)
            share = deeper / of.total()
            bars.append(TextBar(share, percent(share)))
        rows.append((f"{kib} KiB{', 1 page' if kib * 1024 == PAGE_BYTES else ''}", bars))
    return rows


def tasks_by_pages(counts: Mapping[int, int]) -> BarPlot:
    total = max(1, sum(counts.values()))
    return BarPlot(
        title="Stacks by pages down to the high-water mark",
        axis=number_axis("stacks", 0, 1.25 * max(1, *counts.values()), _count),
        bars=[
            Bar(
                counted(pages, "page"),
                count,
                f"{count} ({percent(count / total)})",
            )
            for pages, count in counts.items()
        ],
        note="Measured, over all stacks that were read. Errs low: a page of zeros is not seen.",
    )


def _decimal(value: float) -> str:
    """Never 2e-05."""
    return f"{value:.9f}".rstrip("0").rstrip(".") if value else "0"


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{value:g}"


def savings_plot(title: str, savings: Sequence[tuple[str, float]]) -> BarPlot:
    """A bar for each name and saving, a ratio."""
    worst = min((ratio for _, ratio in savings), default=0.0)
    # A reserve may cost many times what there is to save: bars are cut, their labels tell.
    low = min(0.0, max(-1.0, worst))
    return BarPlot(
        title=title,
        axis=number_axis("saving, % of BASE", 100 * low, 100, intervals=6 if low < 0 else 5),
        bars=[Bar(name, 100 * max(ratio, low), percent(ratio)) for name, ratio in savings],
        note="Modelled on measured depths. Which way each errs: `policies --explain NAME`.",
        in_text=False,
    )


def cost_plot(rows: Sequence[PolicyCost], best: Collection[str]) -> BarPlot | None:
    """Net CPU time, one bar per policy; None where no cost is known."""
    known = [(row, row.net_ratio.best) for row in rows if row.net_ratio]
    if not known:
        return None
    shares = [100 * net for _, net in known]
    low, high = min(0.0, *shares), max(0.0, *shares)
    return BarPlot(
        title="CPU time on balance by policy",
        axis=number_axis(
            "% of all CPU time", low, high or (1.0 if low == 0 else 0.0), _decimal, intervals=3
        ),
        bars=[
            Bar(
                f"{row.policy} *" if row.policy in best else row.policy,
                share,
                f"{small_percent(net)}, {row.saved_kib} KiB",
            )
            for (row, net), share in zip(known, shares, strict=True)
        ],
        note="Modelled on calibrated prices: faults or refills, less what forks save; of"
        " refills only those seen. Beside it KiB saved. *: no other policy saves as much memory"
        " for as little.",
        in_text=False,
    )


def saving_against_cost(rows: Sequence[PolicyCost], best: Collection[str]) -> LinePlot | None:
    """A dot a policy, and steps through the best: the most memory that so much CPU time buys."""
    dots: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for row in rows:
        if row.net_ratio:
            dots[row.policy in best].append((100 * row.net_ratio.best, float(row.saved_kib)))
    points = sorted(dots[True])
    if not points:
        return None
    every = [*points, *dots[False]]
    first, last = min(cost for cost, _ in every), max(cost for cost, _ in every)
    end = last + (max(abs(first), abs(last), last - first) * 0.1 or 0.001)
    ends = [*(cost for cost, _ in points[1:]), end]
    steps = [
        corner
        for (cost, saved), until in zip(points, ends, strict=True)
        for corner in ((cost, saved), (until, saved))
    ]
    return LinePlot(
        title="Saving against cost",
        x=number_axis("CPU time on balance, % of all", min(first, 0.0), end, _decimal, intervals=3),
        y=number_axis(
            "KiB saved, reserve paid",
            min(0.0, *(saved for _, saved in every)),
            max(saved for _, saved in every),
            _count,
        ),
        curves=[
            Curve("most that any policy saves", steps),
            # small over large: where two lie on each other, both are seen
            Curve("best policies", points, dots=5),
            *([Curve("others", sorted(dots[False]), dots=3)] if dots[False] else []),
        ],
        note="Modelled, a dot a policy, whose figures stand in the plot by policy. Each step"
        " begins at one that no other beats; a dot above them is of one that some task would have"
        " overflowed. Left of 0 a policy saves CPU time as well.",
    )


def headroom_over_time(samples: Sequence[tuple[float, int]], are: str) -> LinePlot:
    """Free memory above the watermarks: seconds and pages; `are` says what these samples are."""
    most = max(pages for _, pages in samples) * PAGE_BYTES
    size, unit = next(
        ((size, unit) for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB")) if most >= size),
        (1 << 10, "KiB"),
    )
    times = [seconds for seconds, _ in samples]
    free = [pages * PAGE_BYTES / size for _, pages in samples]
    return LinePlot(
        title="Free memory above the minimum watermarks",
        x=time_axis(max(times[-1], 1.0)),
        y=number_axis(unit, 0, max(free) or 1.0, _count),
        curves=[Curve("headroom", _thinned(times, free))],
        note=f"Measured, {unit}, in {len(free)} {are}.",
        text_rows=_text_rows(times, [free], lambda value: f"{value:.1f}"),
    )


def saving_by_shift(points: Sequence[ShiftPoint]) -> LinePlot:
    """What a little more or less depth would change."""
    ratios = [100 * point.saving_ratio for point in points]
    return LinePlot(
        title="Saving if every stack were deeper",
        x=Axis(
            "bytes deeper",
            [(float(n), f"{n:+d}" if n else "0") for n in range(-2048, 2049, 1024)],
        ),
        y=number_axis("saving, %", min(ratios, default=0.0), max(ratios, default=100.0)),
        curves=[Curve(HEADLINE, [(p.shift_bytes, 100 * p.saving_ratio) for p in points])],
        note=(
            f"Modelled ({HEADLINE}, without its reserve): each measured mark moved by as many"
            " bytes, as another compiler, option or call path might. The axis does not begin at 0."
        ),
    )


def memory_over_time(
    times: Sequence[float], base: Sequence[float], dynamic: Sequence[float], error: str
) -> LinePlot:
    """BASE and Dynamic, KiB, at each time; `error` says which way they err."""
    return LinePlot(
        title="Kernel stacks over time",
        x=time_axis(times[-1]),
        y=number_axis("KiB", 0, max(base), _count),
        curves=[
            Curve("BASE, measured", _thinned(times, base)),
            Curve(f"Dynamic, modelled ({HEADLINE})", _thinned(times, dynamic)),
        ],
        note=(f"KiB in {len(times)} samples, without the reserve. {error}"),
        text_rows=_text_rows(times, [base, dynamic], lambda value: f"{value:.0f}"),
    )


def pages_over_time(times: Sequence[float], counts: Mapping[int, Sequence[float]]) -> LinePlot:
    """How many stacks have a mark of 1, 2, ... pages, at each time."""
    named = {counted(pages, "page"): values for pages, values in counts.items()}
    few, rest = dict(named), list(named.values())[MOST_CURVES - 1 :]
    if len(named) > MOST_CURVES:
        few = dict(list(named.items())[: MOST_CURVES - 1])
        few["more"] = [sum(column) for column in zip(*rest, strict=True)]
    most = max(max(values) for values in few.values())
    return LinePlot(
        title="Stacks by pages, over time",
        x=time_axis(times[-1]),
        y=number_axis("stacks", 0, most or 1.0, _count),
        curves=[Curve(name, _thinned(times, values)) for name, values in few.items()],
        note=f"Measured: living stacks by pages down to their marks, in {len(times)} samples.",
    )


def _thinned(times: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Downsampled: about _MOST_POINTS points at equal steps, and the last."""
    step = max(1, -(-len(times) // _MOST_POINTS))
    chosen = sorted({*range(0, len(times), step), len(times) - 1})
    return [(times[at], values[at]) for at in chosen]


def _text_rows(
    times: Sequence[float], columns: Sequence[Sequence[float]], write: Callable[[float], str]
) -> list[tuple[str, Sequence[TextBar]]]:
    step = max(1, -(-len(times) // _MOST_TEXT_ROWS))
    most = max((max(column) for column in columns), default=0.0) or 1.0
    return [
        (
            clock(times[at]),
            [TextBar(column[at] / most, write(column[at])) for column in columns],
        )
        for at in range(0, len(times), step)
    ]


def rates_over_time(
    title: str,
    label: str,
    rates: Mapping[str, Sequence[Span]],
    note: str,
    rate_of: str,
    *,
    in_text: bool = True,
) -> LinePlot:
    """Steps: a rate is the mean of an interval, or of several where there are many."""
    whole = max(begin + lasted for spans in rates.values() for begin, lasted, _ in spans)
    shown = {name: _merged(spans, _MOST_POINTS) for name, spans in rates.items()}
    most = max(value for spans in shown.values() for _, _, value in spans)
    longest = max(len(spans) for spans in rates.values())
    joined = -(-longest // _MOST_POINTS)
    mean_of = f"each {rate_of}" if joined == 1 else f"{joined} of each {rate_of}"
    return LinePlot(
        title=title,
        x=time_axis(whole),
        y=number_axis(label, 0, most or 1.0, _count),
        curves=[Curve(name, _steps(spans)) for name, spans in shown.items()],
        note=f"{note} A step is the mean of {mean_of}; a bar of the time beside it.",
        text_rows=_rate_rows(rates) if in_text else None,
    )


def _merged(spans: Sequence[Span], most: int) -> list[Span]:
    """Downsampled to that many spans, each the mean of its bucket."""
    step = max(1, -(-len(spans) // most))
    groups = [spans[at : at + step] for at in range(0, len(spans), step)]
    return [(group[0][0], length(group), mean(group)) for group in groups]


def _steps(spans: Sequence[Span]) -> list[tuple[float, float]]:
    return [
        point
        for begin, lasted, value in spans
        for point in ((begin, value), (begin + lasted, value))
    ]


def _rate_rows(rates: Mapping[str, Sequence[Span]]) -> list[tuple[str, Sequence[TextBar]]]:
    columns = [_merged(spans, _MOST_TEXT_ROWS) for spans in rates.values()]
    most = max(value for spans in columns for _, _, value in spans) or 1.0
    return [
        (
            f"{clock(row[0][0])} to {clock(row[0][0] + row[0][1])}",
            [TextBar(value / most, f"{value:.1f}/s") for _, _, value in row],
        )
        for row in zip(*columns, strict=False)
    ]
