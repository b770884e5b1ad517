# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel stacks as read by one scan, one column per field."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynstack_probe.model.host import PAGE_BYTES

IA32_CALL = 1 << 32  # SYSCALL_IA32 of probes/records.h
ASLEEP_UNKNOWN = (1 << 32) - 1  # in asleep_seconds: the kernel can't tell


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


def kinds_of(kinds: Sequence[int]) -> dict[Kind, int]:
    """The number of each kind, zeros included."""
    counts = Counter(kinds)
    return {kind: counts[kind] for kind in Kind}


@dataclass(frozen=True)
class Stacks:
    """All stacks that the kernel counts and we could read, one column per field.

    Columns, since a host may have a million: element i of each speaks of stack i.
    mark_bytes is the high-water mark, never 0; touched_pages and resident_pages are
    bitmaps whose bit p stands for page p, counted from the top, where a stack begins;
    depth_bytes is the depth at the saved stack pointer, 0 for a task on a CPU;
    asleep_seconds since it last was on one, never more than the task's age, or
    ASLEEP_UNKNOWN: the kernel forgets when a task last ran as it moves it to another CPU.
    A capture holds no addresses: they are
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

    def asleep_unknown(self) -> int:
        """Tasks whose sleep time is unknown."""
        return sum(1 for seconds in self.asleep_seconds if seconds == ASLEEP_UNKNOWN)

    def resident_kib(self) -> int:
        """KiB mapped now: all of it, unless stacks are already dynamic."""
        return sum(bits.bit_count() for bits in self.resident_pages) * PAGE_BYTES // 1024
