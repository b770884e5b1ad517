"""What the tracepoints counted: tasks created and exited, and how deep those went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GROWTH_AGES = ("1s", "10s", "1m", "10m", "1h", "older")


@dataclass(frozen=True)
class Lifecycle:
    """What the tracepoints counted since they were attached: every figure only rises.

    exited counts stacks by (pages down to the mark, pages inherited from a cached stack's
    owner, 1 if none); skipped[p] those whose page p above the mark was all zero. lost
    says, by reason, what could not be counted or remembered.
    """

    created: int
    reused: int
    exited: Mapping[tuple[int, int], int]
    skipped: tuple[int, ...]
    growth_by_age: tuple[int, ...]
    lost: Mapping[str, int]
    runs: int
    run_seconds: float
