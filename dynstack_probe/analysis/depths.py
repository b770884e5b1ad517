# SPDX-License-Identifier: GPL-2.0-or-later
"""Depth: how deep ever and now, and what a few bytes more or less would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynstack_probe.model.host import PAGE_BYTES, PAGE_KIB
from dynstack_probe.model.savings import saving_ratio
from dynstack_probe.model.stacks import Kind, Stacks

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
SHIFTS_BYTES = tuple(range(-2048, 2049, 128))

# asm/entry-common.h: 10 bits of the time-stamp counter, of which the compiler's stack
# alignment leaves multiples of 8.
RANDOM_OFFSETS_BYTES = range(0, 1024, 8)


@dataclass(frozen=True)
class Depths:
    """Of one role's stacks, bytes by quantile (nearest rank).

    `ever` are the high-water marks, `now` the depths at the saved stack pointers of those
    `sleeping`, {} if none sleeps.
    """

    role: str
    stacks: int
    sleeping: int
    ever: Mapping[str, int]
    now: Mapping[str, int]


def depths_by_role(stacks: Stacks, roles: Sequence[str]) -> list[Depths]:
    """Each role's, largest first, and all together as `all`."""
    ever: dict[str, Counter[int]] = {}
    now: dict[str, Counter[int]] = {}
    for (role, mark), count in Counter(zip(roles, stacks.mark_bytes, strict=True)).items():
        ever.setdefault(role, Counter())[mark] += count
    for (role, depth), count in Counter(zip(roles, stacks.depth_bytes, strict=True)).items():
        now.setdefault(role, Counter())[depth] += count
    order = sorted(ever, key=lambda role: (-ever[role].total(), role))
    rows = [_depths(role, ever[role], now[role]) for role in order]
    everyone = _depths("all", sum(ever.values(), Counter()), sum(now.values(), Counter()))
    return [*rows, everyone]


def _depths(role: str, ever: Counter[int], now: Counter[int]) -> Depths:
    sleeping = Counter({depth: count for depth, count in now.items() if depth})
    return Depths(role, ever.total(), sleeping.total(), quantiles(ever), quantiles(sleeping))


def quantiles(counts: Mapping[int, int]) -> dict[str, int]:
    """By nearest rank: the smallest value that at least that share does not exceed."""
    total = sum(counts.values())
    found: dict[str, int] = {}
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        for name, share in QUANTILES.items():
            if name not in found and seen >= share * total:
                found[name] = value
    return found


@dataclass(frozen=True)
class ShiftPoint:
    """Every stack made `shift_bytes` deeper: grow-only's pages, and stacks that overflow."""

    shift_bytes: int
    dynamic_kib: int
    saving_ratio: float
    over_limit_tasks: int


def shift_curve(stacks: Stacks, thread_size_bytes: int) -> list[ShiftPoint]:
    """What rfc-v1 would save if every stack were a little deeper or shallower."""
    marks = Counter(stacks.mark_bytes)
    base_pages = len(stacks) * thread_size_bytes // PAGE_BYTES
    points = []
    for shift in SHIFTS_BYTES:
        pages = _pages(marks, shift, thread_size_bytes)
        over = sum(count for mark, count in marks.items() if mark + shift > thread_size_bytes)
        saving = saving_ratio(base_pages, pages)
        points.append(ShiftPoint(shift, pages * PAGE_KIB, saving, over))
    return points


def _pages(marks: Mapping[int, int], shift: int, thread_size_bytes: int) -> int:
    most = thread_size_bytes // PAGE_BYTES
    return sum(
        count * min(most, max(1, -(-(mark + shift) // PAGE_BYTES))) for mark, count in marks.items()
    )


@dataclass(frozen=True)
class OffsetPrice:
    """Pages that stacks use only because of RANDOMIZE_KSTACK_OFFSET.

    Each user task's mark is the deepest of all its system calls, each with an offset of
    its own. low_pages: what is expected if one call alone went that deep, so that its
    offset was any; high_pages: if many did, so that the largest offset is in the mark.
    """

    user_stacks: int
    low_pages: float
    high_pages: int


def random_offset_price(stacks: Stacks) -> OffsetPrice:
    """For user tasks: kernel threads and io workers make no system calls."""
    marks = Counter(
        mark
        for mark, kind in zip(stacks.mark_bytes, stacks.kinds, strict=True)
        if kind == Kind.USER
    )
    largest = RANDOM_OFFSETS_BYTES[-1]
    choices = len(RANDOM_OFFSETS_BYTES)
    low, high = 0, 0
    for mark, count in marks.items():
        beyond = (mark - 1) % PAGE_BYTES + 1  # bytes used of the last page
        if mark <= PAGE_BYTES or beyond > largest:
            continue
        high += count
        # offsets of at least `beyond` bytes lead onto that page
        low += count * sum(1 for offset in RANDOM_OFFSETS_BYTES if offset >= beyond)
    return OffsetPrice(marks.total(), low / choices, high)
