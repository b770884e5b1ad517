# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that may be unknown."""

from __future__ import annotations

from collections.abc import Callable
from operator import add
from typing import TypeVar

_T = TypeVar("_T")


def merged(one: _T | None, other: _T | None, merge: Callable[[_T, _T], _T] = add) -> _T | None:
    """Both combined, by default added; if only one is known that one, if neither None."""
    if one is None or other is None:
        return one if other is None else other
    return merge(one, other)
