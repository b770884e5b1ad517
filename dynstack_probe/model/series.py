# SPDX-License-Identifier: GPL-2.0-or-later
"""A figure over time: its representative value and its range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dynstack_probe.model.savings import Savings


@dataclass(frozen=True)
class Spread:
    """Least, time-weighted median and most of a figure over time."""

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class Series:
    """What a series of frames, `seconds` long, says of a policy's saving.

    saving: of saving_ratio; stacks: how many there were. newest: at its end.
    """

    frames: int
    seconds: float
    saving: Spread
    stacks: Spread
    newest: Savings


def median_index(times: Sequence[float], values: Sequence[float]) -> int:
    """The index of the median, if each value holds for half the time to either neighbour.

    `times` rise. Of two that are as good the lower value.
    """
    weights = [0.0] * len(times)
    for at, (before, after) in enumerate(pairwise(times)):
        weights[at] += (after - before) / 2
        weights[at + 1] += (after - before) / 2
    if not sum(weights):
        weights = [1.0] * len(times)
    half = sum(weights) / 2 * (1 - 1e-9)
    seen = 0.0
    for at in sorted(range(len(values)), key=lambda at: (values[at], at)):
        seen += weights[at]
        if seen >= half:
            return at
    raise ValueError("no values")


def series_of(times: Sequence[float], savings: Sequence[Savings]) -> tuple[int, Series]:
    """The index of the headline frame, and the range over all."""
    ratios = [one.saving_ratio for one in savings]
    stacks = [float(one.stacks) for one in savings]
    at = median_index(times, ratios)
    middle = stacks[median_index(times, stacks)]
    return at, Series(
        frames=len(savings),
        seconds=times[-1] - times[0],
        saving=Spread(min(ratios), ratios[at], max(ratios)),
        stacks=Spread(min(stacks), middle, max(stacks)),
        newest=savings[-1],
    )
