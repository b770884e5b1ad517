"""What there is to say about a fleet: rows, their sum, and how far they can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Prometheus itself forgets a sample after that time
STALE_SECONDS = 300
NAMES_SHOWN = 5


class By(enum.StrEnum):
    """What a row stands for."""

    host = "host"
    cpu = "cpu"
    kernel = "kernel"


@dataclass(frozen=True)
class Row:
    """The hosts that have one thing in common, and what the policy would save on them.

    The RFC table's columns, as in `policy.Estimate`: dynamic_kib leaves the reserve out.
    kernel_stacks is what those kernels count, None if a host of the row does not say. The
    last three are known for a single host only.
    """

    name: str
    hosts: int
    cpus: int
    stacks: int
    base_kib: int
    dynamic_kib: int
    reserve_kib: int
    mem_total_kib: int
    kernel_stacks: int | None
    cpu_model: str | None = None
    kernel_release: str | None = None
    sample_age_seconds: float | None = None

    @property
    def saved_kib(self) -> int:
        """Without the reserve."""
        return self.base_kib - self.dynamic_kib

    @property
    def saving_ratio(self) -> float:
        """1 - dynamic / base; 0 if there are no stacks."""
        return _share(self.saved_kib, self.base_kib)

    @property
    def saving_with_reserve_ratio(self) -> float:
        """The same with the reserve paid: negative if it costs more."""
        return _share(self.saved_kib - self.reserve_kib, self.base_kib)

    @property
    def saving_of_ram_ratio(self) -> float:
        """What is saved as a share of all memory of these hosts."""
        return _share(self.saved_kib, self.mem_total_kib)

    @property
    def saving_with_reserve_of_ram_ratio(self) -> float:
        """The same with the reserve paid."""
        return _share(self.saved_kib - self.reserve_kib, self.mem_total_kib)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def total(rows: Sequence[Row], name: str = "Total") -> Row:
    """The sum of all rows."""
    counted = [row.kernel_stacks for row in rows]
    return Row(
        name=name,
        hosts=sum(row.hosts for row in rows),
        cpus=sum(row.cpus for row in rows),
        stacks=sum(row.stacks for row in rows),
        base_kib=sum(row.base_kib for row in rows),
        dynamic_kib=sum(row.dynamic_kib for row in rows),
        reserve_kib=sum(row.reserve_kib for row in rows),
        mem_total_kib=sum(row.mem_total_kib for row in rows),
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
