# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is to say about a fleet: rows, their sum, and how far they can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynstack_probe.model.savings import Savings

# Prometheus itself forgets a sample after that time
STALE_SECONDS = 300
NAMES_SHOWN = 5


class By(enum.StrEnum):
    """What a row stands for."""

    host = "host"
    cpu = "cpu"
    kernel = "kernel"


@dataclass(frozen=True, kw_only=True)
class Row(Savings):
    """The hosts that have one thing in common, and what the policy would save on them.

    kernel_stacks is what those kernels count, None if a host of the row does not say. The
    last three are known for a single host only.
    """

    name: str
    hosts: int
    cpus: int
    kernel_stacks: int | None
    cpu_model: str | None = None
    kernel_release: str | None = None
    sample_age_seconds: float | None = None


def total(rows: Sequence[Row], name: str = "Total") -> Row:
    """The sum of all rows."""
    counted = [row.kernel_stacks for row in rows]
    return Row(
        **vars(sum(rows, Savings())),
        name=name,
        hosts=sum(row.hosts for row in rows),
        cpus=sum(row.cpus for row in rows),
        kernel_stacks=None if None in counted else sum(n for n in counted if n is not None),
    )


def ordered(rows: Iterable[Row]) -> list[Row]:
    """What saves most comes first."""
    return sorted(rows, key=lambda row: (-row.saved_kib, row.name))


@dataclass(frozen=True)
class Health:
    """How many hosts answered their last scrape, and how old their samples are.

    asked is None where the server scrapes nothing itself, as one that is written to. The
    names are some of the hosts meant, at most NAMES_SHOWN.
    """

    asked: int | None
    answered: int
    down_names: Sequence[str]
    stale: int
    stale_names: Sequence[str]
    median_age_seconds: float | None
    oldest_age_seconds: float | None


@dataclass(frozen=True)
class Fleet:
    """The answer. left_out counts hosts that answered and are in no row.

    They have no figures of this policy, or some that are no sensible numbers.
    """

    url: str
    job: str | None
    policy: str
    by: By
    rows: Sequence[Row]
    health: Health
    left_out: int
    left_out_names: Sequence[str]
    warnings: Sequence[str]
