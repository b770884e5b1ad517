# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says of its stacks beside what dynstack-probe says: values only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import Kind, Stacks

# kstack_* in /proc/vmstat by the pages that such a stack has used (kernel/exit.c).
PAGES_OF_BUCKET = {"1k": (1,), "2k": (1,), "4k": (1,), "8k": (2,), "16k": (3, 4)}
_TASK = re.compile(r"task:(.{15}) state:(.) +stack:(\d+) +pid:(\d+) ")


def free_bytes(log: str) -> dict[int, int]:
    """Of sysrq-t, by pid: bytes that were never used, STACK_END_MAGIC included."""
    return {int(pid): int(free) for _, _, free, pid in _TASK.findall(log)}


@dataclass
class Tasks:
    """Task by task: two captures, and sysrq-t in between.

    `same` did not run between the captures, and all three agree to the byte. `grown` ran:
    the kernel's mark lies between those of the captures, as marks only rise. The rest is
    wrong, as (tid, before, sysrq-t, after).
    """

    same: int = 0
    grown: int = 0
    different: list[tuple[int, int, int, int]] = field(default_factory=list)
    outside: list[tuple[int, int, int, int]] = field(default_factory=list)
    # in one of the captures only or not in sysrq-t: it began or ended meanwhile
    unpaired: list[bytes] = field(default_factory=list)
    # sleeping tasks whose mark is above their own saved stack pointer
    zeros_below_sp: int = 0
    sleeping: int = 0
    # the kernel's pages and ours of those that did not run
    pages_same: Counter[int] = field(default_factory=Counter)


def compare_tasks(before: Stacks, log: str, after: Stacks, stack_bytes: int) -> Tasks:
    """All but idle tasks, which sysrq-t leaves out."""
    result = Tasks()
    free = free_bytes(log)
    later = {
        (tid, start): at
        for at, (tid, start) in enumerate(zip(after.tids, after.start_boot_ns, strict=True))
    }
    for at, tid in enumerate(before.tids):
        if before.kinds[at] == Kind.IDLE:
            continue
        depth, mark = before.depth_bytes[at], before.mark_bytes[at]
        if depth:
            result.sleeping += 1
            result.zeros_below_sp += mark < depth
        then = later.get((tid, before.start_boot_ns[at]))
        if then is None or tid not in free:
            result.unpaired.append(before.comms[at])
            continue
        seen = (tid, mark, stack_bytes - free[tid], after.mark_bytes[then])
        asleep = depth and after.depth_bytes[then]
        if asleep and before.switches[at] == after.switches[then]:
            if len(set(seen[1:])) > 1:
                result.different.append(seen)
                continue
            result.same += 1
            result.pages_same[-(-seen[2] // PAGE_BYTES)] += 1
        elif seen[1] <= seen[2] <= seen[3]:
            result.grown += 1
        else:
            result.outside.append(seen)
    return result


@dataclass(frozen=True)
class Exits:
    """Exited tasks by pages in the end: (3, 4) is one of the kernel's sizes."""

    kernel: Mapping[tuple[int, ...], int]
    tool: Mapping[tuple[int, ...], int]

    @property
    def missed(self) -> int:
        """Exits that the kernel found deeper, by its counts of those above one page."""
        return sum(self.kernel[size] - self.tool[size] for size in self.kernel if size != (1,))


def compare_exits(before: Mapping[str, float], after: Mapping[str, float]) -> Exits:
    """Two scrapes of the daemon's metrics, by name and labels."""

    def rise(name: str) -> int:
        return int(after.get(name, 0) - before.get(name, 0))

    kernel: dict[tuple[int, ...], int] = {}
    for bucket, pages in PAGES_OF_BUCKET.items():
        more = rise(f'dynstack_kernel_exited_stacks_total{{up_to="{bucket}"}}')
        kernel[pages] = kernel.get(pages, 0) + more
    tool = {
        pages: sum(rise(f'dynstack_exited_tasks_total{{pages="{page}"}}') for page in pages)
        for pages in kernel
    }
    return Exits(kernel, tool)


def pages_over_one(marks: Sequence[int]) -> float:
    """The mean of pages beyond the first."""
    return sum(-(-mark // PAGE_BYTES) - 1 for mark in marks) / len(marks)
