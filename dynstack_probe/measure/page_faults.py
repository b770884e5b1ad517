"""Page faults of this host, by CPU mode: perf's software counters, or the next best.

perf counts a fault in do_user_addr_fault() (arch/x86/mm/fault.c), that is on user memory,
in whichever mode the CPU was. Not counted: faults that the kernel refuses to handle since
page faults are disabled, as in copy_from_user_inatomic(). Debian's kernels with
perf_event_paranoid=3 open no counter without CAP_SYS_ADMIN, which is far more than
counting deserves: there a program counts kernel mode alone, and /proc/vmstat tells the sum.
"""

from __future__ import annotations

import mmap
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel import host, perf
from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import LoadedProbe, Loader, probes_dir
from dynstack_probe.measure.records import read_layout
from dynstack_probe.model.interval import PageFaults

# arch/x86/include/asm/trace/exceptions.h
KERNEL_MODE_TRACEPOINT = "page_fault_kernel"


class PageFaultCounter(Protocol):
    """Counts from when it was made. No method needs a privilege."""

    method: str  # how, as half a sentence

    def read(self) -> PageFaults:
        """The faults so far, all CPUs together; never less than before."""

    def due_at(self) -> float | None:
        """When to call turn(), in time.monotonic()'s seconds; None: never."""

    def turn(self) -> None:
        """Do what is due."""

    def close(self) -> None:
        """Stop counting."""


@dataclass
class DutyCycle:
    """When to count: for on_seconds, about every period_seconds.

    What is counted stands for all the time since it was counted last. The pauses are random,
    so that a load which repeats is not always met in the same phase: then each phase is as
    likely after a long pause as after a short one, and the sum is unbiased.
    """

    on_seconds: float = 1.0
    period_seconds: float = 15.0
    uniform: Callable[[float, float], float] = field(default=random.uniform)

    def begin(self, now: float) -> None:
        """A pause, and then the time to count."""
        self._began = now
        self.on_at = now + self.uniform(0.5, 1.5) * (self.period_seconds - self.on_seconds)

    def end(self, now: float) -> float:
        """The seconds for which what was counted stands; the next pause begins."""
        length = now - self._began
        self.begin(now)
        return length


class PerfPageFaults:
    """By perf's software event PAGE_FAULTS, all of the time or by a duty cycle.

    CPUs that come online later are not counted.
    """

    def __init__(self, duty: DutyCycle | None = None) -> None:
        """Open two counters a CPU. Raises OSError if the kernel refuses."""
        self._duty = duty
        self._cpus: list[perf.ModeCounters] = []
        try:
            for cpu in host.online_cpu_numbers():
                self._cpus.append(perf.ModeCounters(cpu, perf.COUNT_SW_PAGE_FAULTS))
        except OSError:
            self.close()
            raise
        self._before = [counters.read() for counters in self._cpus]
        self._counted = (0.0, 0.0)
        self.is_on = False
        if duty is None:
            self.method = "counted by perf all of the time"
            self._switch(on=True)
        else:
            self.method = (
                f"estimated: counted by perf for {duty.on_seconds:g} s about every"
                f" {duty.period_seconds:g} s, and scaled by that"
            )
            duty.begin(time.monotonic())

    def read(self) -> PageFaults:
        """The faults so far."""
        if self._duty is None:
            self._collect(None)
        user, kernel = self._counted
        return PageFaults(round(user), round(kernel))

    def due_at(self) -> float | None:
        """When to switch on or off."""
        if self._duty is None:
            return None
        return self._duty.on_at + (self._duty.on_seconds if self.is_on else 0.0)

    def turn(self) -> None:
        """Switch on; or off, and count what that time stands for."""
        if self._duty is None:
            return
        self._switch(on=not self.is_on)
        if not self.is_on:
            self._collect(self._duty.end(time.monotonic()))

    def close(self) -> None:
        """Close the counters."""
        for counters in self._cpus:
            counters.close()
        self._cpus = []

    def _switch(self, *, on: bool) -> None:
        self.is_on = on
        for counters in self._cpus:
            counters.switch(on=on)

    def _collect(self, stand_for_seconds: float | None) -> None:
        """Add what was counted since the last time, scaled CPU by CPU."""
        user, kernel = self._counted
        for at, counters in enumerate(self._cpus):
            now, before = counters.read(), self._before[at]
            self._before[at] = now
            on_seconds = (now[0] - before[0]) / 1e9
            scale = 1.0
            if stand_for_seconds is not None:
                # an offline CPU's counter is not on
                scale = stand_for_seconds / on_seconds if on_seconds else 0.0
            user += (now[1] - before[1]) * scale
            kernel += (now[2] - before[2]) * scale
        self._counted = user, kernel


class TracedPageFaults:
    """Kernel mode by probes/kernel_page_faults.c, user mode as the rest of all page faults.

    That rest is too high by pages which the kernel faulted in itself without an exception,
    as for O_DIRECT (get_user_pages()).
    """

    method = (
        "kernel mode counted by a program, user mode the rest of /proc/vmstat's pgfault:"
        " this kernel lets us have no perf counter"
    )

    def __init__(self, probe: LoadedProbe, duty: DutyCycle | None = None) -> None:
        """Takes the probe over. With a duty cycle turn() reads it, else read() does."""
        self._probe = probe
        self._period_seconds = duty.period_seconds if duty else None
        self._due_at = time.monotonic()
        self._layout = read_layout(probes_dir() / "records.h", "kernel_page_fault_counters")
        self._length = self._layout.size_bytes * host.possible_cpus()
        pages = -(-self._length // mmap.PAGESIZE)
        fd = probe.maps["kernel_page_faults"]
        self._memory = mmap.mmap(fd, pages * mmap.PAGESIZE, prot=mmap.PROT_READ)
        self._features = Features()
        self._began = self._all()
        self._counted = PageFaults(0, 0)

    def read(self) -> PageFaults:
        """The faults so far."""
        if self._period_seconds is None:
            self._collect()
        return self._counted

    def due_at(self) -> float | None:
        """When to look again."""
        return None if self._period_seconds is None else self._due_at

    def turn(self) -> None:
        """Look again."""
        self._collect()
        self._due_at = time.monotonic() + (self._period_seconds or 0.0)

    def close(self) -> None:
        """Take the program off."""
        self._memory.close()
        self._probe.close()

    def _collect(self) -> None:
        with memoryview(self._memory) as view:
            raw = bytes(view[: self._length])
        kernel = sum(self._layout.column(raw, "faults"))
        # The two are not read at the same moment.
        user = max(self._counted.user, self._all() - self._began - kernel)
        self._counted = PageFaults(user, kernel)

    def _all(self) -> int:
        return self._features.vmstat().get("pgfault", 0)


def count_page_faults(duty: DutyCycle | None = None) -> PageFaultCounter:
    """Count from here on, in the way that costs least.

    Raises ProbeError where neither way works.
    """
    try:
        return PerfPageFaults(duty)
    except OSError as refused:
        try:
            with Loader() as loader:
                probe = loader.load(
                    probes_dir() / "kernel_page_faults.c",
                    {"POSSIBLE_CPUS": host.possible_cpus()},
                    [],
                    maps=["kernel_page_faults"],
                    tracepoints={KERNEL_MODE_TRACEPOINT: "on_kernel_fault"},
                )
        except ProbeError as error:
            raise ProbeError(
                "page faults can't be counted: perf_event_open says"
                f" {refused.strerror}, and {error}"
            ) from error
        return TracedPageFaults(probe, duty)
