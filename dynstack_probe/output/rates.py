# SPDX-License-Identifier: GPL-2.0-or-later
"""Format rates with no more digits than their error justifies."""

from __future__ import annotations

import math

from dynstack_probe.analysis.timeline import Rate


def per_second(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def rate_in_words(rate: Rate) -> str:
    """`12.3f` faults or `9.8r` refills a second; `>=120r` where only some were seen."""
    if rate.coverage >= 1:
        return f"{per_second(rate.events)}{rate.what[0]}"
    return f">={at_least(rate.events)}{rate.what[0]}"


def at_least(value: float) -> str:
    """A lower bound with two digits, rounded down."""
    if value <= 0:
        return "0"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step + 1e-9) * step:.{max(0, round(-math.log10(step)))}f}"


# A millisecond: no fault is that slow, so larger break-evens are not told apart.
NO_FAULT_NS = 1e6


def nanoseconds(value: float) -> str:
    """What one fault may take."""
    if value > NO_FAULT_NS:
        return "over 1 ms"
    return f"{value / 1e3:.3g} us" if value >= 1e4 else f"{value:.0f} ns"
