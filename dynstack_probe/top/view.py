# SPDX-License-Identifier: GPL-2.0-or-later
"""`top`: frames as they come, and the view of one of them in any number of lines.

Nothing here knows a terminal: what a key does is a new View, what is shown is lines of text.
"""

from __future__ import annotations

import enum
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from dynstack_probe.analysis.cost import policy_cost, prices_of
from dynstack_probe.analysis.estimate import Estimate, Group, estimate, group_by
from dynstack_probe.analysis.grouping import group_names
from dynstack_probe.analysis.host_estimate import kernel_and_user
from dynstack_probe.analysis.timeline import Timeline, rate
from dynstack_probe.model.cost import PolicyCost
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import Series, median_index, series_of
from dynstack_probe.model.shapes import by_mark, count_shapes
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind, kinds_of
from dynstack_probe.output.rates import per_second
from dynstack_probe.policy import Policy
from dynstack_probe.text import percent, printable, short_duration, small_percent
from dynstack_probe.top import keys

GROUPINGS = ("cgroup", "container", "comm", "kind")
TREND_POINTS = 4096
LONGEST_FILTER = 64
PAGE_LINES = 10  # that Page Up and Page Down scroll
_T = TypeVar("_T")
_ORDERED_AT_ONCE = 128  # tasks; scrolling costs nothing until these are used up


