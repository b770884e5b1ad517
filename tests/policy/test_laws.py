# SPDX-License-Identifier: GPL-2.0-or-later
"""Laws across policies, and every figure against the naive implementation's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dynstack_probe.analysis.estimate import Estimate, estimate
from dynstack_probe.model.host import Host
from dynstack_probe.model.shapes import Shape, count_shapes
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind, Stacks
from dynstack_probe.policy import BUILT_IN, Policy
from dynstack_probe.policy.fixed_size import FixedSize
from dynstack_probe.policy.grow_only import GrowOnly
from tests.factory import a_host, some_stacks
from tests.policy.naive import Figures, Task, figures, tasks_of

ALL = [*BUILT_IN.values()]
THRESHOLDS = [policy.asleep_seconds for policy in ALL]
BELOW_SP = ("below-sp", "gc-sleepers", "vendor")

# Figures around which something changes: pages, KiB, the margin, the ages.
EDGES = [edge + by for edge in (1024, 3072, 4096, 8192, 12288) for by in (-1, 0, 1)]
THREAD_SIZES = st.sampled_from([4096, 8192, 16384, 32768, 65536])
CPUS = st.integers(1, 4096)


@st.composite
def tasks_and_host(draw: st.DrawFn, running: bool | None = None) -> tuple[list[Task], Host]:
    """Some tasks, and a host whose stacks are large enough for them."""
    size = draw(THREAD_SIZES)
    depths = st.integers(1, size) | st.sampled_from([e for e in EDGES if e <= size])
    on_cpu = {None: depths | st.just(0), True: st.just(0), False: depths}[running]
    task = st.builds(
        Task,
        mark_bytes=depths,
        touched_pages=st.integers(0, (1 << size // 4096) - 1),
        depth_bytes=on_cpu,
        kind=st.sampled_from(list(Kind)),
        asleep_seconds=st.sampled_from([0, 1, 2, 59, 60, 61, ASLEEP_UNKNOWN])
        | st.integers(0, 1 << 20),
    )
    return draw(st.lists(task, max_size=25)), a_host(draw(CPUS), size)


def stacks_of(tasks: Sequence[Task]) -> Stacks:
    plain = some_stacks([task.mark_bytes for task in tasks])
    return replace(
        plain,
        touched_pages=[task.touched_pages for task in tasks],
        depth_bytes=[task.depth_bytes for task in tasks],
        kinds=[task.kind for task in tasks],
        asleep_seconds=[task.asleep_seconds for task in tasks],
    )


def estimated(policy: Policy, tasks: Sequence[Task], host: Host) -> Estimate:
    return estimate(policy, count_shapes(stacks_of(tasks), THRESHOLDS), host)


def as_figures(policy: Policy, tasks: Sequence[Task], host: Host) -> Figures:
    """The models' answer in the naive one's form."""
    result = estimated(policy, tasks, host)
    shapes = count_shapes(stacks_of(tasks), THRESHOLDS)
    pages = host.thread_size_bytes // 4096
    return Figures(
        stacks=result.stacks,
        base_kib=result.base_kib,
        dynamic_kib=result.dynamic_kib,
        reserve_kib=result.reserve_kib,
        faults_min=result.faults.min,
        faults_best=result.faults.best,
        faults_max=result.faults.max,
        over_limit=result.over_limit_tasks,
        refill_pages=sum(policy.refill_pages(shape, pages) * n for shape, n in shapes.items()),
    )


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
@given(tasks_and_host())
@example(([Task(12289, 0b1111, 3073, Kind.USER, 1)], a_host()))
@example(([Task(12289, 0b1111, 3072, Kind.USER, 60)], a_host()))
@example(([Task(4096, 0b1, 0, Kind.KTHREAD, 0)], a_host(384, 32768)))
def test_equals_the_naive_implementation(policy: Policy, case: tuple[list[Task], Host]) -> None:
    tasks, host = case
    assert as_figures(policy, tasks, host) == figures(policy.name, tasks, host)


@pytest.mark.parametrize("pages", [1, 2, 4, 8, 16])
@given(data=st.data())
def test_growing_from_a_whole_stack_is_a_static_one(pages: int, data: st.DataObject) -> None:
    tasks, host = data.draw(tasks_and_host())
    host = replace(host, thread_size_bytes=pages * 4096)
    tasks = [t for t in tasks if max(t.mark_bytes, t.depth_bytes) <= pages * 4096]
    grown = estimated(GrowOnly("", "", pages), tasks, host)
    assert grown == estimated(FixedSize("", "", pages), tasks, host)
    assert grown.saving_ratio == 0


def dynamic(name: str, task: Task, pages: int) -> int:
    """Of one stack."""
    (shape,) = count_shapes(stacks_of([task]), THRESHOLDS)
    return BUILT_IN[name].dynamic_pages(shape, pages)


@given(tasks_and_host(running=False))
def test_accessed_bit_holds_what_grow_only_does_when_nothing_runs(
    case: tuple[list[Task], Host],
) -> None:
    tasks, host = case
    pages = host.thread_size_bytes // 4096
    for task in tasks:
        assert dynamic("accessed-bit", task, pages) == dynamic("rfc-v1", task, pages)
    by_bit, grown = (estimated(BUILT_IN[name], tasks, host) for name in ("accessed-bit", "rfc-v1"))
    assert by_bit.dynamic_kib == grown.dynamic_kib


@given(tasks_and_host(running=True))
def test_accessed_bit_gives_whole_stacks_to_all_that_runs(case: tuple[list[Task], Host]) -> None:
    tasks, host = case
    result = estimated(BUILT_IN["accessed-bit"], tasks, host)
    assert result.dynamic_kib == result.base_kib


@pytest.mark.parametrize("name", BELOW_SP)
@given(case=tasks_and_host())
def test_reclaim_never_holds_more_than_grow_only(name: str, case: tuple[list[Task], Host]) -> None:
    tasks, host = case
    pages = host.thread_size_bytes // 4096
    for task in tasks:
        assert 1 <= dynamic(name, task, pages) <= dynamic("rfc-v1", task, pages)


@given(tasks_and_host())
def test_gc_of_sleepers_lies_between_below_sp_and_grow_only(case: tuple[list[Task], Host]) -> None:
    tasks, host = case
    pages = host.thread_size_bytes // 4096
    for task in tasks:
        at_each_switch, at_last, never = (
            dynamic(name, task, pages) for name in ("below-sp", "gc-sleepers", "rfc-v1")
        )
        assert at_each_switch <= at_last <= never
        is_old = 60 <= task.asleep_seconds < ASLEEP_UNKNOWN
        assert at_last == (at_each_switch if is_old else never)


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
@given(case=tasks_and_host(), seed=st.integers())
def test_the_order_of_tasks_never_matters(
    policy: Policy, case: tuple[list[Task], Host], seed: int
) -> None:
    tasks, host = case
    shuffled = random.Random(seed).sample(tasks, len(tasks))
    assert as_figures(policy, tasks, host) == as_figures(policy, shuffled, host)


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: policy.name)
@given(case=tasks_and_host(), cut=st.integers(0, 25))
def test_two_captures_together_are_their_sum(
    policy: Policy, case: tuple[list[Task], Host], cut: int
) -> None:
    tasks, host = case
    whole, first, second = (
        as_figures(policy, part, host) for part in (tasks, tasks[:cut], tasks[cut:])
    )
    for field in fields(Figures):
        if field.name != "reserve_kib":
            total = getattr(first, field.name) + getattr(second, field.name)
            assert getattr(whole, field.name) == total, field.name
    assert whole.reserve_kib == first.reserve_kib  # the CPUs', whoever runs on them


@given(st.lists(st.integers(0, 200), max_size=40), st.lists(st.integers(0, 200), max_size=4))
def test_an_age_counts_by_the_thresholds_it_has_reached(
    ages: list[int], thresholds: list[int]
) -> None:
    stacks = replace(some_stacks([100] * len(ages)), asleep_seconds=ages)
    told = sorted(count_shapes(stacks, thresholds).elements())
    reached = [max((t for t in (0, *thresholds) if t <= age), default=0) for age in ages]
    assert [shape.asleep_seconds for shape in told] == sorted(reached)


# What docs/facts.md says that a machine of C CPUs with stacks of P pages keeps aside.
@pytest.mark.parametrize(
    ("name", "reserve"),
    [
        ("rfc-v1", lambda c, p: c * (p - 1)),
        ("grow-8k", lambda c, p: c * (p - 2)),
        ("grow-12k", lambda c, p: c * (p - 3)),
        ("grow-to-32k", lambda c, p: c * 7),
        ("grow-to-64k", lambda c, p: c * 15),
        ("grow-16k-to-32k", lambda c, p: c * 4),
        ("reserve-doubled", lambda c, p: c * 2 * (p - 1)),
        ("reserve-stash", lambda c, p: c * (p - 1) + 8),
        ("vendor", lambda c, p: c * p + 32),
        ("full-in-kernel", lambda c, p: c * (p - 1)),
        *((name, lambda c, p: 0) for name in ("accessed-bit", "below-sp", "gc-sleepers")),
        *((f"static-{size}k", lambda c, p: 0) for size in (8, 12, 16)),
    ],
)
@given(cpus=CPUS, pages=st.sampled_from([4, 8, 16]))
def test_reserves(name: str, reserve: object, cpus: int, pages: int) -> None:
    assume(callable(reserve))
    assert callable(reserve)
    host = a_host(cpus, pages * 4096)
    result = estimate(BUILT_IN[name], {Shape(1, 1): 1}, host)
    assert result.reserve_kib == reserve(cpus, pages) * 4
    assert result.saving_with_reserve_ratio == pytest.approx(
        1 - (result.dynamic_kib + result.reserve_kib) / result.base_kib
    )


def test_the_reserves_that_reviewers_wrote_down() -> None:
    """From review (docs/facts.md): "C*6, or C*3+8"; "32 global pages, one fault stack per CPU"."""
    one = {Shape(1, 1): 1}
    kib = {name: estimate(BUILT_IN[name], one, a_host(10)).reserve_kib for name in BUILT_IN}
    assert kib["reserve-doubled"] == 10 * 6 * 4
    assert kib["reserve-stash"] == (10 * 3 + 8) * 4
    assert kib["vendor"] == (32 + 10 * 4) * 4


def test_the_naive_implementation_reads_the_table_right() -> None:
    """By hand, a task each: so that both can't be wrong in the same way unnoticed."""
    asleep = Task(12000, 0b101, 5000, Kind.USER, 61)
    awake = Task(12000, 0b101, 0, Kind.USER, 0)
    thread = Task(700, 0b1, 0, Kind.KTHREAD, 0)
    kib = {
        name: [figures(name, [task], a_host()).dynamic_kib for task in (asleep, awake, thread)]
        for name in BUILT_IN
    }
    assert kib == {
        "rfc-v1": [12, 12, 4],
        "static-8k": [8, 8, 8],
        "static-12k": [12, 12, 12],
        "static-16k": [16, 16, 16],
        "grow-8k": [12, 12, 8],
        "grow-12k": [12, 12, 12],
        "grow-to-32k": [12, 12, 4],
        "grow-to-64k": [12, 12, 4],
        "grow-16k-to-32k": [16, 16, 16],
        "reserve-doubled": [12, 12, 4],
        "reserve-stash": [12, 12, 4],
        "accessed-bit": [12, 16, 16],
        "below-sp": [8, 12, 4],
        "gc-sleepers": [8, 12, 4],
        "vendor": [8, 12, 4],
        "full-in-kernel": [16, 4, 16],
    }
    told = tasks_of(stacks_of([asleep, awake]))
    assert told == [asleep, awake]
    assert figures("static-8k", told, a_host()).over_limit == 2
    # the middle page was skipped: one fault for two pages
    assert figures("rfc-v1", [asleep], a_host()).as_tuple()[4:7] == (1, 1, 2)
