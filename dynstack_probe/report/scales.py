# SPDX-License-Identifier: GPL-2.0-or-later
"""Axes whose ticks are round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

from dynstack_probe.report.document import Axis

# Of a step: so far may a value lie beyond the last tick.
_BEYOND = 0.03
_TIME_STEPS_SECONDS = (
    *(1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400),
)


def number_axis(
    label: str,
    low: float,
    high: float,
    write: Callable[[float], str] = lambda value: f"{value:g}",
    intervals: int = 4,
) -> Axis:
    """From at most `low` to about `high`, in about that many steps of 1, 2 or 5."""
    step = _round_step((high - low) / intervals) if high > low else 1.0
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - _BEYOND)
    numbers = range(first, max(last, first + 1) + 1)
    # rounded: 3 * 0.1 != 0.3
    return Axis(label, [(value, write(value)) for n in numbers for value in [round(n * step, 9)]])


def _round_step(least: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))


def time_axis(seconds: float) -> Axis:
    """From 0 to about `seconds`, written in the largest unit that its steps have."""
    least = seconds / 6
    days = math.ceil(least / 86400)
    step = next((one for one in _TIME_STEPS_SECONDS if one >= least), days * 86400)
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
        if step % size == 0
    )
    count = max(1, math.ceil(seconds / step - _BEYOND))
    ticks = [(float(n * step), f"{n * step // size}") for n in range(count + 1)]
    return Axis(f"time since the first sample, {unit}", ticks)
