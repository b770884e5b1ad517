# SPDX-License-Identifier: GPL-2.0-or-later
"""`policies` and `estimate --depths`: figures worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

import pytest

from dynstack_probe.analysis.comparison import compare
from dynstack_probe.analysis.depths import depths_by_role, random_offset_price, shift_curve
from dynstack_probe.analysis.host_estimate import host_estimate
from dynstack_probe.analysis.timeline import rate
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.roles import roles
from dynstack_probe.model.shapes import Shape
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind
from dynstack_probe.output import as_table, estimate, policies
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.policy.custom import policy_from
from tests.factory import a_frame, a_host, collect, some_stacks


def at(frame: Frame, seconds: float, **columns: Any) -> Frame:
    """The same tasks at another time."""
    return dataclasses.replace(
        frame,
        boot_ns=int((1000 + seconds) * 1e9),
        stacks=dataclasses.replace(frame.stacks, **columns),
    )


def lifecycle(exited: dict[tuple[int, int], int]) -> Lifecycle:
    return Lifecycle(
        created=0,
        reused=0,
        exited=exited,
        skipped=(0,) * 8,
        growth_by_age=(0,) * 6,
        lost={},
        runs=0,
        run_seconds=0.0,
    )


def counting(frame: Frame, exited: dict[tuple[int, int], int]) -> Frame:
    return dataclasses.replace(frame, lifecycle=lifecycle(exited))


# 5000 bytes deep ever and 600 now, 13000 and 9000, and one that runs, 5000 deep
MARKS, DEPTHS = [5000, 13000, 5000], [600, 9000, 0]


def three() -> Frame:
    stacks = some_stacks(MARKS, depths=DEPTHS, comms=[b"a", b"deep\x1b", b"run"], asleep=[90, 2, 0])
    return dataclasses.replace(a_frame(stacks), context_switches=0)


@pytest.mark.parametrize(
    ("name", "pages", "reserve_pages"),
    [
        ("rfc-v1", 2 + 4 + 2, 2 * 3),
        ("grow-12k", 3 + 4 + 3, 2 * 1),
        ("reserve-doubled", 8, 12),
        ("reserve-stash", 8, 14),
        ("grow-to-32k", 8, 14),
        ("static-8k", 6, 0),
        ("accessed-bit", 2 + 4 + 4, 0),
        ("below-sp", 1 + 3 + 2, 0),
        ("gc-sleepers", 1 + 4 + 2, 0),
        ("vendor", 1 + 3 + 2, 32 + 2 * 4),
        ("full-in-kernel", 4 + 4 + 1, 6),
    ],
)
def test_resident_and_reserve(name: str, pages: int, reserve_pages: int) -> None:
    (row,) = compare(three(), [BUILT_IN[name]], None, "x").rows
    assert row.estimate.dynamic_kib == pages * 4
    assert row.estimate.reserve_kib == reserve_pages * 4


def test_who_is_over_the_limit_is_named_and_escaped() -> None:
    comparison = compare(three(), list(BUILT_IN.values()), None, "x")
    text = policies.as_table(comparison)
    assert "static-8k: 1 tasks were deeper than it allows, each an overflow: deep\\x1b 1" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    document = json.loads(policies.as_json(comparison))
    rows = {row["name"]: row for row in document["policies"]}
    assert rows["static-12k"]["over_limit"] == [{"name": "deep\\x1b", "tasks": 1}]
    assert rows["rfc-v1"]["over_limit"] == []
    table = list(csv.DictReader(io.StringIO(policies.as_csv(comparison))))
    assert [row["policy"] for row in table] == list(BUILT_IN)


def test_tasks_of_unknown_sleep_are_counted_where_they_matter() -> None:
    frame = three()
    frame = dataclasses.replace(
        frame, stacks=dataclasses.replace(frame.stacks, asleep_seconds=[ASLEEP_UNKNOWN, 2, 0])
    )
    words = "The sleep time of 1 of 3 tasks is unknown: gc-sleepers and vendor count them as"
    comparison = compare(frame, list(BUILT_IN.values()), None, "x")
    assert words in " ".join(policies.as_table(comparison).split())
    assert json.loads(policies.as_json(comparison))["asleep_unknown_tasks"] == 1
    asks_nothing = compare(frame, [BUILT_IN["rfc-v1"]], None, "x")
    assert "unknown" not in policies.as_table(asks_nothing)
    known = compare(three(), list(BUILT_IN.values()), None, "x")
    assert "unknown" not in policies.as_table(known)


def test_rates_of_a_series() -> None:
    """Ten seconds: task 1 slept 4 times and grew a page, task 2 slept 30 times."""
    first = at(three(), 100)
    second = at(first, 110, switches=[5, 31, 1], mark_bytes=[9000, 13000, 5000])
    second = at(second, 110, touched_pages=[0b111, 0b1111, 0b11])
    second = dataclasses.replace(second, context_switches=68)
    # a task exited that had used two pages; no frame saw it
    frames = [counting(first, {}), counting(second, {(2, 1): 1})]
    activity = collect(frames, [0, 1, 60])
    assert activity.seconds == 10
    assert activity.switch_coverage_ratio == 0.5

    def of(name: str) -> tuple[str, float, float]:
        result = rate(BUILT_IN[name], activity, 4)
        assert result is not None
        return result.what, result.events, result.pages

    assert of("rfc-v1") == ("faults", 0.2, 0.2)
    assert of("grow-8k") == ("faults", 0.1, 0.1)
    # accessed-bit: task 1 gets 2 pages at each of 4 runs, task 2 has all
    assert of("accessed-bit") == ("refills", 0.4, 0.8)
    # below SP: task 1 lost one page of two, task 2 one of four
    assert of("below-sp") == ("refills", 3.4, 3.4)
    # of the vendor kernel once a second at most
    assert of("vendor") == ("refills", 1.4, 1.4)
    # task 1 alone slept long enough
    assert of("gc-sleepers") == ("refills", 0.4, 0.4)
    assert rate(BUILT_IN["static-8k"], activity, 4) is None
    assert rate(BUILT_IN["rfc-v1"], Interval(), 4) is None


def test_an_exited_task_counts_only_what_it_grew_since() -> None:
    """It had two pages when the series began and ended with three."""
    first = at(three(), 0)
    gone = dataclasses.replace(first, boot_ns=1010 * 10**9, stacks=some_stacks([]))
    stays = at(first, 0)
    activity = collect([counting(stays, {}), counting(gone, {(3, 1): 1})], [0])
    # two others went unseen: their last growth is taken off, but never below none
    result = rate(BUILT_IN["rfc-v1"], activity, 4)
    assert result is not None
    assert result.events == 0
    only = dataclasses.replace(first, stacks=some_stacks([5000]))
    activity = collect([counting(only, {}), counting(gone, {(3, 1): 1})], [0])
    result = rate(BUILT_IN["rfc-v1"], activity, 4)
    assert result is not None
    assert (result.events, result.pages) == (0.1, 0.1)


def test_depths_by_role() -> None:
    stacks = some_stacks(
        [1000, 2000, 3000, 4000, 700],
        depths=[100, 200, 300, 0, 90],
        kinds=[Kind.USER, Kind.USER, Kind.USER, Kind.USER, Kind.KTHREAD],
        comms=[b"x", b"y", b"CPU 0/KVM", b"z", b"kworker/0:1"],
    )
    rows = {row.role: row for row in depths_by_role(stacks, roles(stacks.kinds, stacks.comms))}
    assert set(rows) == {"user", "vCPU", "kworker", "all"}
    assert rows["user"].stacks == 3
    assert rows["user"].sleeping == 2
    assert rows["user"].ever == {"p50": 2000, "p90": 4000, "p99": 4000, "p99.9": 4000, "max": 4000}
    assert rows["user"].now["max"] == 200
    assert rows["all"].ever["p50"] == 2000
    assert rows["vCPU"].now["p50"] == 300


def test_random_offset_price() -> None:
    """4104 uses 8 bytes of its second page: any offset but 0 leads there; 5120 uses 1024."""
    price = random_offset_price(some_stacks([4096, 4104, 5112, 5120, 9000]))
    assert price.user_stacks == 5
    assert price.high_pages == 3
    assert price.low_pages == pytest.approx((127 + 1 + (128 - 101)) / 128)
    kernel = random_offset_price(some_stacks([4104], kinds=[Kind.KTHREAD]))
    assert (kernel.user_stacks, kernel.high_pages) == (0, 0)


def test_shift_curve() -> None:
    points = {p.shift_bytes: p for p in shift_curve(some_stacks([4096, 4200, 16300]), 16384)}
    assert points[0].dynamic_kib == (1 + 2 + 4) * 4
    assert points[-128].dynamic_kib == (1 + 1 + 4) * 4
    assert points[128].dynamic_kib == (2 + 2 + 4) * 4
    assert points[0].over_limit_tasks == 0
    assert points[128].over_limit_tasks == 1
    assert min(points) == -2048
    assert max(points) == 2048


def test_depths_are_shown() -> None:
    report = host_estimate(three(), [BUILT_IN["rfc-v1"]], None, with_depths=True)
    text = as_table.render(report)
    assert "user, ever" in text
    assert "as it is" in text
    assert max(map(len, text.splitlines())) <= 80
    document = json.loads(estimate.as_json([report]))["depths"]
    assert document["by_role"][0]["role"] == "user"
    assert document["random_offset"]["active"] is None
    assert len(document["shift_curve"]) == 33


def test_one_row_a_capture_and_their_total() -> None:
    reports = [
        host_estimate(a_frame(some_stacks([5000]), a_host(2)), [BUILT_IN["rfc-v1"]], None, source=n)
        for n in ("a.dsp", "b\x1b.dsp")
    ]
    lines = as_table.render_many(reports).splitlines()
    assert lines[2].split() == ["a.dsp:", "AMD", "EPYC", "2", "1", "16", "8", "50.00%"]
    assert lines[3].startswith("b\\x1b.dsp")
    assert lines[4].split() == ["Total", "of", "2", "4", "2", "32", "16", "50.00%"]
    document = json.loads(estimate.as_json(reports))
    assert document["total"][0]["base_kib"] == sum(
        one["measured"]["base_kib"] for one in document["captures"]
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_model_explains_itself(name: str) -> None:
    text = policies.explain(BUILT_IN[name])
    assert name in text
    for part in ("Model", "Words", "Formula", "Parameters", "Ignores"):
        assert f"\n{part} " in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_policy_of_ones_own() -> None:
    mine = policy_from({"name": "mine", "model": "grow-only", "preallocated_pages": 2})
    assert mine.dynamic_pages(Shape(1, 1), 4) == 2
    with pytest.raises(ValueError, match="preallocated_pages: is missing"):
        policy_from({"name": "mine", "model": "grow-only"})
    with pytest.raises(ValueError, match="model: must be one of"):
        policy_from({"name": "mine", "model": "other"})
    with pytest.raises(ValueError, match="name"):
        policy_from({"model": "accessed-bit", "name": "a b\n"})
    with pytest.raises(ValueError, match="size_pages: must be a whole number from 1 to 16"):
        policy_from({"name": "m", "model": "fixed-size", "size_pages": True})
    with pytest.raises(ValueError, match="margin: reclaim-below-sp has asleep_seconds"):
        policy_from({"name": "m", "model": "reclaim-below-sp", "margin": 3})
