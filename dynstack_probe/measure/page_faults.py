# SPDX-License-Identifier: GPL-2.0-or-later
"""Page faults of this host on user memory, by CPU mode.

Kernel mode is counted by probes/kernel_page_faults.c, user mode is the rest of pgfault in
/proc/vmstat: most page faults occur in user mode, and so cost nothing extra. perf's software
counters would count both, but cost each page fault 1.5 to 3% even while they are disabled
(docs/cost-and-safety.md), and Debian's perf_event_paranoid=3 denies them to CAP_PERFMON.

User mode includes, and so is too high by, pages that the kernel faults in without an exception, as
for O_DIRECT (get_user_pages()). Kernel mode counts exceptions, which are what costs: also those
taken with page faults disabled, which are not in pgfault, so user mode is too low by as many.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel import bpf
from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import LoadedProbe, Loader, probes_dir
from dynstack_probe.measure.records import MappedRecords
from dynstack_probe.model.interval import PageFaults

# arch/x86/include/asm/trace/exceptions.h
TRACEPOINT, PROGRAM = "page_fault_kernel", "on_kernel_fault"


@dataclass
class DutyCycle:
    """When to count: for on_seconds, about every period_seconds.

    A count is scaled to all the time since the last one. The pauses are random, so that a periodic
    load is not always sampled in the same phase: each phase is then as likely after a long pause as
    after a short one, and the sum is unbiased.
    """

    on_seconds: float = 1.0
    period_seconds: float = 15.0
    uniform: Callable[[float, float], float] = field(default=random.uniform)

    def begin(self, now: float) -> None:
        """Begin a pause, after which it is time to count."""
        self._began = now
        self.on_at = now + self.uniform(0.5, 1.5) * (self.period_seconds - self.on_seconds)

    def end(self, now: float) -> float:
        """Begin the next pause; returns the seconds that the count stands for."""
        length = now - self._began
        self.begin(now)
        return length


class PageFaultCounter:
    """Counts from its creation; no method needs a privilege since Linux 5.19.

    Without a duty cycle read() is exact and current. With one, the owner calls turn() at due_at(),
    and read() does not change in between.
    """

    def __init__(self, probe: LoadedProbe, duty: DutyCycle | None = None) -> None:
        """Take over the loaded probe. Raises OSError if it can't be attached."""
        self._probe, self._duty = probe, duty
        counters = probe.maps["kernel_page_faults"]
        self._counters = MappedRecords(counters, "kernel_page_fault_counters", of_each_cpu=True)
        self._features = Features()
        self._all_began = self._all()
        self._kernel = 0.0
        self._counted = PageFaults(0, 0)
        self._link: int | None = None
        if duty is None:
            self._switch_on()
        else:
            duty.begin(time.monotonic())

    @property
    def method(self) -> str:
        """How it counts, for readers of its figures."""
        if self._duty is None:
            return "kernel mode counted, user mode the remainder of pgfault"
        return (
            f"kernel mode estimated (counted for {self._duty.on_seconds:g} s about every"
            f" {self._duty.period_seconds:g} s, and scaled), user mode the remainder of pgfault"
        )

    @property
    def is_on(self) -> bool:
        """Whether page faults of kernel mode are being counted now."""
        return self._link is not None

    def read(self) -> PageFaults:
        """The faults so far; never fewer than before."""
        if self._duty is None:
            self._kernel = float(self._read_map())
            self._collect()
        return self._counted

    def due_at(self) -> float | None:
        """When to call turn(), in time.monotonic()'s seconds; None: never."""
        if self._duty is None:
            return None
        return self._duty.on_at + (self._duty.on_seconds if self.is_on else 0.0)

    def turn(self) -> None:
        """Switch on; or off, and add the scaled count. Raises OSError."""
        if self._duty is None:
            return
        if not self.is_on:
            self._switch_on()
            return
        on_seconds = time.monotonic() - self._on_since
        counted = self._read_map() - self._on_from
        self._switch_off()
        self._kernel += counted * self._duty.end(time.monotonic()) / on_seconds
        self._collect()

    def close(self) -> None:
        self._switch_off()
        self._counters.close()
        self._probe.close()

    def _switch_on(self) -> None:
        self._link = bpf.attach_raw_tracepoint(self._probe.programs[PROGRAM], TRACEPOINT)
        self._on_from, self._on_since = self._read_map(), time.monotonic()

    def _switch_off(self) -> None:
        if self._link is not None:
            os.close(self._link)
            self._link = None

    def _read_map(self) -> int:
        [faults] = self._counters.sums(["faults"])
        return faults

    def _collect(self) -> None:
        kernel = round(self._kernel)
        # An estimate, and not read at the same moment.
        user = max(self._counted.user, self._all() - self._all_began - kernel)
        self._counted = PageFaults(user, kernel)

    def _all(self) -> int:
        return self._features.vmstat().get("pgfault", 0)


def count_page_faults(loader: Loader, duty: DutyCycle | None = None) -> PageFaultCounter:
    """Count from here on. Errors as Loader.load(); ProbeError if it can't be attached."""
    probe = loader.load(
        probes_dir() / "kernel_page_faults.c",
        {},
        [],
        maps=["kernel_page_faults"],
        programs=[PROGRAM],
    )
    try:
        return PageFaultCounter(probe, duty)
    except OSError as error:
        probe.close()
        raise ProbeError(f"page faults can't be counted: {TRACEPOINT}: {error}") from error
