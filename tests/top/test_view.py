# SPDX-License-Identifier: GPL-2.0-or-later
"""The view of `top` at any size, with any names, and what its keys do."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from dynstack_probe.analysis.timeline import rate
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.tables import buffered
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.top import keys, replay
from dynstack_probe.top.keys import KeyDecoder
from dynstack_probe.top.replay import Replay
from dynstack_probe.top.screen import encode, speaks_utf8
from dynstack_probe.top.view import (
    ASCII,
    BLOCKS,
    GROUPINGS,
    Action,
    Glyphs,
    History,
    Moment,
    Sort,
    Status,
    View,
    bar,
    press,
    render,
    sparkline,
)
from tests.factory import a_frame, a_host, collect, some_stacks
from tests.hostile import NAMES

SIZES = [
    *((width, 24) for width in (1, 7, 20, 33, 60, 79, 80, 300)),
    *((80, height) for height in (1, 2, 3, 5, 8, 17, 30, 100)),
    *((1, 1), (20, 5), (40, 10), (200, 60)),
]
STATUS = Status("this host", "every 2s", can_step=True)
RFC = BUILT_IN["rfc-v1"]


def lifecycle(created: int = 0, exited: Mapping[tuple[int, int], int] | None = None) -> Lifecycle:
    return Lifecycle(created, 0, exited or {}, (), (), {}, 0, 0.0)


@functools.cache
def known_moment(name: str) -> tuple[History, Moment]:
    return moment_of(SNAPSHOTS[name])


def moment_of(frame: Frame, policy: str = "rfc-v1") -> tuple[History, Moment]:
    history = History(BUILT_IN[policy])
    return history, history.add(frame)


def hostile_snapshot() -> Frame:
    count = len(NAMES) * 3
    frame = a_frame(
        some_stacks(
            [500 + 300 * i for i in range(count)],
            comms=[*NAMES] * 3,
            cgroup_ids=list(range(count)),
            kinds=[Kind(i % 4) for i in range(count)],
        )
    )
    return replace(
        frame,
        cgroup_paths={i: f"/{NAMES[i % 10]!r}\x1b[5m\n日本" for i in range(0, count, 2)},
        caveats=("A caveat\x1b[1m\nwith more",),
        host=replace(frame.host, cpu_model="\x1b]0;title\x07CPU", kernel_release="6\n7"),
    )


def twenty() -> Frame:
    """Tasks 1 to 20, task 20 the deepest; three cgroups."""
    marks = [n * 800 for n in range(1, 21)]
    frame = a_frame(
        some_stacks(
            marks,
            comms=[b"task-%02d" % n for n in range(1, 21)],
            depths=[n * 37 % 700 + 1 for n in range(1, 21)],
            cgroup_ids=[n % 3 for n in range(20)],
        ),
        boot_ns=10**12,
        taken_at=1.7e9,
    )
    stacks = replace(frame.stacks, start_boot_ns=[n * 7 % 20 * 10**10 for n in range(1, 21)])
    return replace(frame, stacks=stacks, cgroup_paths={0: "/a", 1: "/b", 2: "/c"})


SNAPSHOTS = {
    "empty": a_frame(some_stacks([])),
    "one": a_frame(some_stacks([4097])),
    "twenty": twenty(),
    "hostile": hostile_snapshot(),
    "64 KiB stacks": a_frame(some_stacks([60000, 100]), a_host(thread_size_bytes=65536)),
    "many": a_frame(some_stacks([1000 + n % 15000 for n in range(500)])),
}


def shown(
    frame: Frame,
    view: View | None = None,
    size: tuple[int, int] = (80, 24),
    glyphs: Glyphs = BLOCKS,
    policy: str = "rfc-v1",
) -> list[str]:
    history, moment = moment_of(frame, policy)
    return [line.plain for line in render(view or View(), history, moment, size, glyphs, STATUS)]


def names_in(lines: list[str], pattern: str = r"task-\d\d") -> list[str]:
    return [found.group() for line in lines for found in [re.search(pattern, line)] if found]


VIEWS = [
    View(),
    View(help=True),
    View(paused=True, reverse=True, filter_text="日", scroll=3),
    View(typing="日" * 64, group="comm"),
    *(View(sort=sort, group=group) for sort, group in zip(Sort, GROUPINGS, strict=True)),
]


@pytest.mark.parametrize("name", SNAPSHOTS)
@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII], ids=["blocks", "ascii"])
def test_no_line_is_too_long_and_none_too_many(name: str, glyphs: Glyphs) -> None:
    history, moment = known_moment(name)
    for view in VIEWS:
        for width, height in SIZES:
            lines = render(view, history, moment, (width, height), glyphs, STATUS)
            assert 0 < len(lines) <= height
            for line in lines:
                assert line.cell_len <= width, line.plain
                assert all(c.isprintable() for c in line.plain), line.plain
                assert glyphs.unicode or line.plain.isascii()


def test_80x24_shows_all_that_matters() -> None:
    history = History(RFC)
    history.add(replace(twenty(), lifecycle=lifecycle()))
    counted = lifecycle(created=4, exited={(2, 1): 3})
    moment = history.add(replace(twenty(), boot_ns=10**12 + 2 * 10**9, lifecycle=counted))
    lines = [line.plain for line in render(View(), history, moment, (80, 24), BLOCKS, STATUS)]
    text = "\n".join(lines)
    assert len(lines) == 24
    assert "Saving    37.50% (rfc-v1): 320 KiB would be 200" in text
    assert "Trend     37.50%..37.50%, median 37.50% over 2s" in text
    assert "Coverage  20 stacks of 20, 0 missed; 0 kernel threads, 20 user threads" in text
    assert "faults 1.5 (modelled), created 2.0, exited 1.5" in text
    for label in (" 1 page   5  25.00%", " 2 pages  5  25.00%", " 3 pages  5", " 4 pages  5"):
        assert label in text
    assert len(names_in(lines)) >= 5
    assert names_in(lines)[0] == "task-20"
    assert {"/a", "/b", "/c"} <= {line.split()[-1] for line in lines if line.strip()}
    assert lines[-1].startswith("q quit")


def test_small_ones_keep_the_headline_and_tasks() -> None:
    for size in ((40, 10), (20, 5), (16, 3)):
        lines = shown(twenty(), size=size)
        assert any("37.50%" in line for line in lines)
    assert names_in(shown(twenty(), size=(40, 10)))[0] == "task-20"
    assert names_in(shown(twenty(), size=(20, 5)))[0] == "task-20"


def test_large_ones_show_more() -> None:
    lines = shown(twenty(), size=(200, 60))
    assert len(set(names_in(lines))) == 20
    assert "  /b" in next(line for line in lines if "task-20" in line)  # 19 % 3


def test_unmeasured_coverage() -> None:
    frame = twenty()
    frame = replace(frame, coverage=replace(frame.coverage, kernel_stacks=33))
    assert "20 stacks of 33, 13 missed" in "\n".join(shown(frame))
    frame = replace(frame, coverage=replace(frame.coverage, kernel_stacks=None))
    assert "20 stacks read, 0 unreadable" in "\n".join(shown(frame))


@pytest.mark.parametrize("reverse", [False, True])
def test_sorting(reverse: bool) -> None:
    stacks = twenty().stacks
    by: dict[Sort, tuple[Sequence[Any], bool]] = {
        Sort.MARK: (stacks.mark_bytes, True),
        Sort.NOW: (stacks.depth_bytes, True),
        Sort.AGE: (stacks.start_boot_ns, False),
        Sort.NAME: (stacks.comms, False),
    }
    for sort, (values, largest_first) in by.items():
        order = sorted(range(20), key=lambda row: values[row], reverse=largest_first != reverse)
        expected = [stacks.comms[row].decode() for row in order]
        view = View(sort=sort, reverse=reverse)
        assert names_in(shown(twenty(), view, (80, 60))) == expected


def test_equal_marks_are_in_order_of_their_ids() -> None:
    frame = a_frame(some_stacks([1000] * 300))
    view = View()
    assert moment_of(frame)[1].tasks(view, 200).rows[:200] == list(range(200))


def test_filter_and_scroll() -> None:
    lines = shown(twenty(), View(filter_text="TASK-1"), (80, 60))
    assert names_in(lines) == [f"task-{n}" for n in range(19, 9, -1)]
    assert "10 with TASK-1" in "\n".join(lines)
    assert "0 with nobody" in "\n".join(shown(twenty(), View(filter_text="nobody")))
    # what is typed already counts
    assert names_in(shown(twenty(), View(typing="-07"))) == ["task-07"]

    lines = shown(twenty(), View(scroll=5))
    assert names_in(lines)[0] == "task-15"
    last = shown(twenty(), View(scroll=10**6))
    assert names_in(last)[-1] == "task-01"
    assert len(names_in(last)) == len(names_in(lines))


def test_names_are_escaped_and_still_filtered() -> None:
    lines = shown(SNAPSHOTS["hostile"], size=(120, 60))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert r"\x1b[2J\x1b[31mred" in text
    assert "日本語の名前" in text
    assert "[bold]markup[/]" in text
    ascii_only = "\n".join(shown(SNAPSHOTS["hostile"], size=(120, 60), glyphs=ASCII))
    assert r"\u65e5\u672c" in ascii_only
    assert "of 3 with x1b" in "\n".join(shown(SNAPSHOTS["hostile"], View(filter_text="x1b")))


def test_what_is_sent_holds_no_sequence_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    history, moment = moment_of(SNAPSHOTS["hostile"])
    lines = render(View(), history, moment, (80, 24), BLOCKS, STATUS)
    coloured = buffered(1000, "256")
    for line in lines:
        sent = encode(coloured, line)
        assert "\n" not in sent
        assert re.sub(r"\x1b\[[\d;]*m", "", sent) == line.plain
    plain = buffered(1000, None)
    assert [encode(plain, line) for line in lines] == [line.plain for line in lines]
    monkeypatch.setenv("NO_COLOR", "1")
    no_color = buffered(1000, "256")
    sent = "".join(encode(no_color, line) for line in lines)
    assert not re.search(r"\x1b\[[\d;]*3[1-7]", sent)


@pytest.mark.parametrize("policy", BUILT_IN)
def test_every_policy(policy: str) -> None:
    history = History(BUILT_IN[policy])
    for number in range(3):
        frame = replace(twenty(), boot_ns=10**12 + number * 10**9, lifecycle=lifecycle())
        moment = history.add(frame)
    text = "\n".join(
        line.plain for line in render(View(), history, moment, (80, 24), ASCII, STATUS)
    )
    assert f"({policy})" in text
    assert "faults" in text or "refills" in text
    assert ("OVERFLOW" in text) == (policy in ("static-8k", "static-12k"))


def test_trend() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], BLOCKS) == BLOCKS.levels
    assert sparkline([5.0, 5.0], BLOCKS) == "▄▄"
    assert sparkline([0, 7], ASCII) == "_#"
    history = History(RFC)
    moments = []
    for number, mark in enumerate((100, 5000, 9000, 13000)):
        frame = a_frame(some_stacks([mark]), boot_ns=number * 10**9)
        moments.append(history.add(frame))

    def trend(moment: Moment) -> str:
        lines = render(View(), history, moment, (80, 24), BLOCKS, STATUS)
        return next(line.plain for line in lines if line.plain.startswith("Trend"))

    assert trend(moments[0]) == "Trend     from the second frame on"
    assert trend(moments[2]) == "Trend     25.00%..75.00%, median 50.00% over 2s  █▅▁"
    assert trend(moments[3]) == "Trend     0.00%..75.00%, median 25.00% over 3s  █▆▃▁"


def test_a_series_is_headed_by_its_median_and_the_frame_comes_second() -> None:
    history = History(RFC)
    marks = (100, 5000, 9000, 13000)
    at = (0, 10, 20, 21)  # the second frame stands for ten of 21 seconds
    frames = [
        a_frame(some_stacks([mark]), boot_ns=seconds * 10**9)
        for mark, seconds in zip(marks, at, strict=True)
    ]
    moments = [history.add(frame) for frame in frames]

    def lines(moment: Moment, size: tuple[int, int] = (120, 24)) -> list[str]:
        status = replace(STATUS, of_series=True)
        return [line.plain for line in render(View(), history, moment, size, BLOCKS, status)]

    assert lines(moments[0])[1].startswith("Saving    75.00% (rfc-v1): 16 KiB would be 4")
    headline, instant = lines(moments[3])[1:3]
    median = "Saving    50.00% (rfc-v1), median of 4 frames over 21s: 0.00% to 75.00%"
    assert headline == f"{median}; 16 KiB would be 8"
    assert instant.startswith("Instant   0.00% (rfc-v1): 16 KiB would be 16")
    assert lines(moments[3], (80, 24))[1] == median
    assert lines(moments[3], (20, 1)) == ["50.00% median"]
    # gone back, the frames so far
    assert lines(moments[1])[1].startswith("Saving    50.00% (rfc-v1), median of 2 frames over 10s")
    for width, height in SIZES:
        for moment in moments:
            shown = lines(moment, (width, height))
            assert len(shown) <= height
            assert all(len(line) <= width for line in shown)


def test_bars() -> None:
    assert bar(0, 10, 20, BLOCKS) == ""
    assert bar(10, 10, 20, BLOCKS) == "█" * 20
    assert bar(1, 10**6, 20, BLOCKS) == "▏"
    assert bar(5, 10, 5, BLOCKS) == "██▌"
    assert bar(5, 10, 5, ASCII) == "##"
    assert bar(5, 10, 0, ASCII) == ""


TASK_LIVES = st.lists(
    st.tuples(
        st.integers(0, 4),  # born before this frame
        st.integers(1, 5),  # frames that see it
        st.lists(st.integers(0, 5000), min_size=5, max_size=5),  # how much deeper at each
    ),
    max_size=12,
)


def faults_of(moment: Moment) -> float | None:
    """A second, under rfc-v1."""
    told = rate(RFC, moment.interval, 4) if moment.interval else None
    return told.events if told else None


@given(TASK_LIVES)
def test_faults_a_second_agree_with_the_policys_rate(
    lives: list[tuple[int, int, list[int]]],
) -> None:
    """The sum over frames is what policy.rate() works out for the whole series."""
    frames = []
    for number in range(6):
        marks, tids = [], []
        exited: dict[tuple[int, int], int] = {}
        for tid, (born, seen, deeper) in enumerate(lives, 1):
            depths = [min(16000, 100 + depth) for depth in accumulate(deeper)]
            if born <= number < born + seen:
                marks.append(depths[min(4, number - born)])
                tids.append(tid)
            elif number >= born + seen:
                mark = -(-depths[min(4, seen - 1)] // 4096)
                exited[mark, 1] = exited.get((mark, 1), 0) + 1
        stacks = replace(some_stacks(marks), tids=tids)
        counted = lifecycle(exited=exited)
        frames.append(a_frame(stacks, boot_ns=(500 + number) * 2 * 10**9, lifecycle=counted))
    history = History(RFC)
    told = [faults_of(history.add(frame)) for frame in frames]
    assert told[0] is None
    whole = rate(RFC, collect(frames, []), 4)
    assert whole is not None
    assert sum(value or 0.0 for value in told) * 2 == pytest.approx(whole.events * 10)


def test_a_task_that_exits_between_both_counts_of_a_frame() -> None:
    """It is missing once, and is no fault when its exit is counted."""
    history = History(RFC)
    deep, shallow = some_stacks([100, 5000]), some_stacks([100])
    history.add(a_frame(deep, boot_ns=0, lifecycle=lifecycle()))
    history.add(a_frame(shallow, boot_ns=10**9, lifecycle=lifecycle()))
    counted = lifecycle(exited={(2, 1): 1})
    moment = history.add(a_frame(shallow, boot_ns=2 * 10**9, lifecycle=counted))
    assert faults_of(moment) == 0
    assert moment.interval is not None
    assert moment.interval.exited == 1


def test_frames_of_the_same_moment_have_no_rate() -> None:
    history = History(RFC)
    history.add(twenty())
    assert history.add(twenty()).interval is None


def typed(view: View, *pressed: str, tasks: int = 20) -> View:
    for key in pressed:
        view, _ = press(view, key, tasks)
    return view


def test_keys_change_the_view() -> None:
    assert [typed(View(), *"s" * n).sort for n in range(5)] == [*Sort, Sort.MARK]
    assert [typed(View(), *"c" * n).group for n in range(5)] == [*GROUPINGS, GROUPINGS[0]]
    assert typed(View(), "p").paused
    assert not typed(View(), "p", " ").paused
    assert typed(View(), "r").reverse
    assert typed(View(), "?").help
    assert not typed(View(), "?", "h").help
    assert typed(View(), "j", keys.DOWN, "k").scroll == 1
    assert typed(View(), "k", keys.PAGE_UP).scroll == 0
    assert typed(View(), keys.END).scroll == 19
    assert typed(View(), *[keys.PAGE_DOWN] * 9).scroll == 19
    assert typed(View(), keys.END, keys.HOME).scroll == 0
    assert typed(View(), "x", "é", keys.ENTER, keys.BACKSPACE) == View()
    assert press(View(), "q", 5)[1] is Action.QUIT
    assert press(View(), keys.RIGHT, 5)[1] is Action.FORWARD
    assert press(View(), keys.LEFT, 5)[1] is Action.BACK
    assert press(View(), keys.REDRAW, 5)[1] is Action.REDRAW


def test_typing_a_filter() -> None:
    view = typed(View(scroll=4), "/", *"qps?/")
    assert view.typing == "qps?/"
    assert not view.paused
    assert typed(view, keys.BACKSPACE).typing == "qps?"
    assert typed(view, keys.CLEAR).typing == ""
    assert typed(view, keys.UP).typing == "qps?/"
    confirmed = typed(view, keys.ENTER)
    assert (confirmed.filter_text, confirmed.typing, confirmed.scroll) == ("qps?/", None, 0)
    assert typed(confirmed, "/", "x", keys.ESCAPE).filter_text == "qps?/"
    assert typed(confirmed, keys.ESCAPE).filter_text == ""
    assert len(typed(View(), "/", *"x" * 500).typing or "") == 64


SEQUENCES: dict[bytes, list[str]] = {
    b"q": ["q"],
    b"\x1b[A\x1b[B\x1bOC\x1bOD": [keys.UP, keys.DOWN, keys.RIGHT, keys.LEFT],
    b"\x1b[1~\x1b[4~\x1b[5~\x1b[6~": [keys.HOME, keys.END, keys.PAGE_UP, keys.PAGE_DOWN],
    b"\x1b[H\x1bOF": [keys.HOME, keys.END],
    b"\r\n\x7f\x08\x15\x0c": [
        *(keys.ENTER, keys.ENTER, keys.BACKSPACE, keys.BACKSPACE, keys.CLEAR, keys.REDRAW)
    ],
    "/é日".encode(): ["/", "é", "日"],
    # F5, Delete, Shift-Up, mouse, focus, a report of the cursor, Alt-x: no keys of ours
    b"\x1b[15~\x1b[3~\x1b[1;2A\x1b[<0;1;1M\x1b[I\x1b[3;4R\x1bxq": ["q"],
    b"\x01\x02\x00\x1f": [],
    b"\x1b\x1b[Aq": [keys.ESCAPE, keys.UP, "q"],
}


@pytest.mark.parametrize("raw", SEQUENCES)
def test_keys_in_pieces_of_any_size(raw: bytes) -> None:
    assert KeyDecoder().feed(raw) == SEQUENCES[raw]
    for size in range(1, len(raw)):
        decoder = KeyDecoder()
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert [key for piece in pieces for key in decoder.feed(piece)] == SEQUENCES[raw]
        assert not decoder.is_open


def test_escape_alone() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.is_open
    assert decoder.flush() == [keys.ESCAPE]
    assert decoder.feed(b"\x1b[1;") == []
    assert decoder.flush() == []
    assert decoder.feed(b"A") == ["A"]


@given(st.binary(max_size=200))
def test_whatever_is_typed(raw: bytes) -> None:
    decoder = KeyDecoder()
    view = View()
    history, moment = known_moment("twenty")
    for key in [*decoder.feed(raw), *decoder.flush()]:
        assert key in keys.NAMED or (len(key) == 1 and key.isprintable())
        view, _ = press(view, key, 20)
    lines = render(view, history, moment, (60, 12), ASCII, STATUS)
    assert all(line.cell_len <= 60 and line.plain.isascii() for line in lines)


def test_encodings() -> None:
    def speaks(encoding: str | None = "utf-8", **environment: str) -> bool:
        return speaks_utf8(encoding, environment)

    assert speaks(LANG="en_US.UTF-8")
    assert speaks(LANG="C.UTF-8")
    assert speaks(LC_ALL="C.UTF-8", LANG="C")
    assert speaks(LC_CTYPE="de_DE.UTF-8", LANG="C")
    # Python sets LC_CTYPE itself where there is none, and writes UTF-8 under LC_ALL=C
    assert not speaks(LC_CTYPE="C.UTF-8", LANG="C")
    assert not speaks(LC_CTYPE="C.UTF-8")
    assert not speaks(LC_ALL="C", LANG="en_US.UTF-8")
    assert not speaks(LC_ALL="POSIX")
    assert not speaks("iso8859-1", LANG="en_US.ISO-8859-1")
    assert not speaks(None, LANG="C.UTF-8")


def series(count: int, stacks: int = 3) -> list[Frame]:
    return [a_frame(some_stacks([1000] * stacks), boot_ns=n * n * 10**9) for n in range(count)]


def test_replay() -> None:
    walk = Replay(iter(series(4)), History(RFC))
    numbers, waits = [], []
    while (moment := walk.forward()) is not None:
        numbers.append(moment.number)
        if not walk.at_end:
            waits.append(walk.seconds_to_next())
    assert numbers == [0, 1, 2, 3]
    assert waits == [1, 3, 5]  # its own pace
    back = [walk.back() for _ in range(5)]
    assert [moment.number if moment else None for moment in back] == [2, 1, 0, None, None]
    assert not walk.at_end
    again = walk.forward()
    assert again is not None
    assert again.number == 1


def test_replay_at_another_pace() -> None:
    walk = Replay(iter(series(3)), History(RFC), 0.25)
    walk.forward()
    assert walk.seconds_to_next() == 0.25


def test_replay_of_one_and_of_none() -> None:
    walk = Replay(iter(series(1)), History(RFC))
    assert walk.forward() is not None
    assert walk.at_end
    assert walk.forward() is None
    assert walk.back() is None
    assert Replay(iter([]), History(RFC)).forward() is None


def test_replay_keeps_no_more_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "KEPT_STACKS", 10)
    walk = Replay(iter(series(20)), History(RFC))
    numbers = []
    while (moment := walk.forward()) is not None:
        numbers.append(moment.number)
    assert numbers == list(range(20))
    back = []
    while (moment := walk.back()) is not None:
        back.append(moment.number)
    assert back == [18, 17]


def test_lines_are_text_of_rich() -> None:
    history, moment = moment_of(twenty())
    lines = render(View(), history, moment, (80, 24), BLOCKS, STATUS)
    assert all(isinstance(line, Text) for line in lines)


def test_the_headline_tells_the_net_cost_where_it_is_known() -> None:
    from tests.output.test_cost import frames

    history = History(BUILT_IN["rfc-v1"])
    first, second = (history.add(frame) for frame in frames())
    for width in (80, 120):
        lines = render(View(), history, second, (width, 24), ASCII, Status("x"))
        assert "; net CPU -0.00090%" in next(
            str(line) for line in lines if str(line).startswith("Saving")
        )
    lines = render(View(), history, first, (120, 24), ASCII, Status("x"))
    assert not any("net CPU" in str(line) for line in lines)
