# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU was doing when it was sampled: its preempt count and the saved flags.

The count as a sample finds it holds the sampling itself: an interrupt, and what perf and
BPF disable. That part is the whole of it where user mode was interrupted, so it is learnt
from such samples and taken off.
"""

from __future__ import annotations

import enum

# include/linux/preempt.h
_PREEMPT, _SOFTIRQ, _HARDIRQ, _NMI = 0xFF, 0xFF00, 0xF0000, 0xF00000
_SERVING_SOFTIRQ = 0x100  # an odd softirq count; local_bh_disable() adds 2
UNKNOWN_COUNT = 0xFFFFFFFF


class Context(enum.StrEnum):
    """The first of these that holds."""

    NMI = "NMI"
    HARDIRQ = "hardirq"
    SOFTIRQ = "softirq"
    INTERRUPTS_OFF = "interrupts off"
    PREEMPTION_OFF = "preemption off"
    PREEMPTIBLE = "preemptible"
    UNKNOWN = "can't be told"


def context_of(
    preempt_count: int,
    baseline: int | None,
    *,
    interrupts_on: bool,
    counts_preemption: bool = True,
) -> Context:
    """baseline: the count while user mode is sampled, None if that is not known.

    counts_preemption: False on a kernel without CONFIG_PREEMPT_COUNT, where the count holds
    softirq, hardirq and NMI only.
    """
    if preempt_count == UNKNOWN_COUNT or baseline is None:
        return Context.UNKNOWN if interrupts_on else Context.INTERRUPTS_OFF
    count = preempt_count - baseline
    if count < 0:
        return Context.UNKNOWN
    if count & _NMI:
        return Context.NMI
    if count & _HARDIRQ:
        return Context.HARDIRQ
    if count & _SERVING_SOFTIRQ:
        return Context.SOFTIRQ
    if not interrupts_on:
        return Context.INTERRUPTS_OFF
    if count & (_PREEMPT | _SOFTIRQ):
        return Context.PREEMPTION_OFF
    return Context.PREEMPTIBLE if counts_preemption else Context.UNKNOWN
