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
    bit p set if page p from the top holds anything but zero.
    """

    mark_pages: int
    touched_pages: int


ShapeCounts = Counter[Shape]


def count_shapes(stacks: Stacks) -> ShapeCounts:
    """How many stacks have each shape."""
    return Counter(map(Shape, stacks.mark_pages(), stacks.touched_pages))
