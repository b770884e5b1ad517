# SPDX-License-Identifier: GPL-2.0-or-later
"""What people and programs are shown, from frames made by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dynstack_probe.analysis.host_estimate import HostEstimate, host_estimate
from dynstack_probe.model.frame import Coverage, Frame
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import as_table, estimate
from dynstack_probe.output.rfc_table import QUOTED
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.text import printable
from tests.factory import a_frame, a_host, some_stacks
from tests.hostile import MARKUP


def the_snapshot() -> Frame:
    stacks = some_stacks(
        [1000, 5000, 9000, 2000],
        comms=[b"bash", MARKUP, b"=1+1", b"swapper/1"],
        kinds=[Kind.USER, Kind.USER_WORKER, Kind.KTHREAD, Kind.IDLE],
    )
    return a_frame(stacks, caveats=("Mind this.",))


def the_report(*policies: str, by: str | None = None) -> HostEstimate:
    chosen = [BUILT_IN[name] for name in policies or ("rfc-v1",)]
    return host_estimate(the_snapshot(), chosen, by)


def test_json_contract() -> None:
    document = json.loads(estimate.as_json([the_report("rfc-v1", "static-8k", by="kind")]))
    assert document["schema_version"] == 1
    assert document["host"] == {
        "cpu_model": "AMD EPYC",
        "cpus": 2,
        "kernel_release": "6.18.0",
        "thread_size_bytes": 16384,
        "page_size_bytes": 4096,
        "mem_total_kib": 8 << 20,
    }
    measured = document["measured"]
    assert measured["stacks"] == 4
    assert measured["kthreads"] == 2
    assert (measured["user_threads"], measured["user_workers"]) == (2, 1)
    assert measured["base_kib"] == 64
    assert measured["tasks_by_pages"] == {"1": 2, "2": 1, "3": 1, "4": 0}
    assert (measured["unreadable"], measured["kernel_stack_kib"]) == (0, 64)
    rfc, static = document["policies"]
    assert rfc["name"] == "rfc-v1"
    assert (rfc["dynamic_kib"], rfc["reserve_kib"]) == (28, 24)
    assert rfc["saving_ratio"] == 1 - 28 / 64
    assert rfc["saving_of_ram_ratio"] == 36 / (8 << 20)
    assert rfc["faults"] == {"min": 2, "best": 3, "max": 3}
    assert (static["dynamic_kib"], static["over_limit_tasks"]) == (32, 1)
    groups = {group["name"]: group for group in document["groups"]}
    assert set(groups) == {"user", "user_worker", "kthread", "idle"}
    assert groups["kthread"] == {
        "name": "kthread",
        "stacks": 1,
        "base_kib": 16,
        "dynamic_kib": 12,
        "saving_ratio": 0.25,
        "worst_mark_bytes": 9000,
    }


def test_json_has_no_groups_unless_asked() -> None:
    assert "groups" not in json.loads(estimate.as_json([the_report()]))


def test_csv_of_policies() -> None:
    rows = list(csv.DictReader(io.StringIO(estimate.as_csv([the_report("rfc-v1", "static-12k")]))))
    assert [row["policy"] for row in rows] == ["rfc-v1", "static-12k"]
    assert (rows[0]["stacks"], rows[0]["dynamic_kib"], rows[1]["dynamic_kib"]) == ("4", "28", "48")


def test_csv_of_groups_escapes_names() -> None:
    rows = list(csv.DictReader(io.StringIO(estimate.as_csv([the_report(by="comm")]))))
    assert {row["name"] for row in rows} == {
        "bash",
        "\\x1b[31m;\\n\\t<&\"'=x",
        "'=1+1",
        "swapper/1",
    }
    assert sum(int(row["dynamic_kib"]) for row in rows) == 28


def test_table_of_one_policy() -> None:
    lines = as_table.render(the_report()).splitlines()
    assert lines[0].split() == ["CPU", "#Cores", "#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving"]
    assert lines[2].startswith("This host: AMD EPYC")
    assert lines[2].split()[-5:] == ["2", "4", "64", "28", "56.25%"]
    for line, row in zip(lines[3:8], QUOTED, strict=True):
        assert line.startswith(f"{row.cpu} (quoted)")
        assert line.split()[-5:] == [
            *(str(n) for n in (row.cores, row.stacks, row.base_kib, row.dynamic_kib)),
            row.saving,
        ]
    text = "\n".join(lines)
    assert "2 kernel threads (idle tasks: 1), 2 user threads (workers: 1)" in text
    assert "1: 2  2: 1  3: 1  4: 0" in text
    assert "saving with it 18.75%" in text
    assert "the kernel counts 4 stacks; read 4, missed 0" in text
    assert "Mind this." in text


def test_table_has_a_row_for_each_policy() -> None:
    text = as_table.render(the_report("rfc-v1", "static-8k"))
    assert "This host, rfc-v1" in text
    assert "This host, static-8k" in text
    assert "1 tasks were deeper" in text


def test_deepest_tasks_are_escaped_and_sorted() -> None:
    text = as_table.render(the_report())
    tail = text[text.index("Deepest tasks") :].splitlines()[2:]
    assert [int(line.split()[-1]) for line in tail] == [9000, 5000, 2000, 1000]
    assert tail[1].startswith("\\x1b[31m;\\n")


def test_many_groups_are_cut_with_their_rest_summed() -> None:
    stacks = some_stacks([1000] * 40, comms=[b"task%d" % n for n in range(40)])
    report = host_estimate(a_frame(stacks), [BUILT_IN["rfc-v1"]], "comm")
    text = as_table.render(report)
    assert "... 25 more" in text
    (rest,) = [line for line in text.splitlines() if line.startswith("... 25 more")]
    assert rest.split()[-5:] == ["25", "400", "100", "75.00%", "1000"]


def test_a_kernel_with_dynamic_stacks_shows_what_is_resident() -> None:
    frame = the_snapshot()
    stacks = dataclasses.replace(frame.stacks, resident_pages=[1, 3, 7, 1])
    frame = dataclasses.replace(frame, stacks=stacks, grown_kib=12)
    report = host_estimate(frame, [BUILT_IN["rfc-v1"]], None)
    text = " ".join(as_table.render(report).split())
    assert "28 KiB, measured: this kernel's stacks are already dynamic" in text
    assert "counts 12 KiB grown" in text
    measured = json.loads(estimate.as_json([report]))["measured"]
    assert (measured["resident_kib"], measured["nr_dynamic_stacks_faults_kib"]) == (28, 12)
    assert "Reuse" not in text


def test_the_models_error_where_the_kernel_counts_pages() -> None:
    """Four stacks of a page, of which one was handed out with two: 16 KiB modelled, 20 held."""
    coverage = Coverage(4, 0, 4, 20, True)
    frame = a_frame(some_stacks([100, 200, 300, 400]), grown_kib=4)
    frame = dataclasses.replace(frame, coverage=coverage)
    report = host_estimate(frame, [BUILT_IN["rfc-v1"]], None)
    text = " ".join(as_table.render(report).split())
    assert "Model error -20.00%: rfc-v1 models 16 KiB, the kernel counts 20 KiB" in text
    document = json.loads(estimate.as_json([report]))
    assert document["model_error"]["policy"] == "rfc-v1"
    assert document["model_error"]["resident_ratio"] == pytest.approx(-0.2)
    assert estimate.as_csv([report]).splitlines()[1].split(",")[-2] == "-0.200000"


def test_how_much_reuse_may_hide() -> None:
    """Stacks of 1, 1 and 3 pages: at most each was handed out with 3, 9 in all, not 5."""
    frame = a_frame(some_stacks([100, 200, 9000]))
    policies = [BUILT_IN["rfc-v1"], BUILT_IN["static-8k"]]
    report = host_estimate(frame, policies, None)
    text = " ".join(as_table.render(report).split())
    assert "Reuse rfc-v1 Dynamic(kb) 20 to 36" in text
    assert "Reuse static-8k" not in text
    rows = json.loads(estimate.as_json([report]))["policies"]
    assert [row["reuse_most_kib"] for row in rows] == [16, 0]
    assert "model_error" not in json.loads(estimate.as_json([report]))


@given(st.lists(st.integers(8, 16384), min_size=1, max_size=20))
def test_reuse_stays_within_the_stacks(marks: list[int]) -> None:
    frame = a_frame(some_stacks(marks))
    for one in host_estimate(frame, list(BUILT_IN.values()), None).estimates:
        assert one.reuse_most_kib is not None
        assert 0 <= one.reuse_most_kib <= max(0, one.base_kib - one.dynamic_kib)


@pytest.mark.parametrize("by", [None, "comm", "kind", "cgroup"])
@settings(max_examples=25, deadline=None)
@given(
    comms=st.lists(st.binary(max_size=15), min_size=1, max_size=20),
    cpu=st.text(max_size=99),
    cpus=st.integers(1, 8192),
)
def test_table_always_fits_80_columns(
    by: str | None, comms: list[bytes], cpu: str, cpus: int
) -> None:
    host = dataclasses.replace(a_host(cpus), cpu_model=cpu)
    stacks = some_stacks([16384] * len(comms), comms=comms)
    paths = {1: "/very" * 30 + "/long\x1b\u202e"}
    report = host_estimate(a_frame(stacks, host, cgroup_paths=paths), list(BUILT_IN.values()), by)
    text = as_table.render(report)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    # whatever the names, no figure is cut
    quoted = [line.split()[-5:] for line in text.splitlines() if "(quoted)" in line]
    assert quoted == [
        [*(str(n) for n in (row.cores, row.stacks, row.base_kib, row.dynamic_kib)), row.saving]
        for row in QUOTED
    ]
    assert all(c.isprintable() or c == "\n" for c in text)
    json.loads(estimate.as_json([report]))
    assert estimate.as_csv([report])


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert "\x1b[" not in as_table.render(the_report())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[1;32m" in as_table.render(the_report())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in as_table.render(the_report())


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"kworker/0:1", "kworker/0:1"),
        (b"\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("naïve".encode(), "naïve"),
        (b"a\nb", "a\\nb"),
    ],
)
def test_printable(raw: bytes, shown: str) -> None:
    assert printable(raw) == shown


@given(st.binary(max_size=15))
def test_printable_always_is(raw: bytes) -> None:
    assert printable(raw).isprintable()
