# SPDX-License-Identifier: GPL-2.0-or-later
"""The allocators once more, straight from the formulas of docs/policies.md.

Deliberately naive: one task at a time, bytes and ifs, and nothing of dynstack_probe.policy.
What the table leaves open is decided as the models say it (policies --explain): an average
wake-up, a stack deeper than its limit, the rest of a stack that each CPU keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from dynstack_probe.model.host import Host
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Stacks

PAGE = 4096
USER_TASK = 0  # of KIND_ in probes/records.h


@dataclass(frozen=True)
class Task:
    """What the scan knows of one task; depth_bytes is 0 for one on a CPU."""

    mark_bytes: int
    touched_pages: int
    depth_bytes: int
    kind: int
    asleep_seconds: int


@dataclass
class Figures:
    """What a policy comes to, all tasks together."""

    stacks: int = 0
    base_kib: int = 0
    dynamic_kib: int = 0
    reserve_kib: int = 0
    faults_min: int = 0
    faults_best: int = 0
    faults_max: int = 0
    over_limit: int = 0
    refill_pages: int = 0

    def as_tuple(self) -> tuple[int, ...]:
        return astuple(self)


def tasks_of(stacks: Stacks) -> list[Task]:
    """Line by line."""
    return [
        Task(*facts)
        for facts in zip(
            stacks.mark_bytes,
            stacks.touched_pages,
            stacks.depth_bytes,
            stacks.kinds,
            stacks.asleep_seconds,
            strict=True,
        )
    ]


def pages_down_to(nbytes: int) -> int:
    """Whole pages that hold so many bytes; a stack has always one."""
    pages = 1
    while pages * PAGE < nbytes:
        pages += 1
    return pages


def figures(policy: str, tasks: Iterable[Task], host: Host) -> Figures:
    """One policy, by its name."""
    total = Figures()
    per_stack = host.thread_size_bytes // PAGE
    for task in tasks:
        total.stacks += 1
        total.base_kib += host.thread_size_bytes // 1024
        total.dynamic_kib += 4 * dynamic_pages(policy, task, per_stack)
        least, likely, most = faults(policy, task, per_stack)
        total.faults_min += least
        total.faults_best += likely
        total.faults_max += most
        if over_limit(policy, task, per_stack):
            total.over_limit += 1
        total.refill_pages += refill_pages(policy, task, per_stack)
    total.reserve_kib = 4 * reserve_pages(policy, host.cpus, per_stack)
    return total


def preallocated(policy: str) -> int:
    """k of the grow-only ones, 0 for others."""
    if policy in ("rfc-v1", "grow-to-32k", "grow-to-64k", "reserve-doubled", "reserve-stash"):
        return 1
    if policy == "grow-8k":
        return 2
    if policy == "grow-12k":
        return 3
    if policy == "grow-16k-to-32k":
        return 4
    return 0


def size_limit(policy: str, per_stack: int) -> int:
    """Pages to which a grow-only stack may grow."""
    if policy in ("grow-to-32k", "grow-16k-to-32k"):
        return 8
    if policy == "grow-to-64k":
        return 16
    return per_stack


def fixed_size(policy: str) -> int:
    """Pages of the static ones, 0 for others."""
    if policy == "static-8k":
        return 2
    if policy == "static-12k":
        return 3
    if policy == "static-16k":
        return 4
    return 0


def dynamic_pages(policy: str, task: Task, per_stack: int) -> int:
    h = pages_down_to(task.mark_bytes)
    running = task.depth_bytes == 0
    if fixed_size(policy):
        return min(fixed_size(policy), per_stack)
    if preallocated(policy):
        pages = preallocated(policy)
        if h > pages:
            pages = h
        if pages > size_limit(policy, per_stack):
            pages = size_limit(policy, per_stack)
        return pages
    if policy == "accessed-bit":
        return per_stack if running else h
    if policy in ("below-sp", "gc-sleepers", "vendor"):
        return min(h, below_sp_keeps(policy, task)) if may_reclaim(policy, task) else h
    if policy == "full-in-kernel":
        if running and task.kind == USER_TASK:
            return 1
        return per_stack
    raise AssertionError(f"{policy} is not in the table")


def may_reclaim(policy: str, task: Task) -> bool:
    """Whether pages below the stack pointer have been taken back by now."""
    if task.depth_bytes == 0:
        return False
    if policy == "below-sp":
        return True
    if task.asleep_seconds == ASLEEP_UNKNOWN:
        return False
    if policy == "gc-sleepers":
        return task.asleep_seconds >= 60
    return task.asleep_seconds >= 1


def below_sp_keeps(policy: str, task: Task) -> int:
    if policy == "vendor":
        # "when slack >= 1 page + 1024 bytes"
        return pages_down_to(task.depth_bytes + 1024)
    return pages_down_to(task.depth_bytes)


def refill_pages(policy: str, task: Task, per_stack: int) -> int:
    """Given to the task when it next runs, if it sleeps long enough for it."""
    h = pages_down_to(task.mark_bytes)
    if policy == "accessed-bit":
        return per_stack - h
    if policy in ("below-sp", "gc-sleepers", "vendor") and task.depth_bytes:
        return h - min(h, below_sp_keeps(policy, task))
    return 0


def faults(policy: str, task: Task, per_stack: int) -> tuple[int, int, int]:
    k = preallocated(policy)
    if not k:
        return 0, 0, 0
    limit = size_limit(policy, per_stack)
    deepest = min(pages_down_to(task.mark_bytes), limit)
    if deepest <= k:
        return 0, 0, 0
    crossings = 0
    for page in range(k, deepest):
        if task.touched_pages & (1 << page):
            crossings += 1
    if crossings == 0:
        crossings = 1  # it did get there
    return 1, crossings, deepest - k


def reserve_pages(policy: str, cpus: int, per_stack: int) -> int:
    pages = 0
    for _ in range(cpus):
        if preallocated(policy):
            rest = size_limit(policy, per_stack) - preallocated(policy)
            if rest < 0:
                rest = 0
            pages += 2 * rest if policy == "reserve-doubled" else rest
        if policy == "vendor":
            pages += per_stack  # one fault stack
        if policy == "full-in-kernel":
            pages += per_stack - 1
    if policy == "reserve-stash":
        pages += 8
    if policy == "vendor":
        pages += 32
    return pages


def over_limit(policy: str, task: Task, per_stack: int) -> bool:
    if fixed_size(policy):
        return task.mark_bytes > fixed_size(policy) * PAGE
    if preallocated(policy):
        return task.mark_bytes > size_limit(policy, per_stack) * PAGE
    return False
