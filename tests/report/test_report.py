# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of hosts made by hand: the same figures everywhere, and nothing that breaks out."""

from __future__ import annotations

import dataclasses
import functools
import html.parser
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dynstack_probe.analysis.comparison import compare
from dynstack_probe.analysis.evidence import evidence_of
from dynstack_probe.analysis.host_estimate import host_estimate
from dynstack_probe.analysis.timeline import rate
from dynstack_probe.capture import CaptureWriter, read_frames
from dynstack_probe.errors import ProbeError
from dynstack_probe.model.cost import PolicyCost, Range
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import KernelFacts
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import as_table
from dynstack_probe.output import policies as policies_report
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.report import as_html, as_text, figures, plots
from dynstack_probe.report.document import (
    BarPlot,
    Document,
    Facts,
    LinePlot,
    Paragraph,
    Part,
    Section,
    Table,
)
from dynstack_probe.report.from_frames import subject_of
from dynstack_probe.report.scales import number_axis, time_axis
from dynstack_probe.report.sections import document_of
from dynstack_probe.text import percent, printable
from tests import ROOT
from tests.conftest import why_no_bpf
from tests.factory import COSTS, a_frame, a_host, collect, some_stacks

POLICIES = list(BUILT_IN.values())
NOW = 1_700_000_000.0
Frames = list[Frame]

HOSTILE = (
    b"<script>bad()",
    b"</style><b>",
    b'" onload="bad()',
    b"\x1b[31m\n\tred",
    "Grüße \u202e".encode(),
    b"\xff\xfe\x80&amp;",
    b"&lt;\x01",
)
NAMES = (b"bash", b"kworker/0:1", b"swapper/1", *HOSTILE)
KINDS = (Kind.USER, Kind.KTHREAD, Kind.IDLE, *(Kind.USER for _ in HOSTILE))


def a_moment(number: int, stacks: int = 60) -> Frame:
    """Snapshot `number` of a series, five seconds apart; stacks deepen as time goes on."""
    marks = [8 + (at * 977 + number * 40) % 13000 for at in range(stacks)]
    some = some_stacks(
        marks,
        comms=[NAMES[at % len(NAMES)] for at in range(stacks)],
        kinds=[KINDS[at % len(KINDS)] for at in range(stacks)],
        depths=[0 if at % 9 == 0 else min(mark, 300 + 90 * at) for at, mark in enumerate(marks)],
    )
    some = dataclasses.replace(some, switches=[number * 3 + 1] * stacks)
    return a_frame(
        some,
        dataclasses.replace(a_host(), cpu_model="A <i>model</i> & more"),
        caveats=("Mind <b>this</b> \u202e.",),
        kernel=KernelFacts("secret=1", {"CONFIG_KASAN": "y"}, random_offset=True),
        taken_at=1_700_000_000.0 + 5 * number,
        boot_ns=(1000 + 5 * number) * 10**9,
        context_switches=1000 * number,
    )


def a_lifecycle(number: int) -> Lifecycle:
    return Lifecycle(
        created=40 * number,
        reused=0,
        exited={(1, 1): 30 * number, (2, 1): 10 * number},
        skipped=(0, 0, 0, 0),
        growth_by_age=(0,) * 6,
        lost={},
        runs=0,
        run_seconds=0.0,
    )


def a_series(length: int) -> Frames:
    return [
        dataclasses.replace(
            a_moment(number),
            lifecycle=a_lifecycle(number),
            headroom=Headroom((900 + 7 * number, 800), 0, 0, 0, 0),
            calibration=None if number else COSTS.calibration,
        )
        for number in range(length)
    ]


def a_capture(path: Path, frames: Frames) -> Path:
    with CaptureWriter(path) as writer:
        for frame in frames:
            writer.add(frame)
    return path


