# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, numbers and durations as they are written everywhere."""

from __future__ import annotations

import pytest

from dynstack_probe.text import (
    clock,
    duration,
    names_in_words,
    short_duration,
    small_percent,
    spreadsheet_safe,
)


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x"])
def test_formulas_are_quoted(cell: str) -> None:
    assert spreadsheet_safe(cell) == "'" + cell
    assert spreadsheet_safe("x" + cell) == "x" + cell


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(3.12e-5, "0.0031%"), (0.5, "50.00%"), (-1e-6, "-0.00010%"), (1.6e-7, "0.000016%")],
)
def test_small_percent(ratio: float, shown: str) -> None:
    assert small_percent(ratio) == shown


def test_durations() -> None:
    seconds = (0.0, 0.0005, 3.0, 4.53, 119.0, 130.0, 7300.0, 200_000.0)
    assert [duration(s) for s in seconds] == [
        *("0 s", "0.5 ms", "3 s", "4.53 s", "119 s", "2 min", "2 h", "2 d")
    ]
    assert [short_duration(s) for s in (0.4, 119, 120, 7199, 7200, 10**6)] == [
        *("0s", "119s", "2m", "119m", "2h", "11d")
    ]
    assert [duration(170), short_duration(170)] == ["2 min", "2m"]
    assert [clock(s) for s in (0, 150, 3750)] == ["0:00", "2:30", "1:02:30"]


def test_names_in_words() -> None:
    counts = [(b"a", 3), (b"\x1b[2J", 2), (b"c", 1)]
    assert names_in_words(counts, 3) == "a 3, \\x1b[2J 2, c 1"
    assert names_in_words(counts, 1) == "a 3, 2 more names"
