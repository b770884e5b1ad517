"""Stacks as policies see them.

A host with a million tasks has a handful of different shapes, so each policy's work
does not grow with the number of tasks.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from dynstack_probe.measure.snapshot import Stacks


class Shape(NamedTuple):
    """How deep a stack has been.

    mark_pages: pages down to the high-water mark, at least 1. touched_pages: bitmap,
    bit p set if page p from the top holds anything but zero. inherited_pages: how many a
    grow-only kernel would have had mapped when the stack was handed out, from a task that
    had it before; 1 for a fresh stack, or where that was not seen.
    """

    mark_pages: int
    touched_pages: int
    inherited_pages: int = 1


ShapeCounts = Counter[Shape]


def count_shapes(stacks: Stacks) -> ShapeCounts:
    """How many stacks have each shape."""
    return Counter(map(Shape, stacks.mark_pages(), stacks.touched_pages))