def report_of(*hosts: Frames) -> Document:
    subjects = [
        subject_of(frames, POLICIES, f"host <{at}>.dsp", f"host <{at}>.dsp")
        for at, frames in enumerate(hosts)
    ]
    return document_of(subjects, ["dynstack-probe report host.dsp"], NOW)


REPORTS = {
    "single": lambda: report_of([a_moment(0)]),
    "series": lambda: report_of(a_series(12)),
    "long series": lambda: report_of(a_series(700)),
    "uncounted series": lambda: report_of([a_moment(at) for at in range(3)]),
    "several": lambda: report_of(a_series(3), [a_moment(1, 9)], a_series(2)),
    "one stack": lambda: report_of([a_moment(0, 1)]),
    "no stacks": lambda: report_of([a_moment(0, 0)]),
    "large": lambda: report_of([of_64_kib()]),
}


@functools.cache
def the_report(name: str) -> Document:
    return REPORTS[name]()


def of_64_kib() -> Frame:
    """Large figures, and stacks of the largest size."""
    stacks = some_stacks([1 + at * 13 for at in range(5000)], comms=[b"\xe2\x80\xae" * 5] * 5000)
    host = dataclasses.replace(a_host(512, 65536), cpu_model="M" * 300, mem_total_kib=1 << 40)
    return a_frame(stacks, host)


def parts(sections: Sequence[Section]) -> Iterator[Part]:
    for section in sections:
        yield from section.parts
        yield from parts(section.sections)


def tables(document: Document) -> list[Table]:
    return [part for part in parts(document.sections) if isinstance(part, Table)]


def plots_of(document: Document) -> list[LinePlot | BarPlot]:
    return [part for part in parts(document.sections) if isinstance(part, LinePlot | BarPlot)]


def all_text(document: Document) -> str:
    """Facts and sentences."""
    words = [document.summary]
    for part in parts(document.sections):
        if isinstance(part, Paragraph):
            words.append(part.text)
        if isinstance(part, Facts):
            words += [f"{name}: {text}" for name, text in part.rows]
    return "\n".join(words)


