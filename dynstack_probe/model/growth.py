# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack pages that came into use, counted by distance from the top of the stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import add, sub

from dynstack_probe.model.shapes import Shape

MOST_PAGES = 16  # of the largest stack, 64 KiB

Counts = tuple[int, ...]
NO_COUNTS: Counts = (0,) * MOST_PAGES


@dataclass(frozen=True)
class Growth:
    """Element p of each counts stacks by page p, page 0 being where a stack begins.

    mapped: stacks deep enough for page p that did not have it from an earlier owner;
    touched: those of them whose page p holds anything: a page that holds nothing was
    mapped by a fault further down. inherited: stacks deep enough whose page p came with a
    stack from the kernel's cache. Can be added and subtracted.
    """

    mapped: Counts = NO_COUNTS
    touched: Counts = NO_COUNTS
    inherited: Counts = NO_COUNTS

    def __add__(self, other: Growth) -> Growth:
        return self._each(add, other)

    def __sub__(self, other: Growth) -> Growth:
        return self._each(sub, other)

    def __or__(self, other: Growth) -> Growth:
        """The larger of each."""
        return self._each(max, other)

    def _each(self, what: Callable[[int, int], int], other: Growth) -> Growth:
        return Growth(
            tuple(map(what, self.mapped, other.mapped)),
            tuple(map(what, self.touched, other.touched)),
            tuple(map(what, self.inherited, other.inherited)),
        )


def growth_of(shapes: Mapping[Shape, int], skipped: Sequence[int] = ()) -> Growth:
    """All growth of stacks of these shapes over their lifetime.

    `skipped`: of how many of them page p, not inherited and above the mark, was all zero,
    where that was counted apart from the shapes.
    """
    mapped, touched, inherited = ([0] * MOST_PAGES for _ in range(3))
    for shape, count in shapes.items():
        for page in range(min(shape.mark_pages, MOST_PAGES)):
            if page < shape.inherited_pages:
                inherited[page] += count
                continue
            mapped[page] += count
            is_last = page == shape.mark_pages - 1
            if is_last or shape.touched_pages >> page & 1:
                touched[page] += count
    for page, count in enumerate(skipped[:MOST_PAGES]):
        touched[page] = max(0, touched[page] - count)
    return Growth(tuple(mapped), tuple(touched), tuple(inherited))


def whole_shapes(counts: Mapping[tuple[int, int], int]) -> dict[Shape, int]:
    """Stacks by (mark, inherited) pages as shapes whose every page down to it is touched."""
    return {
        Shape(mark, (1 << mark) - 1, inherited): count
        for (mark, inherited), count in counts.items()
    }


class GrowthCounter:
    """Accumulates the growth of living and exited tasks: a monotonic count.

    Every page that a stack grew is counted while its task lives, and moves to the exited
    when it ends. A task that exits between the two counts is in neither until the next, so
    the sum may dip; what is taken as having happened is each page's highest count so far.
    """

    def __init__(self) -> None:
        self.total = Growth()
        self._highest = Growth()
        self._living = Growth()

    def advance(self, living: Growth, exited: Growth, *, restarted: bool = False) -> Growth:
        """Growth since the last call; everything on the first.

        `restarted`: the exited are counted anew since the last call.
        """
        now = living + exited
        before = self._living if restarted else self._highest
        highest = before | now
        grown = highest - before
        self.total += grown
        self._highest, self._living = highest, living
        return grown
