# SPDX-License-Identifier: GPL-2.0-or-later
"""What windows at exits may have missed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.model.lifecycle import ExitReads


def test_nothing_read_by_windows_is_nothing_missed() -> None:
    assert ExitReads(hidden=9, unproved=4096).missed_range() == (0, 0)
    assert ExitReads(windowed=63).missed_range() == (0, 63)


def test_none_caught_is_not_none_missed() -> None:
    """The rule of three, a little wider: at most 3.84 of so many checked, at 95%."""
    least, most = ExitReads(windowed=63_000, checked=1000).missed_range()
    assert least == 0
    assert most == pytest.approx(63_000 * 3.8416 / 1003.8416)


@given(st.integers(1, 10**6), st.data())
def test_the_range_holds_what_was_caught(checked: int, data: st.DataObject) -> None:
    caught = data.draw(st.integers(0, checked))
    windowed = data.draw(st.integers(0, 10**8))
    least, most = ExitReads(windowed, checked, caught).missed_range()
    likely = windowed * caught / checked
    slack = 1e-9 * windowed
    assert 0 <= least <= likely + slack
    assert likely - slack <= most <= windowed


def test_nineteen_of_twenty_ranges_hold_the_truth() -> None:
    """Of 64,000 exits one in 300 hides a page, one in 64 is read whole: 200 times over."""
    draw = random.Random(7)
    inside = 0
    for _ in range(200):
        hides = [draw.random() < 1 / 300 for _ in range(64_000)]
        caught, truth = sum(hides[::64]), sum(hides) - sum(hides[::64])
        least, most = ExitReads(63_000, 1000, caught).missed_range()
        inside += least <= truth <= most
    assert inside >= 180