class Page(html.parser.HTMLParser):
    """What stands in a page: its tags, with which attributes, and all text outside of tags."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.mark.parametrize("name", REPORTS)
def test_text_fits_a_mailing_list(name: str) -> None:
    text = as_text.render(the_report(name))
    for line in text.splitlines():
        assert len(line) <= 71, line
        assert line == line.rstrip()
    assert text.isascii()
    assert re.search(r"[^\x20-\x7e\n]", text) is None


@pytest.mark.parametrize("name", REPORTS)
def test_html_is_well_formed_and_needs_nothing(name: str) -> None:
    document = the_report(name)
    page = Page(as_html.render(document))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not names & {"i", "b"}  # those are in names
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), tag
        assert "src" not in attributes
        assert attributes.get("href", "#")[:1] == "#", attributes  # type: ignore[index]
        assert "style" not in attributes
    [policy] = [a["content"] for _, a in page.tags if "Content-Security-Policy" in a.values()]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    images = [tag for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(images) == len(plots_of(document))


FIGURE, TEXT, FACTS = Table("", ["a"], []), Paragraph(""), Facts([])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([FIGURE, FIGURE], "hh"),
        ([FIGURE], "w"),
        ([FIGURE, FIGURE, FIGURE], "hhw"),
        ([FACTS, FIGURE], "hh"),
        ([FACTS, FIGURE, FIGURE], "whh"),
        ([FIGURE, FACTS], "hh"),
        ([TEXT, FIGURE, TEXT], "www"),
        ([FIGURE, FACTS, FIGURE], "hhw"),
        ([FACTS, FIGURE, FACTS, FIGURE], "hhhh"),
        ([FIGURE, FIGURE, FACTS, FIGURE], "hhhh"),
        ([FACTS, FIGURE, FIGURE, FIGURE, TEXT, FACTS], "hhhhww"),
        ([TEXT, FACTS], "ww"),
        ([], ""),
    ],
)
def test_no_half_row_stays_empty(given: Sequence[Part], expected: str) -> None:
    assert "".join(share[0] for share in as_html.shares(given)) == expected


@pytest.mark.parametrize("name", REPORTS)
def test_no_section_only_says_what_it_lacks(name: str) -> None:
    document = the_report(name)
    titles = {section.title for section in document.sections}
    watched = name not in ("single", "one stack", "no stacks", "large")
    if len(document.sections) > 8 and name != "several":
        assert ("Faults over time" in titles) == ("What it would cost" in titles) == watched
    words = all_text(document)
    assert ("A single frame has no rates" in words) == (not watched or name == "several")


@pytest.mark.parametrize("ratio", [-0.0001, -0.0103, -0.3, -1.0, -5.0, 0.0001])
def test_whatever_is_not_zero_has_a_bar(ratio: float) -> None:
    plot = figures.savings_plot("t", [("a", 0.5), ("b", ratio), ("c", 0.0)])
    svg = plots.svg(plot)
    c, b, a = svg.findall(".//g[@class='bars']/g/rect")
    assert "width" not in c.attrib
    left, width = float(b.get("x", "")), float(b.get("width", ""))
    zero = float(a.get("x", ""))
    assert width >= plots.SHORTEST_BAR
    assert (left + width if ratio < 0 else left) == pytest.approx(zero, abs=0.001)
    guides = svg.findall(".//g[@class='axis x always_show']/g/path")
    assert left >= float(guides[0].get("d", "")[1:].split()[0]) - 0.001


@pytest.mark.parametrize("kib", [16, 32, 64])
def test_the_first_page_is_marked_where_depths_are_drawn(kib: int) -> None:
    plot = figures.depths_ever_and_now(some_stacks([5000, 9000]), kib * 1024)
    assert plot.x.marked == 4096
    assert (4096.0, "4") in plot.x.ticks
    (marked,) = plots.svg(plot).findall(".//path[@class='marked line']")
    assert marked is not None
    assert plot.text_rows is not None
    assert [name for name, _ in plot.text_rows if "page" in name] == ["4 KiB, 1 page"]


def costs(*nets: float) -> list[PolicyCost]:
    """Policies p0, p1, ... whose net shares of CPU time these are; each saves 100 KiB more."""
    return [
        PolicyCost(
            policy=f"p{at}",
            savings=Savings(stacks=9, base_kib=400, dynamic_kib=300 - 100 * at),
            what=None,
            events_per_second=0.0,
            pages_per_second=0.0,
            avoided_pages_per_second=0.0,
            lower_bound=False,
            work_ratio=Range(net, net, net),
            fork_saving_ratio=Range(0.0, 0.0, 0.0),
            feasible=True,
        )
        for at, net in enumerate(nets)
    ]


def test_numbers_on_axes_have_no_exponent() -> None:
    rows = costs(-3e-6, 2e-7, 5e-7)
    for plot in (figures.cost_plot(rows, {"p2"}), figures.saving_against_cost(rows, {"p2"})):
        assert plot is not None
        axis = plot.axis if isinstance(plot, BarPlot) else plot.x
        assert all("e" not in label for _, label in axis.ticks)


@pytest.mark.parametrize("nets", [(-3e-6, -1e-6, -2e-6), (-3e-6, 1e-6, 2e-6), (3e-3, 1e-3, 2e-3)])
def test_bars_are_as_long_as_their_cost(nets: Sequence[float]) -> None:
    """Also where all policies save CPU time, so that the axis ends at 0."""
    plot = figures.cost_plot(costs(*nets), set())
    assert plot is not None
    bars = plots.svg(plot).findall(".//g[@class='bars']/g/rect")
    widths = [float(bar.get("width", "")) for bar in reversed(bars)]
    assert max(widths) > 30
    scale = widths[0] / abs(nets[0])
    assert widths == pytest.approx([scale * abs(net) for net in nets])


def test_each_policy_is_a_dot_and_the_best_are_marked() -> None:
    """Steps only through the best; without others there is no legend of them."""
    rows = costs(-3e-6, 8e-6, 5e-6, 9e-6)
    plot = figures.saving_against_cost(rows, {"p0", "p2"})
    assert plot is not None
    line, best, others = plot.curves
    assert [(round(x, 9), y) for x, y in best.points] == [(-0.0003, 100), (0.0005, 300)]
    assert [(round(x, 9), y) for x, y in others.points] == [(0.0008, 200), (0.0009, 400)]
    assert set(best.points) < set(line.points)
    assert not set(others.points) & set(line.points)
    circles = {
        at: plots.svg(plot).findall(f".//g[@class='series serie-{at} color-{at}']//circle")
        for at in range(3)
    }
    assert [len(found) for found in circles.values()] == [0, 2, 2]
    assert {circle.get("r") for circle in circles[1]} == {f"{best.dots}"}
    plot = figures.saving_against_cost(costs(-3e-6), {"p0"})
    assert plot is not None
    assert [curve.name for curve in plot.curves] == ["most that any policy saves", "best policies"]


def test_style_refers_to_nothing_outside() -> None:
    style = as_html.STYLE.read_text()
    assert not re.search(r"url\(|@import|</", style)


def test_both_forms_hold_every_figure() -> None:
    """All cells of all tables, all sentences and facts."""
    document = the_report("series")
    page = Page(as_html.render(document)).text
    text = " ".join(as_text.render(document).split())
    for table in tables(document):
        for row in (table.columns, *table.rows):
            for cell in row[1:]:
                assert printable(cell) in page
                assert as_text.ascii_only(cell) in text
    for sentence in all_text(document).splitlines():
        words = sentence.partition(": ")[2] or sentence
        assert printable(words) in page
        assert as_text.ascii_only(" ".join(words.split())) in text


def test_hostile_names_are_shown_escaped() -> None:
    document = the_report("series")
    page = Page(as_html.render(document)).text
    for shown in ("<script>bad()", "</style><b>", '" onload="bad()', "\\x1b[31m", "\\u202e"):
        assert shown in page
    assert "\x1b" not in page
    assert "secret=1" not in page  # the kernel's command line may be nobody's business


def test_the_figures_are_those_of_estimate() -> None:
    frame = a_moment(0)
    document = the_report("single")
    expected = host_estimate(frame, [BUILT_IN["rfc-v1"]], "comm", with_depths=True)
    headline, details = expected.estimates[0], expected.details
    assert details is not None
    rfc = tables(document)[0]
    assert rfc.rows[0][1:] == (
        *("2", str(headline.stacks), str(headline.base_kib), str(headline.dynamic_kib)),
        percent(headline.saving_ratio),
    )
    words = all_text(document)
    price = details.offset_price
    assert f"{price.low_pages:.0f} to {price.high_pages} are used only because of it" in words
    low, best, high = headline.faults
    assert f"Faults so far: {low} to {high}, most likely {best}," in words
    assert percent(headline.saving_with_reserve_ratio) in document.summary
    # the depth table is that of `estimate --depths`, cell by cell
    printed = as_table.render(expected)
    depths = next(table for table in tables(document) if table.title == "Depth by role")
    for row in depths.rows:
        assert re.search(r" +".join(map(re.escape, map(printable, row))), printed), row
    [by_pages] = [plot for plot in plots_of(document) if "by pages" in plot.title]
    assert isinstance(by_pages, BarPlot)
    assert [bar.value for bar in by_pages.bars] == list(expected.pages.values())
    who = next(table for table in tables(document) if table.title == "Deepest tasks")
    assert [int(row[1]) for row in who.rows] == [tid for _, tid, _, _ in expected.deepest(10)]
    names = next(table for table in tables(document) if table.title.startswith("Names with most"))
    beyond = sum(int(row[3]) for row in names.rows)
    assert beyond == headline.dynamic_kib // 4 - headline.stacks


def test_the_figures_are_those_of_policies() -> None:
    frames = a_series(12)
    found = evidence_of(frames, POLICIES, "x")
    comparison = compare(found.frame, POLICIES, found.whole, "x", found.series)
    printed = policies_report.as_table(comparison)
    table = next(one for one in tables(the_report("series")) if one.columns[0] == "Policy")
    best = {row.policy.name for row in comparison.rows if row.pareto_best}
    assert len(best) > 1
    assert [row[0] for row in table.rows] == [
        f"{name} *" if name in best else name for name in BUILT_IN
    ]
    for row in table.rows:
        assert re.search(r" +".join(map(re.escape, map(printable, row))), printed), row


def test_faults_over_time() -> None:
    frames = a_series(12)
    activity = collect(frames, [0, 60])
    whole = rate(BUILT_IN["rfc-v1"], activity, 4)
    assert whole is not None
    [plot] = [one for one in plots_of(the_report("series")) if "faults" in one.title]
    assert isinstance(plot, LinePlot)
    steps = plot.curves[0].points
    assert [x for x, _ in steps[::2]] == [5.0 * at for at in range(11)]
    assert sum(5 * y for _, y in steps[::2]) / 55 == pytest.approx(whole.events)
    assert f"{whole.events:.2f} faults a second over 55 s" in all_text(the_report("series"))
    assert "8.0 tasks were created and 8.0 exited a second" in all_text(the_report("series"))


def test_a_single_snapshot_says_what_a_series_needs() -> None:
    document = the_report("single")
    assert "dynstack-probe record FILE --duration 10m" in all_text(document)
    assert not [plot for plot in plots_of(document) if "over time" in plot.title]


def test_a_long_series_is_thinned() -> None:
    for plot in plots_of(the_report("long series")):
        if isinstance(plot, LinePlot):
            assert all(len(curve.points) <= 500 for curve in plot.curves)
            assert len(plot.text_rows or ()) <= 18


def test_several_hosts_are_summed_up() -> None:
    document = the_report("several")
    fleet = tables(document)[0]
    *hosts, total = fleet.rows
    assert len(hosts) == 3
    for column in (1, 2, 3, 4):
        assert int(total[column]) == sum(int(row[column]) for row in hosts)
    titles = [section.title for section in document.sections]
    assert titles[2:5] == ["host <0>.dsp", "host <1>.dsp", "host <2>.dsp"]


def test_the_sections_stand_in_order() -> None:
    assert [section.title for section in the_report("series").sections] == [
        "Host",
        "Method and its error",
        "Headline",
        "Depth, ever and now",
        "Policies compared",
        "What it would cost",
        "Is it safe",
        "If every stack were a little deeper",
        "Faults over time",
        "Who goes deep",
        "Price of the random stack offset",
        "How to repeat it",
    ]


def test_depths_deeper_than_a_page() -> None:
    """At a page's end the curve holds exactly the share of stacks that need another."""
    [plot] = [one for one in plots_of(the_report("single")) if one.title.endswith("ever and now")]
    assert isinstance(plot, LinePlot)
    marks = a_moment(0).stacks.mark_bytes
    for pages in (1, 2, 3):
        deeper = sum(mark > pages * 4096 for mark in marks) / len(marks)
        before = [y for x, y in plot.curves[0].points if x <= pages * 4096]
        assert 10 ** before[-1] == pytest.approx(deeper)
        assert plot.text_rows is not None
        assert plot.text_rows[4 * pages][1][0].label == percent(deeper)


