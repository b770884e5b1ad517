"""A moment of one host: who it is, every stack, and how complete that is."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PAGE_BYTES = 4096  # x86-64 has no other
IA32_CALL = 1 << 32  # SYSCALL_IA32 of probes/records.h


class Kind(enum.IntEnum):
    """Whose stack it is; the values are those of KIND_ in probes/records.h."""

    USER = 0
    USER_WORKER = 1
    KTHREAD = 2
    IDLE = 3

    @property
    def label(self) -> str:
        """The name in all output."""
        return self.name.lower()


@dataclass(frozen=True)
class Host:
    """The machine. `cpus` are those online."""

    cpu_model: str
    cpus: int
    kernel_release: str
    thread_size_bytes: int
    mem_total_kib: int
    page_size_bytes: int = PAGE_BYTES


@dataclass(frozen=True)
class KernelFacts:
    """What a kernel was built and booted with, as far as it bears on stacks.

    `config` holds CONFIG_ options that matter; random_offset says whether each system
    call begins at a random stack offset (None: can't be told).
    """

    command_line: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    random_offset: bool | None = None


@dataclass(frozen=True)
class Stacks:
    """All stacks which the kernel counts and we could read, a column a fact.

    Columns, since a host may have a million: element i of each speaks of stack i.
    mark_bytes is the high-water mark, never 0; touched_pages and resident_pages are
    bitmaps whose bit p stands for page p, counted from the top, where a stack begins;
    depth_bytes is the depth at the saved stack pointer, 0 for a task on a CPU;
    asleep_seconds since it last was on one. A capture holds no addresses: they are
    the host's own, and tell where its kernel lies. Nor does it hold syscalls: the number
    of the one in which a user task sleeps, with IA32_CALL added to a 32-bit one's, -1 for
    none or not known.
    """

    mark_bytes: Sequence[int]
    touched_pages: Sequence[int]
    resident_pages: Sequence[int]
    depth_bytes: Sequence[int]
    kinds: Sequence[int]
    comms: Sequence[bytes]
    tids: Sequence[int]
    tgids: Sequence[int]
    cgroup_ids: Sequence[int]
    switches: Sequence[int]
    start_boot_ns: Sequence[int]
    asleep_seconds: Sequence[int]
    addresses: Sequence[int] = ()
    syscalls: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.mark_bytes)

    def mark_pages(self) -> Iterator[int]:
        """Pages down to each high-water mark: at least 1."""
        return (-(-mark // PAGE_BYTES) or 1 for mark in self.mark_bytes)

    def resident_kib(self) -> int:
        """What is mapped now, KiB: all of it, unless stacks already are dynamic."""
        return sum(bits.bit_count() for bits in self.resident_pages) * PAGE_BYTES // 1024


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
        """Stacks that exist and were not read.

        Those known to be unreadable, or more where the kernel counts more. Tasks that
        came or went during the scan make it a few too high.
        """
        if self.kernel_stacks is None:
            return self.unreadable
        return max(self.unreadable, self.kernel_stacks - self.read)


@dataclass(frozen=True)
class Cost:
    """What the measurement took, and what bcc printed meanwhile."""

    child_start_seconds: float
    compile_seconds: float
    load_seconds: float
    scan_seconds: float
    child_peak_rss_kib: int
    native_output: str = ""


@dataclass(frozen=True)
class Snapshot:
    """One scan. caveats are sentences that a reader of its figures must know."""

    host: Host
    stacks: Stacks
    coverage: Coverage
    cost: Cost
    caveats: tuple[str, ...] = ()
    cgroup_paths: Mapping[int, str] = field(default_factory=dict)
    grown_kib: int | None = None  # nr_dynamic_stacks_faults, where the kernel has it
    kernel: KernelFacts = KernelFacts()
    taken_at: float = 0.0  # Unix time
    boot_ns: int = 0  # CLOCK_BOOTTIME then
    context_switches: int | None = None  # of the whole host since boot

    @property
    def base_kib(self) -> int:
        """What the stacks would hold at full size."""
        return len(self.stacks) * self.host.thread_size_bytes // 1024

    @property
    def is_dynamic(self) -> bool:
        """Whether stacks on this kernel already are smaller than THREAD_SIZE."""
        return self.stacks.resident_kib() < self.base_kib
