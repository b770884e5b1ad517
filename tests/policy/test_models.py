# SPDX-License-Identifier: GPL-2.0-or-later
"""The policies against the RFC's figures, and laws that any figures must obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.analysis.estimate import estimate, group_by
from dynstack_probe.model.shapes import Shape, ShapeCounts, count_shapes
from dynstack_probe.output.rfc_table import QUOTED, QuotedRow
from dynstack_probe.policy import BUILT_IN, Policy
from dynstack_probe.policy.fixed_size import FixedSize
from dynstack_probe.policy.grow_only import GrowOnly
from dynstack_probe.text import percent
from tests.factory import a_host, some_stacks

RFC_V1 = BUILT_IN["rfc-v1"]
POLICIES = [*BUILT_IN.values(), GrowOnly("two", "", 2), GrowOnly("all", "", 4)]


def shapes_with(stacks: int, grown_pages: int) -> ShapeCounts:
    """That many stacks, of which some have grown by one page each."""
    return ShapeCounts({Shape(1, 0b1): stacks - grown_pages, Shape(2, 0b11): grown_pages})


@pytest.mark.parametrize("row", QUOTED, ids=lambda row: f"{row.cpu}-{row.cores}")
def test_rfc_table_row(row: QuotedRow) -> None:
    grown = row.dynamic_kib // 4 - row.stacks
    result = estimate(RFC_V1, shapes_with(row.stacks, grown), a_host(row.cores))
    assert result.base_kib == row.base_kib
    assert result.dynamic_kib == row.dynamic_kib
    assert percent(result.saving_ratio) == row.saving


# docs/facts.md: "with it the savings are 69.8, 72.1, 70.0, 69.5, 72.8%"
@pytest.mark.parametrize(
    ("row", "expected"), list(zip(QUOTED, (69.8, 72.1, 70.0, 69.5, 72.8), strict=True))
)
def test_rfc_table_with_the_reserve_counted_in(row: QuotedRow, expected: float) -> None:
    grown = row.dynamic_kib // 4 - row.stacks
    result = estimate(RFC_V1, shapes_with(row.stacks, grown), a_host(row.cores))
    assert result.reserve_kib == row.cores * 3 * 4
    assert round(result.saving_with_reserve_ratio * 100, 1) == expected


def test_worked_example_of_the_series() -> None:
    """nr_kernel_stack 18684, nr_dynamic_stacks_faults 156: 4632 tasks, saves 55,428 KiB."""
    stacks = (18684 - 156) // 4
    result = estimate(RFC_V1, shapes_with(stacks, 156 // 4), a_host())
    assert (result.stacks, result.base_kib, result.dynamic_kib) == (4632, 74112, 18684)
    assert result.base_kib - result.dynamic_kib == 55428


# As a kernel with the feature counted: 5,000 bytes are 2 pages and a fault, and so on.
@pytest.mark.parametrize(
    ("mark", "pages", "faults"),
    [(1, 1, 0), (4096, 1, 0), (5000, 2, 1), (9000, 3, 2), (13000, 4, 3)],
)
def test_pages_and_faults_of_a_mark(mark: int, pages: int, faults: int) -> None:
    result = estimate(RFC_V1, count_shapes(some_stacks([mark])), a_host())
    assert result.dynamic_kib == pages * 4
    assert result.faults.best == faults
    assert result.faults.max == pages - 1
    assert result.faults.min == min(faults, 1)


def test_an_untouched_page_in_the_middle_was_skipped_by_a_fault() -> None:
    stacks = some_stacks([13000], touched=[0b1001])
    assert estimate(RFC_V1, count_shapes(stacks), a_host()).faults == (1, 1, 3)


def test_a_fixed_size_names_its_overflows() -> None:
    shapes = count_shapes(some_stacks([4000, 8192, 8193, 12289]))
    assert estimate(BUILT_IN["static-8k"], shapes, a_host()).over_limit_tasks == 2
    assert estimate(BUILT_IN["static-12k"], shapes, a_host()).over_limit_tasks == 1
    assert estimate(RFC_V1, shapes, a_host()).over_limit_tasks == 0


def test_a_larger_thread_size_leaves_more_to_save() -> None:
    """KASAN doubles THREAD_SIZE: P is the host's, not 4."""
    result = estimate(RFC_V1, count_shapes(some_stacks([100])), a_host(2, 32768))
    assert (result.base_kib, result.dynamic_kib, result.reserve_kib) == (32, 4, 2 * 7 * 4)


def test_no_stacks_save_nothing() -> None:
    result = estimate(RFC_V1, ShapeCounts(), a_host())
    assert (result.saving_ratio, result.saving_with_reserve_ratio) == (0, 0)


MARKS = st.lists(st.integers(8, 16384), min_size=1, max_size=60)


def smallest_pages(policy: Policy) -> int:
    if isinstance(policy, FixedSize):
        return min(policy.size_pages, 4)
    return policy.preallocated_pages if isinstance(policy, GrowOnly) else 1


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(marks=MARKS)
def test_saving_never_exceeds_what_is_not_preallocated(policy: Policy, marks: list[int]) -> None:
    result = estimate(policy, count_shapes(some_stacks(marks)), a_host())
    assert 0 <= result.saving_ratio <= (4 - smallest_pages(policy)) / 4
    assert result.saving_with_reserve_ratio <= result.saving_ratio


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(marks=MARKS, data=st.data())
def test_deepening_a_stack_never_raises_the_saving(
    policy: Policy, marks: list[int], data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, len(marks) - 1))
    deeper = list(marks)
    deeper[which] = data.draw(st.integers(marks[which], 16384))
    before = estimate(policy, count_shapes(some_stacks(marks)), a_host())
    after = estimate(policy, count_shapes(some_stacks(deeper)), a_host())
    assert after.saving_ratio <= before.saving_ratio
    assert after.faults.max >= before.faults.max
    assert after.over_limit_tasks >= before.over_limit_tasks


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(tasks=st.lists(st.tuples(st.integers(8, 16384), st.sampled_from("abc")), min_size=1))
def test_groups_sum_to_the_whole(policy: Policy, tasks: list[tuple[int, str]]) -> None:
    stacks = some_stacks([mark for mark, _ in tasks])
    whole = estimate(policy, count_shapes(stacks), a_host())
    groups = group_by(policy, stacks, [name for _, name in tasks], a_host())
    assert sum(group.stacks for group in groups) == whole.stacks
    assert sum(group.base_kib for group in groups) == whole.base_kib
    assert sum(group.dynamic_kib for group in groups) == whole.dynamic_kib
    assert [g.base_kib for g in groups] == sorted((g.base_kib for g in groups), reverse=True)


@given(marks=MARKS, touched=st.data())
def test_faults_are_a_range(marks: list[int], touched: st.DataObject) -> None:
    """However the pages in between look: one a deep stack at least, one a page at most."""
    bits = []
    for mark in marks:
        pages = -(-mark // 4096)
        middle = touched.draw(st.integers(0, (1 << pages) - 1))
        bits.append(middle | 1 | 1 << (pages - 1))
    result = estimate(RFC_V1, count_shapes(some_stacks(marks, touched=bits)), a_host())
    deep = sum(1 for mark in marks if mark > 4096)
    grown = result.dynamic_kib // 4 - len(marks)
    assert result.faults.min == deep
    assert result.faults.max == grown
    assert result.faults.min <= result.faults.best <= result.faults.max
