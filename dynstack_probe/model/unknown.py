# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts that not everybody knows."""

from __future__ import annotations

from collections.abc import Callable
from operator import add


def merged(
    one: int | None, other: int | None, merge: Callable[[int, int], int] = add
) -> int | None:
    """What both come to, by default their sum; the one that is known, None if neither is."""
    if one is None or other is None:
        return one if other is None else other
    return merge(one, other)
