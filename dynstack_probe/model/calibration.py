# SPDX-License-Identifier: GPL-2.0-or-later
"""The cost of a few kernel operations on one host: the units in which costs are given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """Nanoseconds on one CPU; each is a median of many.

    fault_ns: a minor fault on private memory: exception, VMA, page allocated, charged and
    cleared, PTE set, where pages come and go and the cache holds them. cold_fault_ns: the same
    on memory that nobody has used of late; None: not measured. bare_fault_ns: a fault that
    maps the zero page, so without the page's part.
    clear_page_ns: the kernel clears a page. syscall_ns: into the kernel and back, the least.
    spread_ratio: interquartile range of fault_ns over its median. runnable: tasks that
    wanted a CPU then, this one included; pinned: whether it stayed on one CPU.
    """

    fault_ns: float
    bare_fault_ns: float
    clear_page_ns: float
    syscall_ns: float
    spread_ratio: float
    runnable: int
    pinned: bool
    cold_fault_ns: float | None = None


@dataclass(frozen=True)
class ExportedCalibration:
    """What the daemon exports: nanoseconds, without spread or bounds."""

    fault_ns: float
    clear_page_ns: float
