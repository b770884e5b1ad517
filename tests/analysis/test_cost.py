# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy costs: figures worked out by hand, and laws that hold for any."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.analysis.cost import (
    break_even,
    host_cost,
    pareto_best,
    policy_cost,
    prices_of,
)
from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.analysis.evidence import evidence_of
from dynstack_probe.analysis.safety import safety_of
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.cost import FEW_EVENTS, BreakEven, PolicyCost, Range
from dynstack_probe.model.growth import Growth
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.interval import Interval, PageFaults
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.policy import BUILT_IN
from tests.factory import a_frame, a_host, some_stacks

CALIBRATION = Calibration(2000.0, 900.0, 100.0, 200.0, 0.1, 1, pinned=True)


def counts(*pages: int) -> tuple[int, ...]:
    return (*pages, *(0,) * (16 - len(pages)))


# In 100 s: 3,000 tasks of which 2,000 got a cached stack; 400 faults for 500 pages.
WHOLE = Interval(
    seconds=100.0,
    growth=Growth(
        mapped=counts(3000, 300, 150, 50),
        touched=counts(3000, 300, 50, 50),
        inherited=counts(0, 400, 0, 0),
    ),
    created=3000,
    reused=2000,
    inherited=counts(0, 700),
    page_faults=PageFaults(user=500_000, kernel=20_000),
    headroom=Headroom((5000, 0, 300, 9000), 1, 2, 3, 4),
    calibration=CALIBRATION,
)
NOTHING_SAVED = Savings(10, 160, 40, 24, 1 << 20)


def cost_of(name: str, whole: Interval = WHOLE, fault_ns: float | None = None) -> PolicyCost:
    prices = prices_of(whole.calibration, fault_ns)
    return policy_cost(BUILT_IN[name], NOTHING_SAVED, whole, a_host(cpus=4), prices)


def test_prices_are_bounded_by_measured_parts() -> None:
    prices = prices_of(CALIBRATION)
    assert prices is not None
    assert prices.entry == Range(200.0, 900.0, 1800.0)
    assert prices.page == Range(1100.0, 1100.0, 1100.0)
    assert prices.fault == Range(1300.0, 2000.0, 2900.0)
    assert prices.forked_page == Range(100.0, 600.0, 1100.0)


def test_a_page_in_no_cache_is_the_dearest() -> None:
    """It moves the upper bounds and no best guess; one found cheaper moves nothing."""
    prices = prices_of(replace(CALIBRATION, cold_fault_ns=3500.0))
    assert prices is not None
    assert prices.page == Range(1100.0, 1100.0, 2600.0)
    assert prices.fault == Range(1300.0, 2000.0, 4400.0)
    assert prices.forked_page == Range(100.0, 600.0, 2600.0)
    assert prices_of(replace(CALIBRATION, cold_fault_ns=1500.0)) == prices_of(CALIBRATION)
    given = prices_of(replace(CALIBRATION, cold_fault_ns=3500.0), 1200.0)
    assert given is not None
    assert given.fault == Range(1200.0, 1200.0, 1200.0)


def test_stack_faults_by_hand() -> None:
    """4 faults a second of 5 pages on 4 CPUs: 4 entries and 5 pages in 4e9 ns."""
    row = cost_of("rfc-v1")
    assert (row.events_per_second, row.pages_per_second) == (4.0, 5.0)
    assert row.avoided_pages_per_second == 4.0
    assert row.work_ratio is not None
    assert row.work_ratio.low == pytest.approx((4 * 200 + 5 * 1100) / 4e9)
    assert row.work_ratio.best == pytest.approx((4 * 900 + 5 * 1100) / 4e9)
    assert row.work_ratio.high == pytest.approx((4 * 1800 + 5 * 1100) / 4e9)


def test_forks_by_hand() -> None:
    """10 fresh stacks a second save 3 pages each, 20 cached ones 60 less 7 that they had."""
    saved = cost_of("rfc-v1").fork_saving_ratio
    assert saved is not None
    assert saved.low == pytest.approx((30 * 100 + 53 * 100) / 4e9)
    assert saved.best == pytest.approx((30 * 600 + 53 * 100) / 4e9)
    assert saved.high == pytest.approx((30 * 1100 + 53 * 100) / 4e9)
    net = cost_of("rfc-v1").net_ratio
    assert net is not None
    assert net.best < 0
    # and smaller stacks that never grow save the same way
    eight = cost_of("static-8k").fork_saving_ratio
    assert eight is not None
    assert eight.best == pytest.approx((20 * 600 + 40 * 100) / 4e9)


def test_a_given_price_replaces_the_range() -> None:
    work = cost_of("rfc-v1", fault_ns=5000).work_ratio
    assert work is not None
    assert work.low == work.best == work.high
    assert work.best == pytest.approx((4 * 3900 + 5 * 1100) / 4e9)
    bare = cost_of("rfc-v1", replace(WHOLE, calibration=None), fault_ns=5000)
    assert bare.work_ratio is not None
    assert bare.work_ratio.best == pytest.approx(5 * 5000 / 4e9)
    assert bare.fork_saving_ratio is None


def test_what_was_not_measured_is_not_known() -> None:
    old = cost_of("rfc-v1", replace(WHOLE, calibration=None))
    assert (old.work_ratio, old.fork_saving_ratio, old.net_ratio) == (None, None, None)
    uncounted = cost_of("rfc-v1", replace(WHOLE, created=None))
    assert uncounted.fork_saving_ratio is None
    assert cost_of("full-in-kernel").work_ratio is None