@dataclass(frozen=True)
class Moment:
    """One frame, and the figures that its view needs. `number` counts from 0.

    interval: since the frame before, None at the first. cost: of that time.
    """

    number: int
    frame: Frame
    estimate: Estimate
    pages: Mapping[int, int]
    kinds: Mapping[Kind, int]
    interval: Interval | None
    policy: Policy
    cost: PolicyCost | None = None
    _groups: dict[str, list[Group]] = field(default_factory=dict, compare=False, repr=False)
    _ordered: dict[tuple[object, ...], Ordered] = field(
        default_factory=dict, compare=False, repr=False
    )

    def groups(self, by: str) -> list[Group]:
        """Stacks by cgroup, container, comm or kind, largest first."""
        if by not in self._groups:
            frame = self.frame
            names = group_names(frame, by)
            self._groups[by] = group_by(self.policy, frame.stacks, names, frame.host)
        return self._groups[by]

    def tasks(self, view: View, count: int) -> Ordered:
        """The first `count` tasks or more in the view's order, and how many match at all."""
        wanted = -(-count // _ORDERED_AT_ONCE) * _ORDERED_AT_ONCE
        key = (view.sort, view.reverse, view.pattern, wanted)
        if key not in self._ordered:
            self._ordered.clear()
            self._ordered[key] = _order(self.frame, view, wanted)
        return self._ordered[key]


@dataclass(frozen=True)
class Ordered:
    """Which stacks, and how many there would be."""

    rows: Sequence[int]
    matching: int


class History:
    """Takes frames in order and keeps each one's savings, not the frames."""

    def __init__(self, policy: Policy) -> None:
        """`policy` is the headline."""
        self.policy = policy
        self._points: deque[tuple[int, Savings]] = deque(maxlen=TREND_POINTS)
        self._count = 0
        self._timeline = Timeline([policy.asleep_seconds])

    def add(self, frame: Frame) -> Moment:
        shapes = count_shapes(frame.stacks, [self.policy.asleep_seconds])
        estimated = estimate(self.policy, shapes, frame.host)
        interval = self._timeline.add(frame)
        cost = None
        if interval is not None and interval.seconds > 0:
            prices = prices_of(interval.calibration)
            cost = policy_cost(self.policy, estimated, interval, frame.host, prices)
        moment = Moment(
            number=self._count,
            frame=frame,
            estimate=estimated,
            pages=by_mark(shapes, frame.host.thread_pages),
            kinds=kinds_of(frame.stacks.kinds),
            interval=interval if interval and interval.seconds > 0 else None,
            policy=self.policy,
            cost=cost,
        )
        self._points.append((frame.boot_ns, estimated))
        self._count += 1
        return moment

    def trend(self, upto: int) -> list[tuple[int, float]]:
        """(CLOCK_BOOTTIME ns, saving ratio) of the frames up to number `upto`."""
        return [(at, one.saving_ratio) for at, one in self._upto(upto)]

    def series(self, upto: int) -> tuple[Savings, Series] | None:
        """What stands for the frames up to number `upto`, the median by time, and its spread.

        None if there are not two.
        """
        points = self._upto(upto)
        if len(points) < 2:
            return None
        savings = [one for _, one in points]
        at, series = series_of([boot_ns / 1e9 for boot_ns, _ in points], savings)
        return savings[at], series

    def _upto(self, upto: int) -> list[tuple[int, Savings]]:
        first = self._count - len(self._points)
        return list(islice(self._points, max(0, upto + 1 - first)))


class Sort(enum.StrEnum):
    MARK = "mark"
    NOW = "now"
    AGE = "age"
    NAME = "name"


class Action(enum.Enum):
    """What a key asks the caller to do."""

    NONE = enum.auto()
    QUIT = enum.auto()
    REDRAW = enum.auto()
    FORWARD = enum.auto()
    BACK = enum.auto()


@dataclass(frozen=True)
class View:
    """What the user chose. `typing` is a filter not yet confirmed, None if none is typed."""

    sort: Sort = Sort.MARK
    reverse: bool = False
    group: str = GROUPINGS[0]
    filter_text: str = ""
    typing: str | None = None
    paused: bool = False
    scroll: int = 0
    help: bool = False

    @property
    def pattern(self) -> str:
        """What a name must contain: while it is typed, what there is of it."""
        return self.filter_text if self.typing is None else self.typing


def press(view: View, key: str, tasks: int) -> tuple[View, Action]:
    """What a key does; `tasks` are those that could be scrolled through."""
    if view.typing is not None:
        return _type(view, view.typing, key), Action.NONE
    if key in ("q", "Q"):
        return view, Action.QUIT
    if key == keys.REDRAW:
        return view, Action.REDRAW
    if key == keys.RIGHT:
        return view, Action.FORWARD
    if key == keys.LEFT:
        return view, Action.BACK
    return _change(view, key, tasks), Action.NONE


def _change(view: View, key: str, tasks: int) -> View:
    last = max(0, tasks - 1)
    match key:
        case "p" | " ":
            return replace(view, paused=not view.paused)
        case "s":
            return replace(view, sort=_after(view.sort, tuple(Sort)), reverse=False, scroll=0)
        case "r":
            return replace(view, reverse=not view.reverse, scroll=0)
        case "c":
            return replace(view, group=_after(view.group, GROUPINGS))
        case "/":
            return replace(view, typing=view.filter_text, help=False)
        case keys.ESCAPE:
            return replace(view, filter_text="", scroll=0, help=False)
        case "?" | "h":
            return replace(view, help=not view.help)
        case keys.DOWN | "j":
            return replace(view, scroll=min(last, view.scroll + 1))
        case keys.UP | "k":
            return replace(view, scroll=max(0, min(last, view.scroll) - 1))
        case keys.PAGE_DOWN:
            return replace(view, scroll=min(last, view.scroll + PAGE_LINES))
        case keys.PAGE_UP:
            return replace(view, scroll=max(0, min(last, view.scroll) - PAGE_LINES))
        case keys.HOME | "g":
            return replace(view, scroll=0)
        case keys.END | "G":
            return replace(view, scroll=last)
    return view


def _after(value: _T, values: Sequence[_T]) -> _T:
    return values[(values.index(value) + 1) % len(values)]


def _type(view: View, typed: str, key: str) -> View:
    match key:
        case keys.ENTER:
            return replace(view, filter_text=typed, typing=None, scroll=0)
        case keys.ESCAPE:
            return replace(view, typing=None)
        case keys.BACKSPACE:
            return replace(view, typing=typed[:-1])
        case keys.CLEAR:
            return replace(view, typing="")
    if key in keys.NAMED or len(typed) >= LONGEST_FILTER:
        return view
    return replace(view, typing=typed + key)


def _order(frame: Frame, view: View, count: int) -> Ordered:
    """The first `count` tasks in the view's order: ties by thread id."""
    stacks = frame.stacks
    rows: Sequence[int] = range(len(stacks))
    if view.pattern:
        wanted = view.pattern.casefold()
        known = {comm: wanted in printable(comm).casefold() for comm in set(stacks.comms)}
        rows = [row for row in rows if known[stacks.comms[row]]]
    values: Sequence[Any]
    values, largest_first = {
        Sort.MARK: (stacks.mark_bytes, True),
        Sort.NOW: (stacks.depth_bytes, True),
        Sort.AGE: (stacks.start_boot_ns, False),  # the oldest started first
        Sort.NAME: (stacks.comms, False),
    }[view.sort]
    tids = stacks.tids
    if largest_first is view.reverse:
        chosen = heapq.nsmallest(count, rows, key=lambda row: (values[row], tids[row]))
    else:
        chosen = heapq.nlargest(count, rows, key=lambda row: (values[row], -tids[row]))
    return Ordered(chosen, len(rows))


@dataclass(frozen=True)
class Glyphs:
    """What bars and the trend are drawn with. `unicode`: names may be shown in it too."""

    unicode: bool
    levels: str
    parts: str  # of a cell, from the smallest to the whole

    def name(self, name: str | bytes) -> str:
        """A name escaped for this terminal's character set."""
        text = printable(name)
        return text if self.unicode else text.encode("ascii", "backslashreplace").decode()


BLOCKS = Glyphs(True, "▁▂▃▄▅▆▇█", "▏▎▍▌▋▊▉█")
ASCII = Glyphs(False, "_.-:=+*#", "#")


@dataclass(frozen=True)
class Status:
    """Where the frame comes from: a host or a capture; how it goes on; which keys there are.

    of_series: the headline is the median of the frames so far, not this frame.
    """

    source: str
    pace: str = ""
    can_step: bool = False
    keys: bool = True
    of_series: bool = False


@dataclass(frozen=True)
class _Page:
    view: View
    history: History
    moment: Moment
    width: int
    glyphs: Glyphs
    status: Status

    def fitting(self, *variants: str) -> str:
        """The first that fits in a line, or the last."""
        return next((v for v in variants if cell_len(v) <= self.width), variants[-1])

    def line(self, text: Text) -> Text:
        """One line, no wider than the page."""
        text.truncate(self.width, overflow="crop")
        text.no_wrap = True
        return text


def render(
    view: View,
    history: History,
    moment: Moment,
    size: tuple[int, int],
    glyphs: Glyphs,
    status: Status,
) -> list[Text]:
    """At most as many lines as `size`, columns and rows, has; none is wider."""
    width, height = max(1, size[0]), max(1, size[1])
    page = _Page(view, history, moment, width, glyphs, status)
    if view.help:
        return [page.line(Text(text)) for text in _help(page)][:height]
    sections = _plan(page, height)
    lines = [line for name in _ORDER for line in sections.get(name, ())]
    lines = [page.line(line) for line in lines]
    if "footer" in sections:  # stays at the bottom
        lines[-1:-1] = [Text()] * (height - len(lines))
    return lines[:height]


_ORDER = (
    *("title", "series", "saving", "trend", "coverage", "rates", "note"),
    *("bars", "tasks", "groups", "footer"),
)
_ROOMY = 30  # lines; from there on empty ones set the sections apart


@dataclass
class _Budget:
    """How many lines are left, and which sections have taken theirs."""

    left: int
    sections: dict[str, list[Text]] = field(default_factory=dict)

    def take(self, name: str, lines: list[Text]) -> None:
        """All of these lines or none; instead of those that the section had."""
        needed = len(lines) - len(self.sections.get(name, ()))
        if lines and needed <= self.left:
            self.sections[name] = lines
            self.left -= needed

    def set_aside(self, most: int, least: int = 1) -> int:
        """Lines for later: as many as there are, or none if those are fewer than `least`."""
        count = min(self.left, most) if self.left >= least else 0
        self.left -= count
        return count


def _plan(page: _Page, height: int) -> dict[str, list[Text]]:
    """Which sections, and how much of each: the most important first, lists take the rest."""
    budget = _Budget(height)
    series = _series(page)
    budget.take("series", series)
    budget.take("saving", [_saving(page, is_headline=not series)])
    if page.view.typing is not None:
        budget.take("footer", [_footer(page)])
    budget.take("coverage", [_coverage(page)])
    task_lines = budget.set_aside(2, least=2)
    budget.take("bars", [_pages_in_a_line(page)])
    if page.status.keys:
        budget.take("footer", [_footer(page)])
    budget.take("rates", [_rates(page)])
    budget.take("title", [_title(page)])
    budget.take("trend", [_trend(page)])
    task_lines += budget.set_aside(2)
    group_lines = budget.set_aside(4, least=2)
    bars = _bars(page)
    if len(bars) <= 8 or budget.left >= len(bars) + 4:
        budget.take("bars", bars)
    if height >= _ROOMY and budget.left >= 8:
        _set_apart(page, budget)
    _share(page, budget, task_lines, group_lines)
    return budget.sections


def _set_apart(page: _Page, budget: _Budget) -> None:
    """What a reader of the figures must know, and empty lines between sections."""
    caveats = page.moment.frame.caveats[:2]
    budget.take("note", [Text(f"Note      {page.glyphs.name(c)}", "yellow") for c in caveats])
    for name in ("bars", "tasks", "groups"):
        budget.take(name, [Text(), *budget.sections.get(name, ())])


def _share(page: _Page, budget: _Budget, task_lines: int, group_lines: int) -> None:
    """What is left: two fifths for groups, and all that one list does not need to the other."""
    groups = page.moment.groups(page.view.group)
    tasks = page.moment.tasks(page.view, 1).matching
    most_groups = max(0, len(groups) + 1 - group_lines)
    most_tasks = max(0, tasks + 1 - task_lines)
    more_groups = min(most_groups, budget.left * 2 // 5)
    more_tasks = min(most_tasks, budget.left - more_groups)
    more_groups = min(most_groups, budget.left - more_tasks)
    sections = budget.sections
    sections.setdefault("tasks", []).extend(_tasks(page, task_lines + more_tasks))
    sections.setdefault("groups", []).extend(_groups(page, groups, group_lines + more_groups))


def _title(page: _Page) -> Text:
    frame, status = page.moment.frame, page.status
    host = frame.host
    clock = time.strftime("%H:%M:%S", time.localtime(frame.taken_at))
    source = page.glyphs.name(status.source)
    kernel = page.glyphs.name(f"Linux {host.kernel_release}")
    model = page.glyphs.name(host.cpu_model)
    right = f"{clock}  {status.pace}".rstrip()
    if page.view.paused:
        right = f"PAUSED  {right}"
    full = f"{source}, {model}, {kernel}"
    lefts = (f"dynstack-probe top: {full}", full, f"{source}, {kernel}", source, "")
    left = next((text for text in lefts if cell_len(text) + 2 + len(right) <= page.width), "")
    gap = " " * max(0, page.width - cell_len(left) - len(right))
    line = Text(left + gap, "bold")
    line.append(right, "bold reverse" if page.view.paused else "dim")
    return line


def _series(page: _Page) -> list[Text]:
    """The headline of a capture; none while there is one frame."""
    found = page.history.series(page.moment.number) if page.status.of_series else None
    if found is None:
        return []
    one, series = found
    ratio, policy = percent(one.saving_ratio), page.glyphs.name(page.moment.policy.name)
    median = f"{ratio} ({policy}), median of {series.frames} frames"
    over = f"over {short_duration(series.seconds)}"
    span = f"{percent(series.saving.least)} to {percent(series.saving.most)}"
    kib = f"{one.base_kib} KiB would be {one.dynamic_kib}"
    text = page.fitting(
        f"Saving    {median} {over}: {span}; {kib}",
        f"Saving    {median} {over}: {span}",
        f"Saving    {median}: {span}",
        f"Saving {ratio} ({policy}), median",
        f"Saving {ratio}, median",
        f"{ratio} median",
    )
    line = Text(text, "bold")
    line.highlight_words([ratio], "green")
    return [line]


def _saving(page: _Page, *, is_headline: bool) -> Text:
    """Of this frame: the headline of a host."""
    one = page.moment.estimate
    label, short = ("Saving    ", "Saving") if is_headline else ("Instant   ", "Instant")
    ratio, policy = percent(one.saving_ratio), page.glyphs.name(one.policy)
    with_reserve = "no reserve"
    if one.reserve_kib:
        with_reserve = f"{percent(one.saving_with_reserve_ratio)} with {one.reserve_kib} of reserve"
    kib = f"{one.base_kib} KiB would be {one.dynamic_kib}"
    over = f", {one.over_limit_tasks} tasks OVERFLOW" if one.over_limit_tasks else ""
    net = page.moment.cost.net_ratio if page.moment.cost else None
    ends = [over] if net is None else [f"; net CPU {small_percent(net.best)}{over}", over]
    middles = (f", {one.saved_kib} KiB less; {with_reserve}", f"; {with_reserve}", " KiB")
    text = page.fitting(
        *(f"{label}{ratio} ({policy}): {kib}{middle}{end}" for end in ends for middle in middles),
        f"{short} {ratio} ({policy}){over}",
        f"{short} {ratio}{over}",
    )
    line = Text(text, "bold" if is_headline else "")
    line.highlight_words([ratio], "green")
    if over:
        line.highlight_words([over[2:]], "red")
    return line


def _coverage(page: _Page) -> Text:
    coverage, kinds = page.moment.frame.coverage, page.moment.kinds
    kernel, user = kernel_and_user(kinds)
    read, missed = len(page.moment.frame.stacks), coverage.missed
    threads = f"{kernel} kernel threads, {user} user threads"
    if coverage.kernel_stacks is None:
        counted = f"{read} stacks read, {missed} unreadable"
    else:
        counted = f"{read} stacks of {coverage.kernel_stacks}, {missed} missed"
    return Text(
        page.fitting(
            f"Coverage  {counted}; {threads}",
            f"Coverage  {counted}",
            f"{read} stacks, {missed} missed",
            f"{read} + {missed} missed",
        )
    )


def _trend(page: _Page) -> Text:
    points = page.history.trend(page.moment.number)
    ratios = [ratio for _, ratio in points]
    if len(ratios) < 2:
        return Text(page.fitting("Trend     from the second frame on", "Trend -"))
    room = page.width - len("Trend     00.00%..00.00%, median 00.00%  over 999s  ")
    shown = points[-max(8, min(room, len(points))) :]
    ratios = [ratio for _, ratio in shown]
    low, high = min(ratios), max(ratios)
    over = short_duration((shown[-1][0] - shown[0][0]) / 1e9)
    graph = sparkline(ratios, page.glyphs)
    median = ratios[median_index([at / 1e9 for at, _ in shown], ratios)]
    span = f"{percent(low)}..{percent(high)}, median {percent(median)}"
    line = Text(page.fitting(f"Trend     {span} over {over}  ", f"{span} ", ""))
    line.append(graph, "green")
    return line


def sparkline(values: Sequence[float], glyphs: Glyphs) -> str:
    """A character a value, from the least (lowest) to the largest; all alike: the middle."""
    low, high = min(values), max(values)
    top = len(glyphs.levels) - 1
    if high == low:
        return glyphs.levels[top // 2] * len(values)
    return "".join(glyphs.levels[round((v - low) / (high - low) * top)] for v in values)


def _rates(page: _Page) -> Text:
    moment = page.moment
    interval = moment.interval
    if interval is None:
        return Text(page.fitting("A second  from the second frame on", "A second -"))
    work = rate(moment.policy, interval, moment.frame.host.thread_pages)
    modelled = f"no faults ({moment.policy.name})"
    if work is not None:
        modelled = f"{work.what} {per_second(work.events)} (modelled)"
    measured = [
        f"{name} {per_second(value)}"
        for name, value in (
            ("created", interval.per_second(interval.created)),
            ("exited", interval.per_second(interval.exited)),
            ("switches", interval.per_second(interval.host_switches)),
        )
        if value is not None
    ]
    every = ", ".join([modelled, *measured])
    return Text(
        page.fitting(f"A second  {every}", f"A second  {modelled}", f"/s: {modelled}", modelled)
    )


def _pages_in_a_line(page: _Page) -> Text:
    counts = page.moment.pages
    each = "  ".join(f"{pages}: {count}" for pages, count in counts.items())
    deep = sum(count for pages, count in counts.items() if pages > 1)
    return Text(page.fitting(f"Pages     {each}", f"1: {counts[1]} more: {deep}"))


def _bars(page: _Page) -> list[Text]:
    counts = page.moment.pages
    most, total = max(counts.values()), max(1, sum(counts.values()))
    digits = len(str(most))
    lines = []
    for pages, count in counts.items():
        label = f"{pages:>2} {'page ' if pages == 1 else 'pages'}  {count:>{digits}}"
        label += f" {count / total:>7.2%}  "
        room = max(0, page.width - len(label))
        line = Text(label)
        style = "green" if pages == 1 else "yellow" if pages == 2 else "red"
        line.append(bar(count, most, room, page.glyphs), style)
        lines.append(line)
    return lines


def bar(count: int, most: int, room: int, glyphs: Glyphs) -> str:
    """`room` cells for the most; what is not nothing shows."""
    if not count or not room:
        return ""
    parts = len(glyphs.parts)
    length = max(1, round(count / most * room * parts))
    whole, rest = divmod(length, parts)
    return glyphs.parts[-1] * whole + (glyphs.parts[rest - 1] if rest else "")


@dataclass(frozen=True)
class _Column:
    """Right-aligned figures, shown on pages of at least `from_width` columns."""

    title: str
    width: int
    from_width: int
    value: Callable[[int], str]


def _tasks(page: _Page, lines: int) -> list[Text]:
    """A heading, then one task per line."""
    if lines < 1:
        return []
    view, frame = page.view, page.moment.frame
    stacks = frame.stacks
    rows = lines - 1
    matching = page.moment.tasks(view, 1).matching
    first = max(0, min(view.scroll, matching - rows))
    ordered = page.moment.tasks(view, first + rows)

    def age(row: int) -> str:
        return short_duration(max(0, frame.boot_ns - stacks.start_boot_ns[row]) / 1e9)

    def asleep(row: int) -> str:
        seconds = stacks.asleep_seconds[row]
        return "?" if seconds == ASLEEP_UNKNOWN else short_duration(seconds)

    columns = [
        _Column("mark", 6, 0, lambda row: str(stacks.mark_bytes[row])),
        _Column("pages", 6, 60, lambda row: str(-(-stacks.mark_bytes[row] // PAGE_BYTES) or 1)),
        _Column("now", 7, 30, lambda row: str(stacks.depth_bytes[row] or "on cpu")),
        _Column("asleep", 7, 70, asleep),
        _Column("age", 6, 40, age),
        _Column("tid", 8, 50, lambda row: str(stacks.tids[row])),
        _Column("kind", 12, 66, lambda row: Kind(stacks.kinds[row]).label),
    ]
    columns = [column for column in columns if page.width >= column.from_width]
    heading = Text()
    for column in columns:
        heading.append(f"{column.title:>{column.width}}", _heading_style(view, column.title))
    heading.append("  ")
    heading.append("name", _heading_style(view, "name"))
    used = sum(column.width for column in columns) + 2
    shown = len(ordered.rows[first : first + rows])
    room = page.width - used - len("name")
    heading.append(_position(page, first, shown, matching, room))
    body = []
    for row in ordered.rows[first : first + rows]:
        line = Text("".join(f"{column.value(row):>{column.width}}" for column in columns) + "  ")
        name = page.glyphs.name(stacks.comms[row])
        path = frame.cgroup_paths.get(stacks.cgroup_ids[row])
        if path is not None and page.width >= used + 40:
            name = f"{set_cell_size(name, 16)}  {page.glyphs.name(path)}"
        line.append(name)
        body.append(line)
    return [heading, *body]


def _heading_style(view: View, title: str) -> str:
    return "bold underline" if view.sort.value == title else "bold"


def _position(page: _Page, first: int, shown: int, matching: int, room: int) -> str:
    """Which of how many tasks, in what order, as far as there is room to say."""
    view = page.view
    of = f"{first + 1}-{first + shown} of {matching}" if shown else f"none of {matching}"
    order = f"by {view.sort.value}{' reversed' if view.reverse else ''}"
    what = f" with {page.glyphs.name(view.pattern)}" if view.pattern else ""
    variants = [f"  {order}, {of}{what}", f"  {of}{what}", f"  {matching}{what}", f"  {of}"]
    return next((text for text in variants if cell_len(text) <= room), "")


def _groups(page: _Page, groups: Sequence[Group], lines: int) -> list[Text]:
    """A heading, then one group per line; dynamic and saving are modelled."""
    if lines < 2:
        return []
    columns = [
        _Column("stacks", 7, 0, lambda at: str(groups[at].stacks)),
        _Column("base KiB", 10, 60, lambda at: str(groups[at].base_kib)),
        _Column("dynamic", 9, 50, lambda at: str(groups[at].dynamic_kib)),
        _Column("saving", 8, 30, lambda at: percent(groups[at].saving_ratio)),
        _Column("worst", 7, 40, lambda at: str(groups[at].worst_mark_bytes)),
    ]
    columns = [column for column in columns if page.width >= column.from_width]
    title = "".join(f"{column.title:>{column.width}}" for column in columns)
    shown = min(len(groups), lines - 1)
    heading = Text(f"{title}  by {page.view.group}", "bold")
    of = f"  ({shown} of {len(groups)})"
    if heading.cell_len + cell_len(of) <= page.width:
        heading.append(of, "")
    body = [
        Text(
            "".join(f"{column.value(at):>{column.width}}" for column in columns)
            + f"  {page.glyphs.name(groups[at].name)}"
        )
        for at in range(shown)
    ]
    return [heading, *body]


def _footer(page: _Page) -> Text:
    view = page.view
    if view.typing is not None:
        room = max(1, page.width - 2)
        shown = page.glyphs.name(view.typing)
        while cell_len(shown) > room:
            shown = shown[1:]
        return Text.assemble(("/", "bold"), shown, ("_", "blink"))
    pause = "go on" if view.paused else "pause"
    step = "  </> step" if page.status.can_step else ""
    filtered = f": {page.glyphs.name(view.filter_text)}" if view.filter_text else ""
    text = page.fitting(
        f"q quit  p {pause}{step}  s sort: {view.sort.value}  r reverse"
        f"  c groups: {view.group}  / filter{filtered}  ? help",
        f"q quit  p {pause}{step}  s sort  r reverse  c groups  / filter{filtered}  ? help",
        f"q quit  p {pause}{step}  s sort  r reverse  c groups  / filter  ? help",
        f"q quit  p {pause}  s sort  / filter  ? help",
        "q quit  s sort  ? help",
        "q quit",
    )
    return Text(text, "reverse" if page.glyphs.unicode else "")


HELP_KEYS = (
    ("q, Ctrl-C", "quit"),
    ("p, space", "pause or resume; frames are still taken"),
    ("s", "sort tasks by mark, depth now, age, name"),
    ("r", "reverse the order"),
    ("c", "groups by cgroup, container, comm, kind"),
    ("/", "only tasks whose name contains ...; Enter, Esc"),
    ("Esc", "all tasks again"),
    ("up, down, j, k", "scroll; Page Up, Page Down, g, G"),
    ("left, right", "a frame back, on (--replay)"),
    ("Ctrl-L", "redraw the screen"),
    ("?", "this help"),
)


def _help(page: _Page) -> Iterable[str]:
    yield page.fitting("Keys (? goes back)", "Keys")
    wide = page.width >= 50
    for key, what in HELP_KEYS:
        yield f"  {key:<16}{what}" if wide else f"{key}: {what}"
    if not wide:
        return
    yield ""
    yield "mark: deepest byte ever used; now: depth at which it sleeps; asleep: since"
    yield "it last ran, ? unknown. dynamic, saving and faults are modelled, all else is measured."
