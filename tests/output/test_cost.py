# SPDX-License-Identifier: GPL-2.0-or-later
"""`cost` on captures: its words, its JSON, and that its figures are the owner's."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynstack_probe.analysis.safety import Safety
from dynstack_probe.cli import app
from dynstack_probe.errors import UsageError
from dynstack_probe.measure.contexts import Context
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.interval import PageFaults
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.output.cost import safety_rows
from dynstack_probe.text import small_percent
from tests.analysis.test_cost import CALIBRATION
from tests.capture.files import written
from tests.factory import a_frame, some_stacks


def frames() -> list[Frame]:
    first = a_frame(
        some_stacks([500] * 20),
        lifecycle=Lifecycle(0, 0, {}, (0,) * 8, (0,) * 6, {}, 0, 0.0),
        page_faults=PageFaults(0, 0),
        headroom=Headroom((9999,), 0, 0, 0, 0),
        calibration=CALIBRATION,
        boot_ns=10**9,
    )
    second = replace(
        first,
        lifecycle=Lifecycle(
            3000, 2000, {(1, 1): 2700, (2, 1): 300}, (0,) * 8, (0,) * 6, {}, 0, 0.0
        ),
        page_faults=PageFaults(500_000, 20_000),
        headroom=Headroom((700, 500, 600), 1, 2, 3, 4),
        calibration=None,
        boot_ns=101 * 10**9,
    )
    return [first, second]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return written(tmp_path / "host.dsp", frames())


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cost", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_json_holds_the_contract(capture: Path) -> None:
    document = json.loads(told(str(capture), "--format", "json"))
    assert document["schema_version"] == 1
    assert (document["seconds"], document["cpus"]) == (100.0, 2)
    assert document["faults_per_second"] == document["fault_pages_per_second"] == 3.0
    assert document["created_per_second"] == 30.0
    assert document["page_faults_per_second"] == {"user": 5000.0, "kernel": 200.0}
    assert document["calibration"]["fault_ns"] == 2000.0
    assert document["calibration"]["clear_page_ns"] == 100.0
    cost = document["cost"]
    assert cost["faults_cpu_ratio"] == pytest.approx(3 * 2000 / 2e9)
    assert cost["fork_saving_cpu_ratio"] == pytest.approx((30 * 600 + 60 * 100) / 2e9)
    assert cost["net_cpu_ratio"] == pytest.approx(
        cost["faults_cpu_ratio"] - cost["fork_saving_cpu_ratio"]
    )
    low, high = cost["net_cpu_ratio_range"]
    assert low < cost["net_cpu_ratio"] < high
    even = document["break_even"]
    assert even["kernel_page_fault_ns"] == pytest.approx(0.001 * 2e9 / 200)
    assert even["stack_fault_ns"] == pytest.approx(0.001 * 2e9 / 3)
    assert document["safety"]["headroom_kib"] == {"least": 2000, "median": 2400}
    assert document["safety"]["reserve"]["pages"] == 6
    assert document["safety"]["contexts"] == {}


def test_a_screen_marks_each_line(capture: Path) -> None:
    text = told(str(capture))
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "Calibrated a minor page fault 2000 ns" in words
    assert (
        "Stack faults modelled: 3.0 faults of 3.0 pages a second (errs high), 2000 ns each" in words
    )
    assert "Net modelled: -0.00090%" in words
    assert "Negative: it saves time too" in words
    assert "each page fault in kernel mode may cost 10 us more before all take 0.1%" in words
    assert "each stack fault may cost 667 us before all take 0.1% of CPU time, over 1 ms" in words
    assert "Headroom measured: 2000 KiB (500 pages, 83 times all reserves)" in words
    assert "2 allocations stalled, 3 pages reclaimed directly, 4 compactions failed" in words


def test_a_few_faults_make_no_figure(tmp_path: Path) -> None:
    first, second = frames()
    lives = Lifecycle(100, 90, {(1, 1): 92, (2, 1): 8}, (0,) * 8, (0,) * 6, {}, 0, 0.0)
    path = written(
        tmp_path / "calm.dsp",
        [first, replace(second, lifecycle=lives, page_faults=PageFaults(500_000, 1))],
    )
    words = " ".join(told(str(path)).split())
    assert "#PF path 1 page fault in kernel mode in 100 s: too few to tell" in words
    assert "Break-even 8 stack faults in 100 s: too few to tell what each may cost" in words


def test_reasons_are_on_the_screen() -> None:
    safety = Safety(Headroom((5,), 0, 0, 0, 0, 12, 3), 6, 3, 0, 500, {})
    words = dict(safety_rows(safety))
    assert "12 charges hit a memory.max" in words["Cgroups"]
    assert "3 of them failed" in words["Cgroups"]
    refused = dict(safety_rows(replace(safety, headroom=None, not_sampled="perf_event_open: no")))
    assert refused["Contexts"] == "not sampled: perf_event_open: no"
    assert "not counted" in refused["Cgroups"]
    found = {Context.PREEMPTIBLE.value: 3, Context.UNKNOWN.value: 1}
    words = dict(safety_rows(replace(safety, contexts=found, kernel_samples=70)))
    assert "75.00% preemptible, 25.00% can't be told of 4 samples" in words["Contexts"]
    assert "of 70 in the kernel" in words["Contexts"]
    assert words["Contexts"].endswith("CONFIG_PREEMPT_COUNT, or its preempt count was not found")
    calm = dict(safety_rows(replace(safety, contexts={}, kernel_samples=70)))
    assert "none of 70 samples in the kernel" in calm["Contexts"]


def test_notes_are_shown(tmp_path: Path) -> None:
    noted = [replace(frame, caveats=("Page faults were not counted: x",)) for frame in frames()]
    path = written(tmp_path / "noted.dsp", noted)
    assert "Note" in told(str(path))
    assert json.loads(told(str(path), "--format", "json"))["caveats"] == [
        "Page faults were not counted: x"
    ]


def test_policies_side_by_side(capture: Path) -> None:
    options = ["--policy", "rfc-v1", "--policy", "static-8k", "--policy", "full-in-kernel"]
    assert "KiB/0.001%" in told(str(capture), *options)
    rows = list(csv.DictReader(io.StringIO(told(str(capture), *options, "--format", "csv"))))
    assert [row["policy"] for row in rows] == ["rfc-v1", "static-8k", "full-in-kernel"]
    assert float(rows[0]["net_cpu_ratio"]) < 0
    assert rows[0]["pareto_best"] == "True"
    assert rows[2]["net_cpu_ratio"] == ""


def test_a_price_of_one_s_own(capture: Path) -> None:
    document = json.loads(told(str(capture), "--format", "json", "--fault-ns", "5000"))
    assert document["cost"]["faults_cpu_ratio"] == pytest.approx(3 * 5000 / 2e9)
    assert document["calibration"]["stack_fault_ns_range"] == [5000, 5000]


def test_a_capture_of_an_older_tool_says_what_it_lacks(tmp_path: Path) -> None:
    old = [replace(f, page_faults=None, headroom=None, calibration=None) for f in frames()]
    path = written(tmp_path / "old.dsp", old)
    words = " ".join(told(str(path)).split())
    assert "page faults: not counted" in words
    assert "this capture has no calibration" in words
    assert "price unknown: give --fault-ns N" in words
    assert "Headroom not sampled" in words
    document = json.loads(told(str(path), "--format", "json"))
    assert document["cost"]["net_cpu_ratio"] is None


def test_one_snapshot_is_no_series(tmp_path: Path) -> None:
    path = written(tmp_path / "one.dsp", frames()[:1])
    with pytest.raises(UsageError, match="holds a single frame"):
        told(str(path))
    with pytest.raises(UsageError, match="lasts as long as it does"):
        told(str(path), "--duration", "5s")


def test_every_command_tells_the_same_cost(capture: Path) -> None:
    cost = json.loads(told(str(capture), "--format", "json"))
    runner = CliRunner()
    compared = runner.invoke(app, ["policies", str(capture), "--format", "json"])
    rows = {row["name"]: row for row in json.loads(compared.output)["policies"]}
    assert rows["rfc-v1"]["net_cpu_ratio"] == cost["cost"]["net_cpu_ratio"]
    every = [option for name in rows for option in ("--policy", name)]
    for row in json.loads(told(str(capture), "--format", "json", *every))["policies"]:
        for key in ("net_cpu_ratio", "kib_per_0_001_percent", "pareto_best"):
            assert rows[row["policy"]][key] == row[key], row["policy"]
    report = " ".join(
        runner.invoke(app, ["report", str(capture), "--format", "text"]).output.split()
    )
    screen = " ".join(told(str(capture)).split())
    for name in ("Calibrated", "Stack faults", "Cheaper forks", "Net", "#PF path", "Headroom"):
        line = screen[screen.index(f"{name} ") :][:60]
        assert line in report, name


# --- docs/cost-and-safety.md ---------------------------------------------------------

PAPER = Path(__file__).with_name("paper_check.dsp")
DOCUMENT = Path(__file__).parents[2] / "docs/cost-and-safety.md"


def test_the_cost_that_the_document_works_out_by_hand() -> None:
    """From the lines of the file, with nothing of ours."""
    lines = [json.loads(line) for line in gzip.decompress(PAPER.read_bytes()).splitlines()]
    snapshots = [line for line in lines if line["type"] == "snapshot"]
    first, last = snapshots[0], snapshots[-1]
    marks: list[list[int]] = []
    for line in lines:
        if line["type"] == "snapshot":
            marks.append([])
        elif line.get("column") == "mark_bytes":
            marks[-1] += line["values"]

    def exits(snapshot: dict[str, Any], wanted: Callable[[int, int], bool]) -> int:
        rows = snapshot["lifecycle"]["exited"]
        return sum(n for mark, inherited, n in rows if wanted(mark, inherited))

    def rise(name: str) -> int:
        return int(last["lifecycle"][name] - first["lifecycle"][name])

    deep = [sum(mark > 4096 for mark in column) for column in marks]
    grown = [exits(s, lambda mark, inherited: mark == 2 and inherited == 1) for s in snapshots]
    faults = deep[-1] + grown[-1] - deep[0] - grown[0]
    handed_on = [exits(s, lambda mark, inherited: inherited == 2) for s in snapshots]
    # counts are read right before the scan, at whose end boot_ns is
    began = [s["boot_ns"] - s["cost"]["scan_seconds"] * 1e9 for s in (first, last)]
    ns = (began[1] - began[0]) * first["cpus"]
    prices = first["calibration"]
    clear, bare = prices["clear_page_ns"], prices["bare_fault_ns"]
    page = prices["fault_ns"] - bare
    fresh = 3 * (rise("created") - rise("reused"))
    cached = 3 * rise("reused") - (handed_on[-1] - handed_on[0])

    found = json.loads(told(str(PAPER), "--format", "json"))
    cost = found["cost"]
    assert cost["faults_cpu_ratio"] == pytest.approx(faults * (bare + page) / ns)
    assert cost["faults_cpu_ratio_range"] == pytest.approx(
        [faults * (prices["syscall_ns"] + page) / ns, faults * (2 * bare + page) / ns]
    )
    saved = (fresh * (clear + page) / 2 + cached * clear) / ns
    assert cost["fork_saving_cpu_ratio"] == pytest.approx(saved)
    assert cost["net_cpu_ratio"] == pytest.approx(cost["faults_cpu_ratio"] - saved)
    kernel = last["page_faults"]["kernel"] - first["page_faults"]["kernel"]
    even = 0.001 * ns / kernel
    assert found["break_even"]["kernel_page_fault_ns"] == pytest.approx(even)

    text = DOCUMENT.read_text()
    text = text[text.index("## One host by hand") : text.index("## Is it safe")]
    said = set(re.findall(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e\d+)?%?", text))
    call, n = prices["syscall_ns"], faults
    at_least, best, at_most = n * (call + page), n * (bare + page), n * (2 * bare + page)
    cleared = cached * clear
    fork_least, fork_best = fresh * clear + cleared, fresh * (clear + page) / 2 + cleared
    fork_most = fresh * page + cleared
    pairs = [(first["lifecycle"][name], last["lifecycle"][name]) for name in ("created", "reused")]
    pairs += [(deep[0], deep[-1]), (grown[0], grown[-1]), (handed_on[0], handed_on[-1])]
    pairs.append((first["page_faults"]["kernel"], last["page_faults"]["kernel"]))
    right = {
        *(str(value) for one, other in pairs for value in (one, other, other - one)),
        *(str(snapshot["boot_ns"]) for snapshot in (first, last)),
        *(f"{prices[name]:.2f}" for name in ("fault_ns", "bare_fault_ns", "clear_page_ns")),
        *(f"{value:.2f}" for value in (call, page)),
        *(str(value) for value in (n, fresh, cached, fresh // 3, 3 * rise("reused"))),
        *(f"{kernel:,}", f"{even:.0f}", f"{ns / 1e10:.4f}e10", f"{ns / 1e10:.4f}e7"),
        f"{0.001 * ns / n / 1000:.0f}",
        *(f"{value:,.0f}" for value in (at_least, best, at_most, cleared)),
        *(f"{value:,.0f}" for value in (fork_least, fork_best, fork_most, best - fork_best)),
        *(small_percent(value / ns) for value in (at_least, best, at_most)),
        *(small_percent(value / ns) for value in (fork_least, fork_best, fork_most)),
        small_percent((best - fork_best) / ns),
        small_percent((at_least - fork_most) / ns),
        small_percent((at_most - fork_least) / ns),
        f"{ns / first['cpus'] / 1e9:.3f}",
    }
    # of the method, not of the host: pages of a stack, the budget, bytes of a page, CPUs, ...
    of_the_method = {"1", "2", "3", "4", "20", "0.1%", "4096", "-2"}
    assert said <= right | of_the_method, said - right - of_the_method
    assert len(said - of_the_method) > 40
