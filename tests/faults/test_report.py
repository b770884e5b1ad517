# SPDX-License-Identifier: GPL-2.0-or-later
"""What `faults` shows, from crossings and samples made by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from dynstack_probe.faults import flamegraph, folded
from dynstack_probe.faults import report as faults
from dynstack_probe.faults.report import FaultReport
from dynstack_probe.measure.call_paths import CallPaths, Frame, Sample, SampleCounters
from dynstack_probe.measure.faults import (
    CallTally,
    Context,
    Counters,
    Ranking,
    StackFault,
    WatchCost,
)
from tests.hostile import MARKUP


def a_fault(comm: bytes = b"bash", call: str = "mmap", **values: int) -> StackFault:
    numbers = {"mark_bytes": 5000, "pages": 1, "faults": 1, **values}
    return StackFault(
        tid=10,
        tgid=10,
        comm=comm,
        cgroup_id=5,
        context=Context.SYSCALL,
        call=call,
        late=bool(values.get("late")),
        mark_bytes=numbers["mark_bytes"],
        pages_before=1,
        pages=numbers["pages"],
        faults=numbers["faults"],
        age_seconds=0.5,
        start_boot_ns=0,
    )


def rank(faults: list[StackFault]) -> list[CallTally]:
    ranking = Ranking()
    for fault in faults:
        ranking.add(fault)
    return ranking.ranked()


def some_paths() -> CallPaths:
    paths = CallPaths()
    frames = (Frame("entry", 168), Frame("do_<it>", 1200), Frame("deepest", 5000))
    for comm, call in ((b"bash", "mmap"), (MARKUP, "read"), (b"bash", "mmap")):
        paths.add(Sample(1, comm, call, 5000, frames))
    paths.add(Sample(1, b"bash", "mmap", 6000, (*frames[:2], Frame("other", None))))
    return paths


def a_report(events: list[StackFault], *, with_paths: bool = True) -> FaultReport:
    return FaultReport(
        cpu_model="A CPU",
        cpus=2,
        kernel_release="6.18",
        seconds=10.0,
        calls=rank(events),
        events=events,
        events_left_out=0,
        counters=Counters(1000, 3, 0, 0),
        cost=WatchCost(50.0, 10, 0.004),
        cgroup_paths={5: "/a.slice"},
        paths=some_paths() if with_paths else CallPaths(),
        samples=SampleCounters(100, 50, 4, 0) if with_paths else None,
    )


EVENTS = [
    a_fault(),
    a_fault(MARKUP, "read", mark_bytes=9000, pages=2, faults=2),
    a_fault(late=1),
]


def test_the_table_is_plain_and_fits() -> None:
    text = faults.as_table(a_report(EVENTS))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\\x1b[31m" in text
    assert "2 of 3 crossings" in " ".join(text.split())
    assert "3 did not fit into the ring buffer" in text
    assert "0.02% of all CPU time" in " ".join(text.split())
    assert "/a.slice" in text
    assert "entry" in text


def test_the_table_with_many_long_names() -> None:
    events = [
        a_fault(b"x" * 15, f"a_system_call_with_a_long_name_{n}", mark_bytes=16000)
        for n in range(40)
    ]
    text = faults.as_table(a_report(events))
    assert max(map(len, text.splitlines())) <= 80
    assert "... 25 more" in text
    assert " 16000 " in text


def test_nothing_found() -> None:
    text = faults.as_table(a_report([], with_paths=False))
    assert "No stack used a page" in text


def test_json_adds_up() -> None:
    document = json.loads(faults.as_json(a_report(EVENTS)))
    assert document["schema_version"] == 1
    assert document["found"]["faults"] == 4
    assert document["found"]["pages"] == sum(c["pages"] for c in document["crossings"]) == 4
    assert [call["name"] for call in document["calls"]] == ["read", "mmap"]
    assert document["cost"]["cpu_seconds"] == 1000 * 50e-9 + 0.004
    assert document["paths"][0]["deepest_bytes"] == 6000
    assert document["paths"][0]["frames"][-1] == {"function": "other", "depth_bytes": None}
    assert "\x1b" not in json.dumps(document, ensure_ascii=False)


def test_csv_has_a_row_a_crossing() -> None:
    rows = list(csv.DictReader(io.StringIO(faults.as_csv(a_report(EVENTS)))))
    assert [row["faults"] for row in rows] == ["1", "2", "1"]
    assert rows[1]["comm"].startswith("\\x1b")
    assert rows[2]["found"] == "by scan"
    assert rows[0]["cgroup"] == "/a.slice"


def test_the_live_picture() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(faults.live(rank(EVENTS), EVENTS, {}, "3 of 10 s"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "3 of 10 s" in text
    assert "id:5" in text
    assert "\x1b[31m" not in text


def test_folded() -> None:
    lines = folded.render(some_paths()).splitlines()
    assert "bash;mmap;entry;do_<it>;deepest 2" in lines
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(r"[^;]+(;[^;]+)+ \d+", line)
        assert line.count(";") == 4
    assert folded.render(CallPaths()) == ""


SVG = "{http://www.w3.org/2000/svg}"


def test_the_flame_graph_is_valid_and_its_widths_add_up() -> None:
    root = ElementTree.fromstring(flamegraph.render_svg(some_paths(), "A <title>"))
    frames = [one for one in root.iter(f"{SVG}svg") if one.get("class") == "f"]
    by_level: dict[str, float] = {}
    for frame in frames:
        level = str(frame.get("y"))
        by_level[level] = by_level.get(level, 0) + float(str(frame.get("width")).rstrip("%"))
        assert float(str(frame.get("x")).rstrip("%")) < 100
    assert {round(width, 3) for width in by_level.values()} == {100}
    assert len(by_level) == 6
    titles = [str(t.text) for t in root.iter(f"{SVG}title")]
    assert "deepest: 2 samples (50.0%), down to 5000 bytes" in titles
    assert "<title>A &lt;title&gt;</title>" in flamegraph.render_html(some_paths(), "A <title>")


@pytest.mark.parametrize(("deep", "lost"), [(4, ""), (7, "; 3 more as deep are not drawn")])
def test_the_title_has_the_roots_figure(deep: int, lost: str) -> None:
    paths = some_paths()
    root = flamegraph.tree(paths)
    title = flamegraph.title_of(
        paths, SampleCounters(100, 50, deep, 0), deeper_than=4096, rate_hz=99, host="here"
    )
    assert root.samples == 4
    assert title == (
        "Kernel stacks deeper than 4096 bytes on here: 4 of 50 samples in the kernel at 99 Hz"
        + lost
    )


def test_what_is_too_narrow_is_told() -> None:
    paths = some_paths()
    assert "not drawn" not in flamegraph.render_svg(paths, "")
    paths.paths[b"bash", "mmap", ("entry", "do_<it>", "deepest")].samples = 20_000
    picture = flamegraph.render_svg(paths, "")
    drawn = [g for g in ElementTree.fromstring(picture).iter(f"{SVG}svg") if g.get("class") == "f"]
    # all, bash, mmap, entry, do_<it>, deepest
    assert len(drawn) == 6
    assert "2 frames of less than" in picture  # the other task, and the other function


def test_each_colour_stands_for_depths_up_to_its_bound() -> None:
    paths = CallPaths()
    depths = [1024, 1025, 2048, 3072, 4096, 4097, 8192, 8193]
    paths.add(Sample(1, b"sh", "read", 8193, tuple(Frame(f"f{d}", d) for d in depths)))
    root = ElementTree.fromstring(flamegraph.render_svg(paths, ""))
    colours = {
        str(one.get("data-n")): one.findall(f"{SVG}rect")[0].get("fill")
        for one in root.iter(f"{SVG}svg")
        if one.get("class") == "f"
    }
    first, second, third, page, two_pages, deeper = flamegraph.COLOURS
    assert [colours[f"f{depth}"] for depth in depths] == [
        first, second, second, third, page, two_pages, two_pages, deeper,
    ]  # fmt: skip
    assert colours["sh"] == flamegraph.PLAIN_COLOUR


def test_a_flame_graph_of_nothing() -> None:
    ElementTree.fromstring(flamegraph.render_svg(CallPaths(), "nothing"))
