# SPDX-License-Identifier: GPL-2.0-or-later
"""One host at one moment: its identity, every stack, and how complete the scan was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import Host, KernelFacts
from dynstack_probe.model.interval import PageFaults
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.stacks import Stacks


@dataclass(frozen=True)
class Coverage:
    """How complete a scan was, in stacks.

    kernel_stacks is the kernel's own count right after the scan (None if it can't be
    read), exact if `refreshed`, else off by up to some dozens. unreadable were found
    but could not be read. boot_idle_mark_bytes is the mark of the boot CPU's static
    stack, which is no part of any total (None if it was not read).
    """

    read: int
    unreadable: int
    kernel_stacks: int | None
    kernel_stack_kib: int | None
    refreshed: bool
    erased: int = 0
    boot_idle_mark_bytes: int | None = None

    @property
    def missed(self) -> int:
        """Stacks that exist but were not read.

        Those known to be unreadable, or more where the kernel counts more. Tasks that
        came or went during the scan make it a few too high.
        """
        if self.kernel_stacks is None:
            return self.unreadable
        return max(self.unreadable, self.kernel_stacks - self.read)


@dataclass(frozen=True)
class Cost:
    """What the measurement cost, and what bcc printed meanwhile."""

    child_start_seconds: float
    compile_seconds: float
    load_seconds: float
    scan_seconds: float
    child_peak_rss_kib: int
    native_output: str = ""


@dataclass(frozen=True)
class Frame:
    """What one scan found, and the counts when it began.

    caveats are sentences that a reader of its figures must know. lifecycle counts from
    the series' first frame on, as page_faults are; None of a single frame, which counts
    nothing. headroom is of the time since the frame before; the first frame of a series has
    the calibration.
    """

    host: Host
    stacks: Stacks
    coverage: Coverage
    cost: Cost
    caveats: tuple[str, ...] = ()
    cgroup_paths: Mapping[int, str] = field(default_factory=dict)
    grown_kib: int | None = None  # nr_dynamic_stacks_faults, where the kernel has it
    kernel: KernelFacts = field(default_factory=KernelFacts)
    taken_at: float = 0.0  # Unix time
    boot_ns: int = 0  # CLOCK_BOOTTIME then
    context_switches: int | None = None  # of the whole host since boot
    lifecycle: Lifecycle | None = None
    page_faults: PageFaults | None = None
    headroom: Headroom | None = None
    calibration: Calibration | None = None

    @property
    def base_kib(self) -> int:
        """Memory of the stacks at full size."""
        return len(self.stacks) * self.host.thread_size_bytes // 1024

    @property
    def is_dynamic(self) -> bool:
        """Whether stacks on this kernel are already smaller than THREAD_SIZE."""
        return self.stacks.resident_kib() < self.base_kib