def test_break_even() -> None:
    even = break_even(20_000, 100.0, 4, Range(-0.0001, 0.0005, 0.001))
    assert even.tenth_percent == pytest.approx(0.001 * 4e9 / 200)
    assert even.one_percent == pytest.approx(0.01 * 4e9 / 200)
    assert even.fork_saving is not None
    assert even.fork_saving.low == 0.0  # whether anything is saved is open
    assert even.fork_saving.best == pytest.approx(0.0005 * 4e9 / 200)
    assert even.fork_saving.high == pytest.approx(0.001 * 4e9 / 200)
    assert even.is_sound
    none = break_even(0, 100.0, 4, Range(0.1, 0.1, 0.1))
    assert none == BreakEven(0, None, None, None)
    assert break_even(None, 100.0, 4, None).events is None
    assert break_even(20_000, 100.0, 4, Range(-0.2, -0.1, 0.3)).fork_saving is None
    assert not break_even(FEW_EVENTS - 1, 100.0, 4, None).is_sound


def test_a_whole_host() -> None:
    frame = a_frame(some_stacks([500] * 9 + [5000]), a_host(cpus=4))
    policies = [BUILT_IN[name] for name in ("rfc-v1", "static-8k")]
    cost = host_cost("x", frame, WHOLE, policies)
    assert [row.policy for row in cost.rows] == ["rfc-v1", "static-8k"]
    shapes = count_shapes(frame.stacks, [0])
    assert cost.headline.savings == estimate(policies[0], shapes, frame.host)
    assert cost.kernel_page_fault.tenth_percent == pytest.approx(0.001 * 4e9 / 200)
    assert cost.stack_fault.one_percent == pytest.approx(0.01 * 4e9 / 4)


def test_safety() -> None:
    frame = a_frame(some_stacks([500] * 9 + [9000, 13000]), a_host(cpus=4))
    evidence = replace(evidence_of([frame], [], "x"), whole=WHOLE)
    safety = safety_of(BUILT_IN["rfc-v1"], evidence)
    assert (safety.reserve_pages, safety.a_cpu_pages) == (12, 3)
    assert safety.refills_below_min == 100  # a quarter of the samples, of 400 faults
    assert safety.deepest_bytes == 13000
    assert {kib: names.total() for kib, names in safety.deeper.items()} == {8: 2, 12: 1}
    assert safety.headroom is not None
    assert safety.headroom.reserves(safety.reserve_pages) == 0


def test_the_deepest_are_those_of_every_frame() -> None:
    """Who is gone by the end, or came after the middle, has been as deep all the same."""
    marks = ([500, 9000], [500, 13000], [500, 600])
    frames = [
        a_frame(some_stacks(m, comms=[b"a", b"deep"]), boot_ns=at * 10**9)
        for at, m in enumerate(marks)
    ]
    safety = safety_of(BUILT_IN["rfc-v1"], evidence_of(frames, [], "x"))
    assert safety.deepest_bytes == 13000
    assert safety.deeper == {8: {b"deep": 1}, 12: {b"deep": 1}}


@given(
    st.integers(1, 10**6),
    st.floats(0.1, 1e6),
    st.floats(1.0, 1e6),
    st.floats(1.0, 1e6),
    st.floats(1.0, 1e6),
    st.floats(1.0, 1e6),
)
def test_ranges_are_ranges_whatever_was_calibrated(
    created: int, seconds: float, fault: float, bare: float, clear: float, call: float
) -> None:
    calibration = Calibration(fault, bare, clear, call, 0.0, 1, pinned=True)
    whole = replace(
        WHOLE, created=created, reused=created // 3, seconds=seconds, calibration=calibration
    )
    for name in BUILT_IN:
        row = cost_of(name, whole)
        for found in (row.work_ratio, row.fork_saving_ratio, row.net_ratio):
            if found is not None:
                assert found.low <= found.best <= found.high
        if row.net_ratio is not None:
            assert row.work_ratio is not None
            assert row.fork_saving_ratio is not None
            expected = row.work_ratio.best - row.fork_saving_ratio.best
            assert row.net_ratio.best == pytest.approx(expected)


def a_row(name: str, saved: int, net: float, *, feasible: bool = True) -> PolicyCost:
    cost = Range(max(net, 0.0), max(net, 0.0), max(net, 0.0))
    forks = Range(max(-net, 0.0), max(-net, 0.0), max(-net, 0.0))
    savings = Savings(1, saved, 0, 0, 1 << 20)
    return PolicyCost(name, savings, None, 0.0, 0.0, 0.0, False, cost, forks, feasible)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-5, 5), st.booleans()), max_size=9))
def test_nobody_beats_the_pareto_best(points: list[tuple[int, int, bool]]) -> None:
    rows = [
        a_row(f"p{n}", saved, net * 1e-6, feasible=ok) for n, (saved, net, ok) in enumerate(points)
    ]
    best = pareto_best(rows)
    for n, (saved, net, ok) in enumerate(points):
        beaten = any(
            good and s >= saved and c <= net and (s, c) != (saved, net) for s, c, good in points
        )
        assert (f"p{n}" in best) == (ok and saved > 0 and not beaten)


def test_worth_is_kib_for_a_thousandth_of_a_percent() -> None:
    assert a_row("x", 500, 2e-5).kib_per_unit == pytest.approx(250)
    assert a_row("x", 500, -2e-5).kib_per_unit is None
