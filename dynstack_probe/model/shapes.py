# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks as policies see them.

A host with a million tasks has a handful of different shapes, so each policy's work
does not grow with the number of tasks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind, Stacks


class Shape(NamedTuple):
    """How deep a stack has been, and is.

    mark_pages: pages down to the high-water mark, at least 1. touched_pages: bitmap,
    bit p set if page p from the top holds anything but zero. inherited_pages: how many a
    grow-only kernel would have had mapped when the stack was handed out, from a task that
    had it before; 1 for a fresh stack, or where that was not seen.

    depth_kib: down to the saved stack pointer, rounded up; 0 for a task on a CPU.
    asleep_seconds: the largest of the thresholds asked for that it has been asleep; 0
    where that is not known.
    """

    mark_pages: int
    touched_pages: int
    inherited_pages: int = 1
    depth_kib: int = 0
    kind: int = Kind.USER
    asleep_seconds: int = 0

    @property
    def running(self) -> bool:
        """Whether its task was on a CPU."""
        return self.depth_kib == 0


ShapeCounts = Counter[Shape]


def by_mark(counts: Mapping[Shape, int], thread_pages: int) -> dict[int, int]:
    """How many stacks have a mark of 1, 2, ... pages; each count up to thread_pages is there."""
    pages = dict.fromkeys(range(1, thread_pages + 1), 0)
    for shape, count in counts.items():
        pages[shape.mark_pages] = pages.get(shape.mark_pages, 0) + count
    return pages


def shape_keys(stacks: Stacks, thresholds: Sequence[int] = ()) -> Iterator[tuple[int, ...]]:
    """The fields of each stack's Shape, in order, as plain tuples.

    Each column runs through a table of all its values by the interpreter's C loops: a
    million stacks take a quarter of a second.
    """
    deepest = max(max(column, default=0) for column in (stacks.mark_bytes, stacks.depth_bytes))
    mark_pages = _rounded_up(deepest, PAGE_BYTES, least=1)
    depth_kib = _rounded_up(deepest, 1024, least=0)
    fresh = (1,) * len(stacks)
    return zip(
        map(mark_pages.__getitem__, stacks.mark_bytes),
        stacks.touched_pages,
        fresh,
        map(depth_kib.__getitem__, stacks.depth_bytes),
        stacks.kinds,
        _asleep(stacks.asleep_seconds, thresholds),
        strict=True,
    )


def _rounded_up(deepest: int, unit_bytes: int, least: int) -> list[int]:
    """For each depth in bytes, down to the deepest, how many units hold it."""
    table = [least]
    for units in range(1, -(-deepest // unit_bytes) + 1):
        table += [units] * unit_bytes
    return table


def _asleep(seconds: Sequence[int], thresholds: Sequence[int]) -> Iterable[int]:
    """For each value the largest threshold it reaches; 0 if none, or if unknown."""
    steps = sorted({threshold for threshold in thresholds if threshold > 0})
    if not steps:
        return (0,) * len(seconds)
    values = (0, *steps, 0)  # the last is that of ASLEEP_UNKNOWN
    steps.append(ASLEEP_UNKNOWN)
    return (values[bisect_right(steps, asleep)] for asleep in seconds)


def count_shapes(stacks: Stacks, thresholds: Sequence[int] = ()) -> ShapeCounts:
    """How many stacks have each shape.

    `thresholds`, seconds, are those of asleep_seconds that some policy asks about.
    """
    counts = Counter(shape_keys(stacks, thresholds))
    return ShapeCounts({Shape(*key): count for key, count in counts.items()})
