"""Contexts from preempt counts made by hand, as include/linux/preempt.h lays them out."""

from __future__ import annotations

import pytest

from dynstack_probe.measure.contexts import UNKNOWN_COUNT, Context, context_of

SAMPLING = 0x10000  # the timer's interrupt


@pytest.mark.parametrize(
    ("more", "on", "expected"),
    [
        (0, True, Context.PREEMPTIBLE),
        (1, True, Context.PREEMPTION_OFF),
        (0x200, True, Context.PREEMPTION_OFF),  # local_bh_disable()
        (0x100, True, Context.SOFTIRQ),
        (0x301, True, Context.SOFTIRQ),
        (0x10000, False, Context.HARDIRQ),
        (0x10100, False, Context.HARDIRQ),
        (0x110000, False, Context.NMI),
        (0, False, Context.INTERRUPTS_OFF),
        (1, False, Context.INTERRUPTS_OFF),
        (-1, True, Context.UNKNOWN),
    ],
)
def test_contexts(more: int, on: bool, expected: Context) -> None:
    assert context_of(SAMPLING + more, SAMPLING, interrupts_on=on) is expected


def test_what_can_not_be_told() -> None:
    assert context_of(UNKNOWN_COUNT, SAMPLING, interrupts_on=True) is Context.UNKNOWN
    assert context_of(SAMPLING, None, interrupts_on=True) is Context.UNKNOWN
    # the saved flags suffice for this
    assert context_of(SAMPLING, None, interrupts_on=False) is Context.INTERRUPTS_OFF