def test_axes_have_round_ticks() -> None:
    assert [value for value, _ in number_axis("", 0, 103).ticks] == [0, 50, 100, 150]
    assert [value for value, _ in number_axis("", 58.6, 75).ticks] == [55, 60, 65, 70, 75]
    assert [value for value, _ in number_axis("", -1.0, 0.3).ticks] == [-1, -0.5, 0, 0.5]
    assert len(number_axis("", 0, 0).ticks) == 2
    assert [label for _, label in time_axis(60.2).ticks] == ["0", "15", "30", "45", "60"]
    assert time_axis(3600).label.endswith("min")
    assert [label for _, label in time_axis(30 * 86400).ticks][:2] == ["0", "5"]


def test_without_pygal_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(ProbeError) as caught:
        plots.load_pygal()
    assert "apt install python3-pygal" in str(caught.value)
    assert "--format text" in str(caught.value)
    as_text.render(the_report("single"))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dynstack_probe", "report", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    a_capture(tmp_path / "a.dsp", a_series(3))
    a_capture(tmp_path / "b.dsp", [a_moment(0)])
    first = run(tmp_path, "a.dsp")
    assert (first.returncode, first.stdout) == (0, "")
    page = (tmp_path / "dynstack-report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    again = run(tmp_path, "a.dsp")
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert run(tmp_path, "a.dsp", "--force").returncode == 0
    text = run(tmp_path, "a.dsp", "b.dsp", "--format", "text")
    assert text.returncode == 0, text.stderr
    assert "Total of 2" in text.stdout
    assert run(tmp_path, "a.dsp", "--output", "-").stdout.startswith("<!DOCTYPE html>")
    assert "static-8k" not in run(tmp_path, "b.dsp", "--format=text", "--policy=rfc-v1").stdout


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    a_capture(tmp_path / "a.dsp", [a_moment(0)])
    (tmp_path / "no.dsp").write_bytes(b"nonsense")
    for arguments in (
        ("no.dsp",),
        ("missing.dsp",),
        ("a.dsp", "--duration", "1m"),
        ("a.dsp", "--prometheus", "http://127.0.0.1:1"),
        ("--instance", "x"),
        ("--prometheus", "http://127.0.0.1:1", "--from", "noon"),
        ("--prometheus", "127.0.0.1"),
        ("--duration", "forever"),
        ("--duration", "5s", "--interval", "0.01s"),
        ("a.dsp", "--policy", "nope"),
    ):
        result = run(tmp_path, *arguments)
        assert result.returncode == 2, (arguments, result.stderr)
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert not (tmp_path / "dynstack-report.html").exists()


def test_a_capture_gives_what_its_snapshots_gave(tmp_path: Path) -> None:
    path = a_capture(tmp_path / "host <0>.dsp", a_series(4))
    frames = list(read_frames(path))
    assert report_of(frames) == report_of(a_series(4))


@pytest.mark.parametrize("release", ["6.1", "6.12", "6.18"])
def test_reports_of_real_kernels(release: str) -> None:
    path = ROOT / f"tests/data/linux-{release}.dsp"
    frames = list(read_frames(path))
    document = report_of(frames)
    assert f"Linux {release}" in all_text(document)
    assert all(len(line) <= 71 for line in as_text.render(document).splitlines())
    assert Page(as_html.render(document)).open == []


@pytest.mark.live
@pytest.mark.skipif(bool(why_no_bpf()), reason=f"needs BPF: {why_no_bpf()}")
def test_a_report_of_this_host(tmp_path: Path) -> None:
    series = run(tmp_path, "--format", "text", "--duration", "2s", "--interval", "1s")
    assert series.returncode == 0, series.stderr
    assert re.search(r"\b\d frames over \d+ s", " ".join(series.stdout.split()))
    assert "faults a second" in series.stdout
    once = run(tmp_path)
    assert once.returncode == 0, once.stderr
    page = Page((tmp_path / "dynstack-report.html").read_text())
    assert "one frame of" in page.text
    assert "sudo dynstack-probe record host.dsp" in page.text
