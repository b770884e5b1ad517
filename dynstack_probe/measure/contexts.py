# SPDX-License-Identifier: GPL-2.0-or-later
"""The context that a sample interrupted: from the CPU's preempt count and the saved flags.

The count that a sample reads includes the sampling itself: an interrupt, and what perf and BPF
disable. In samples of user mode it is nothing else, so that baseline is learned from them and
subtracted.
"""

from __future__ import annotations

import enum

# include/linux/preempt.h
_PREEMPT, _SOFTIRQ, _HARDIRQ, _NMI = 0xFF, 0xFF00, 0xF0000, 0xF00000
_SERVING_SOFTIRQ = 0x100  # an odd softirq count; local_bh_disable() adds 2
UNKNOWN_COUNT = 0xFFFFFFFF


class Context(enum.StrEnum):
    """Contexts, in order of precedence."""

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
    """baseline: the count in samples of user mode, None if unknown.

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
