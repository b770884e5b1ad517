# SPDX-License-Identifier: GPL-2.0-or-later
"""A host's past from a real Prometheus that was filled with a day that we know."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet.access import parse_access
from dynstack_probe.fleet.client import Server
from dynstack_probe.fleet.costs import over_range
from dynstack_probe.fleet.history import history_of
from dynstack_probe.model.cost import Range as Bounds
from dynstack_probe.model.history import History, Range
from dynstack_probe.policy import HEADLINE
from dynstack_probe.report import as_html, as_text
from dynstack_probe.report.document import BarPlot, Document, Facts, LinePlot, Paragraph
from dynstack_probe.report.from_prometheus import subject_of
from dynstack_probe.report.sections import document_of
from dynstack_probe.text import percent
from tests.chromium import needs_chromium
from tests.fleet.stub import JSON, Reply, Request, answering
from tests.prometheus_server import prometheus
from tests.report.test_report import Page, all_text, plots_of, run, tables
from tests.report.test_report_in_chromium import LOOKS, check_plot, visit

END = 1_700_000_000 // 60 * 60
MINUTES = 120
HOUR = Range(END, 3600)
HOSTILE = '<b>"x\\y'
# In the range, at a moment that a step of two minutes passes over.
DIP = 78

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed",
)


def labelled(name: str, **labels: str) -> str:
    pairs = []
    for key, value in labels.items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        pairs.append(f'{key}="{escaped}"')
    return f"{name}{{{','.join(pairs)}}}"


def samples() -> Iterator[tuple[str, str, list[float]]]:
    """Name and type of a family, and of each series its labels and a value a minute.

    Stacks rise by one a minute from 100, and a tenth of them has two pages.
    """
    minutes = range(MINUTES + 1)
    stacks = [100.0 + minute for minute in minutes]
    host = {"instance": HOSTILE, "job": "stacks"}
    for name, factor, labels in (
        ("dynstack_stack_bytes", 16384.0, {}),
        ("dynstack_stacks_read", 1.0, {}),
        ("dynstack_policy_stack_bytes", 4096 * 1.1, {"policy": "rfc-v1"}),
        ("dynstack_policy_stack_bytes", 8192.0, {"policy": "static-8k"}),
        ("dynstack_tasks", 0.9, {"kind": "user", "pages": "1"}),
        ("dynstack_tasks", 0.1, {"kind": "user", "pages": "2"}),
        ("dynstack_cgroup_stack_bytes", 16384.0, {"cgroup": "/<i>evil"}),
        ("dynstack_cgroup_policy_stack_bytes", 8192.0, {"cgroup": "/<i>evil", "policy": "rfc-v1"}),
    ):
        yield name, labelled(name, **host, **labels), [factor * count for count in stacks]
    for name, value, labels in (
        ("dynstack_policy_reserve_bytes", 2 * 12288.0, {"policy": "rfc-v1"}),
        ("dynstack_policy_over_limit_tasks", 7.0, {"policy": "static-8k"}),
        ("dynstack_policy_over_limit_tasks", 0.0, {"policy": "rfc-v1"}),
        ("dynstack_calibrated_fault_seconds", 2e-6, {}),
        ("dynstack_calibrated_clear_page_seconds", 1e-7, {}),
        ("dynstack_host_cpus", 2.0, {}),
        ("dynstack_host_memory_bytes", float(8 << 30), {}),
        ("dynstack_kernel_stacks", 230.0, {}),
        ("dynstack_host_info", 1.0, {"cpu_model": "A model", "kernel_release": "6.18.0"}),
    ):
        yield name, labelled(name, **host, **labels), [value] * len(minutes)
    for name, value, then in (
        ("dynstack_memory_headroom_bytes", 4096 * 10_000.0, 4096 * 300.0),
        ("dynstack_deepest_stack_bytes", 5000.0, 9216.0),
    ):
        yield name, labelled(name, **host), [then if at == DIP else value for at in minutes]
    for name, slope, labels in (
        ("dynstack_policy_faults_total", 30.0, {"policy": "rfc-v1"}),
        ("dynstack_policy_fault_pages_total", 36.0, {"policy": "rfc-v1"}),
        ("dynstack_policy_avoided_fault_pages_total", 42.0, {"policy": "rfc-v1"}),
        ("dynstack_policy_fault_cpu_seconds_total", 0.06, {"policy": "rfc-v1"}),
        ("dynstack_policy_fault_cpu_seconds_total", 0.0, {"policy": "static-8k"}),
        ("dynstack_policy_fork_saved_cpu_seconds_total", 0.24, {"policy": "rfc-v1"}),
        ("dynstack_policy_fork_saved_cpu_seconds_total", 0.12, {"policy": "static-8k"}),
        ("dynstack_page_faults_total", 6000.0, {"mode": "user"}),
        ("dynstack_page_faults_total", 600.0, {"mode": "kernel"}),
        ("dynstack_reused_stacks_total", 30.0, {}),
        ("dynstack_created_tasks_total", 120.0, {}),
        ("dynstack_exited_tasks_total", 60.0, {"pages": "1"}),
    ):
        yield name, labelled(name, **host, **labels), [slope * minute for minute in minutes]


def open_metrics() -> str:
    lines = []
    for name, series, values in sorted(samples()):
        kind = f"# TYPE {name.removesuffix('_total')} {'counter' if '_total' in name else 'gauge'}"
        if kind not in lines:
            lines.append(kind)
        for minute, value in enumerate(values):
            lines.append(f"{series} {value} {END - 60 * (MINUTES - minute)}")
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus that has these samples."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples").write_text(open_metrics())
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples", "data"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with prometheus(folder, {}, "--storage.tsdb.retention.time=100y") as server:
        yield server.url


def server_at(url: str) -> Server:
    return Server(parse_access(url), 10.0)


def report(history: History) -> Document:
    return document_of([subject_of(history)], ["dynstack-probe report --prometheus"], float(END))


def bounds(figure: Bounds | None) -> list[float]:
    assert figure is not None
    return [figure.low, figure.best, figure.high]


def facts_of(document: Document, title: str) -> dict[str, str]:
    """What a section says, by name."""
    [section] = [one for one in document.sections if one.title == title]
    [facts] = [part for part in section.parts if isinstance(part, Facts)]
    return dict(facts.rows)


@needs_prometheus
def test_the_figures_are_those_of_the_metrics(recorded: str) -> None:
    document = report(history_of(server_at(recorded), HOUR, HEADLINE))
    rfc = tables(document)[0].rows[0]
    # a minute each: 160 to 220 stacks, of which a tenth has two pages
    savings = {n: 1 - int(4.4 * n) / (16 * n) for n in range(160, 221)}
    middle = sorted(savings, key=lambda n: (savings[n], n))[30]
    held = int(4.4 * middle)
    saving = percent(savings[middle])
    assert rfc[1:] == ("2", str(middle), str(16 * middle), str(held), saving)
    net = percent(1 - (held + 24) / (16 * middle))
    assert f"with its per-CPU reserve of 24 KiB, {net} less" in document.summary
    words = all_text(document)
    missed = 230 - middle
    assert f"dozens); {middle} were read, {missed} missed" in words
    assert f"from {percent(min(savings.values()))} to {percent(max(savings.values()))}" in words
    assert "160 to 220 stacks, median 190" in words
    assert "Newest: 220 stacks of 3520 KiB would hold 968 KiB, 72.50% less" in words
    assert "would have taken 0.50 faults a second over 3600 s, 0.50 in the busiest" in words
    policies = next(table for table in tables(document) if table.columns[0] == "Policy")
    rows = {row[0]: row[1:] for row in policies.rows}
    assert rows["rfc-v1 *"][:4] == [str(held), "24", saving, net]
    assert rows["rfc-v1 *"][-1] == "0.5f"
    assert rows["static-8k"][:2] == [str(8 * middle), "0"]
    assert "static-8k: 7" in words
    cgroups = next(table for table in tables(document) if table.columns[0] == "Cgroup")
    assert list(cgroups.rows) == [("/<i>evil", str(middle), str(middle))]


@needs_prometheus
def test_plots_over_time(recorded: str) -> None:
    plots = {
        plot.title: plot
        for plot in plots_of(report(history_of(server_at(recorded), HOUR, HEADLINE)))
    }
    over_time = plots["Kernel stacks over time"]
    assert isinstance(over_time, LinePlot)
    base, held = (curve.points for curve in over_time.curves)
    assert base[0] == (0.0, 160 * 16)
    assert base[-1] == (3600.0, 220 * 16)
    assert held[-1][1] == pytest.approx(220 * 4.4)
    by_pages = plots["Stacks by pages, over time"]
    assert isinstance(by_pages, LinePlot)
    assert [curve.points[-1][1] for curve in by_pages.curves] == pytest.approx([198, 22])
    rates = plots["Tasks created and exited a second"]
    assert isinstance(rates, LinePlot)
    assert [curve.points[9][1] for curve in rates.curves] == pytest.approx([2.0, 1.0])
    now = plots["Stacks by pages down to the high-water mark"]
    assert isinstance(now, BarPlot)
    # of the moment with the median saving
    document = report(history_of(server_at(recorded), HOUR, HEADLINE))
    stacks = int(tables(document)[0].rows[0][2])
    assert [bar.value for bar in now.bars] == [int(0.9 * stacks), int(0.1 * stacks)]


@needs_prometheus
def test_what_it_would_cost(recorded: str) -> None:
    """All of it by hand; and as the owner of these sums, which `fleet` asks too, has it."""
    history = history_of(server_at(recorded), HOUR, HEADLINE)
    subject = subject_of(history)
    cost = subject.cost
    assert cost is not None
    assert (cost.cpus, cost.whole.seconds) == (2, 3600)
    rfc, static = cost.rows
    assert bounds(rfc.work_ratio) == pytest.approx([0.06 / 60 / 2] * 3)
    assert bounds(rfc.fork_saving_ratio) == pytest.approx([0.24 / 60 / 2] * 3)
    assert bounds(static.net_ratio) == pytest.approx([-0.12 / 60 / 2] * 3)
    assert (rfc.feasible, static.feasible) == (True, False)
    assert [row.pareto_best for row in subject.rows] == [True, False]
    found = over_range(history, HEADLINE, cost.cpus)
    assert rfc.net_ratio is not None
    assert rfc.net_ratio.best == pytest.approx(found.net_ratio)
    assert cost.stack_fault.tenth_percent == pytest.approx(found.stack_fault_ns)
    assert cost.kernel_page_fault.tenth_percent == pytest.approx(found.kernel_page_fault_ns)

    rows = facts_of(report(history), "What it would cost")
    saved = subject.headline.saved_kib - 24
    assert rows["Net"] == (
        f"modelled: -0.15% of all CPU time, {saved} KiB saved with the reserve paid. Negative: at"
        " best guess it saves time too"
    )
    assert rows["Measured"].startswith(
        "2.0 tasks created a second, 25.00% on a cached stack; page faults a second: 100.0 in user"
        " mode"
    )
    assert "10.0 in kernel mode" in rows["Measured"]
    assert rows["Calibrated"].startswith("a minor page fault 2000 ns, clearing a page 100 ns, as")
    assert rows["Stack faults"] == (
        "modelled: 0.5 faults of 0.6 pages a second (0.7 more pages a second came with a cached"
        " stack) (errs high): 0.050% of all CPU time"
    )
    assert rows["Cheaper forks"].startswith("modelled: 0.20% of all CPU time for pages that a new")
    assert "may cost 200 us more before all take 0.1% of CPU time, over 1 ms" in rows["#PF path"]
    assert "300 us before that eats what is saved" in rows["#PF path"]
    assert "each stack fault may cost over 1 ms, before all take 0.1%" in rows["Break-even"]
    assert rows["Not told"].startswith("the bounds of these prices: the daemon exports best")
    plots = {plot.title: plot for plot in plots_of(report(history))}
    bars = plots["CPU time on balance by policy"]
    assert isinstance(bars, BarPlot)
    assert [bar.name for bar in bars.bars] == ["rfc-v1 *", "static-8k"]
    assert [bar.value for bar in bars.bars] == pytest.approx([-0.15, -0.1])
    dots = plots["Saving against cost"]
    assert isinstance(dots, LinePlot)
    line, best, others = dots.curves
    assert not line.dots
    assert best.dots > others.dots > 0
    [(best_net, best_saved)], [(other_net, other_saved)] = best.points, others.points
    assert [best_net, other_net] == pytest.approx([-0.15, -0.1])
    assert [best_saved, other_saved] == [row.saved_kib for row in cost.rows]
    assert best_saved == saved


@needs_prometheus
@needs_chromium
@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_it_can_be_read_in_a_browser(
    recorded: str, browser: Browser, tmp_path: Path, size: tuple[int, int], scheme: str
) -> None:
    document = report(history_of(server_at(recorded), HOUR, HEADLINE))
    visited = visit(browser, tmp_path, as_html.render(document), size, scheme)
    seen = visited.seen()
    assert visited.said == []
    assert seen["overflow"] <= 0
    assert len(seen["plots"]) == len(plots_of(document))
    for plot in seen["plots"]:
        check_plot(plot, size[0], seen["paper"])
    visited.page.context.close()


@needs_prometheus
@pytest.mark.parametrize("hours", [1, 4])
def test_is_it_safe(recorded: str, hours: int) -> None:
    """The least and the deepest are of all that was scraped, however far apart the steps are."""
    history = history_of(server_at(recorded), Range(END, hours * 3600), HEADLINE)
    document = report(history)
    rows = facts_of(document, "Is it safe")
    moments = len(history.sums("dynstack_memory_headroom_bytes"))
    assert moments >= 60
    assert rows["Headroom"].startswith(
        "measured: 1200 KiB (300 pages, 50 times all reserves) free above the minimum watermarks"
        f" at least, 40000 KiB median of {moments} values, each the daemon's minimum"
    )
    assert over_range(history, HEADLINE, 2).headroom_kib == 1200
    assert rows["Reserve"].startswith("modelled: 6 pages for all CPUs. One task takes 3 at most")
    assert rows["Deepest"] == (
        "measured: 9216 bytes, living tasks (errs low: exited ones are not included); of tasks, the"
        " most at a time: none over 8 KiB, none over 12 KiB, none too deep for rfc-v1"
    )
    assert "in which contexts stacks are deep" in rows["Not told"]
    plots = {plot.title: plot for plot in plots_of(document)}
    free = plots["Free memory above the minimum watermarks"]
    assert isinstance(free, LinePlot)
    [curve] = free.curves
    least, at = min((y, x) for x, y in curve.points)
    assert least == pytest.approx(300 * 4096 / (1 << 20))
    assert curve.points[0][0] == 0.0
    assert abs(at - 60 * (DIP - MINUTES) - curve.points[-1][0]) <= history.asked.step_seconds


@needs_prometheus
@pytest.mark.parametrize(
    ("metric", "section"),
    [
        ("dynstack_policy_fault_cpu_seconds_total", "What it would cost"),
        ("dynstack_policy_fork_saved_cpu_seconds_total", "What it would cost"),
        ("dynstack_calibrated_fault_seconds", "What it would cost"),
        ("dynstack_calibrated_clear_page_seconds", "What it would cost"),
        ("dynstack_memory_headroom_bytes", "Is it safe"),
    ],
)
def test_an_older_daemon_has_no_such_section(recorded: str, metric: str, section: str) -> None:
    history = history_of(server_at(recorded), HOUR, HEADLINE)
    without = {name: tracks for name, tracks in history.tracks.items() if name != metric}
    document = report(dataclasses.replace(history, tracks=without))
    titles = {one.title for one in document.sections}
    assert {"What it would cost", "Is it safe"} - titles == {section}
    [left_out] = [
        part.text
        for one in document.sections
        for part in one.parts
        if isinstance(part, Paragraph) and "is left out" in part.text
    ]
    assert left_out.count("is left out") == 1
    assert metric in left_out


@needs_prometheus
def test_both_forms(recorded: str) -> None:
    document = report(history_of(server_at(recorded), HOUR, HEADLINE))
    text = as_text.render(document)
    assert all(len(line) <= 71 for line in text.splitlines())
    assert text.isascii()
    page = Page(as_html.render(document))
    assert page.open == []
    assert not {"i", "b"} & {tag for tag, _ in page.tags}
    assert HOSTILE in page.text


@needs_prometheus
def test_the_command(recorded: str, tmp_path: Path) -> None:
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(END - 3600))
    options = ("--prometheus", recorded, "--from", start, "--duration", "1h")
    result = run(tmp_path, *options, "--format", "text")
    assert result.returncode == 0, result.stderr
    assert f"--from {start} --duration" in " ".join(result.stdout.replace("\\\n", " ").split())
    assert run(tmp_path, *options, "--output", "a.html").returncode == 0
    nobody = run(tmp_path, *options, "--format", "text", "--instance", "nobody")
    assert (nobody.returncode, len(nobody.stderr.splitlines())) == (1, 1)
    assert "nobody" in nobody.stderr
    later = run(tmp_path, "--prometheus", recorded, "--format", "text")
    assert later.returncode == 1
    assert "no dynstack metrics from that time" in later.stderr


def matrix(*series: tuple[dict[str, str], Sequence[Sequence[object]]]) -> Reply:
    result = [{"metric": labels, "values": values} for labels, values in series]
    document = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    return 200, JSON, json.dumps(document).encode()


def test_several_hosts_are_named() -> None:
    hosts = [({"instance": f"h{n}\x1b", "job": "j"}, [[1.0, "1"]]) for n in range(7)]
    with answering(lambda _: matrix(*hosts)) as stub, pytest.raises(ProbeError) as caught:
        history_of(server_at(stub.url), HOUR, HEADLINE)
    assert "7 hosts, choose one with --instance and --job: h0\\x1b (job j)" in str(caught.value)
    assert str(caught.value).endswith("and 2 more")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"status":"success","data":{"resultType":"vector","result":[]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":1}}]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":3}]}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_answer_of_another_kind_is_one_line(body: bytes) -> None:
    with answering(lambda _: (200, JSON, body)) as stub, pytest.raises(ProbeError) as caught:
        history_of(server_at(stub.url), HOUR, HEADLINE)
    assert len(str(caught.value).splitlines()) == 1
    assert "is it a Prometheus server?" in str(caught.value)


def test_figures_without_sense_are_left_out() -> None:
    """A host whose metrics are no numbers has no headline, and says so."""

    def answer(request: Request) -> Reply:
        labels = {"instance": "h", "job": "j", "__name__": "dynstack_stack_bytes"}
        return matrix((labels, [[1.0, "NaN"], [2.0, "-1"], [3.0, "+Inf"]]))

    with answering(answer) as stub:
        history = history_of(server_at(stub.url), HOUR, HEADLINE)
    assert history.last("dynstack_stack_bytes") is None
    with pytest.raises(ProbeError, match="does not export the policy rfc-v1"):
        report(history)
