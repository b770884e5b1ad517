# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet's rows, their total, and how complete and fresh they are."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dynstack_probe.analysis.cost import may_take_ns
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.unknown import merged

# Prometheus' default lookback delta
STALE_SECONDS = 300
NAMES_SHOWN = 5


class By(enum.StrEnum):
    host = "host"
    cpu = "cpu"
    kernel = "kernel"


@dataclass(frozen=True)
class Costs:
    """The policy's CPU cost and safety on some hosts.

    hosts, cpus: those whose cost is known. faults_cpu, forks_cpu: CPU seconds per second that
    stack faults take and forks save, modelled. fault_cpus, page_fault_cpus: CPUs of the hosts
    that the following rate covers. headroom_kib: minimum; deepest_bytes: maximum. None: no
    host reports it.
    """

    hosts: int = 0
    cpus: int = 0
    faults_cpu: float = 0.0
    forks_cpu: float = 0.0
    fault_cpus: int = 0
    faults_per_second: float = 0.0
    page_fault_cpus: int = 0
    kernel_page_faults_per_second: float = 0.0
    headroom_kib: int | None = None
    deepest_bytes: int | None = None
    too_deep_tasks: int | None = None

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            self.hosts + other.hosts,
            self.cpus + other.cpus,
            self.faults_cpu + other.faults_cpu,
            self.forks_cpu + other.forks_cpu,
            self.fault_cpus + other.fault_cpus,
            self.faults_per_second + other.faults_per_second,
            self.page_fault_cpus + other.page_fault_cpus,
            self.kernel_page_faults_per_second + other.kernel_page_faults_per_second,
            merged(self.headroom_kib, other.headroom_kib, min),
            merged(self.deepest_bytes, other.deepest_bytes, max),
            merged(self.too_deep_tasks, other.too_deep_tasks),
        )

    @property
    def faults_ratio(self) -> float | None:
        """Of all CPU time."""
        return self.faults_cpu / self.cpus if self.cpus else None

    @property
    def fork_saving_ratio(self) -> float | None:
        """Of all CPU time."""
        return self.forks_cpu / self.cpus if self.cpus else None

    @property
    def net_ratio(self) -> float | None:
        """Of all CPU time; negative where forks save more than faults take."""
        return (self.faults_cpu - self.forks_cpu) / self.cpus if self.cpus else None

    @property
    def stack_fault_ns(self) -> float | None:
        """Break-even cost of a stack fault: where all take 0.1% of CPU time."""
        return may_take_ns(0.001, self.faults_per_second, self.fault_cpus)

    @property
    def kernel_page_fault_ns(self) -> float | None:
        """Break-even extra cost of a kernel-mode page fault: 0.1% of CPU time."""
        return may_take_ns(0.001, self.kernel_page_faults_per_second, self.page_fault_cpus)


@dataclass(frozen=True, kw_only=True)
class Row(Savings):
    """A host or a group of hosts, and what the policy would save there.

    kernel_stacks is the kernels' own count, None if a host does not report it. cpu_model,
    kernel_release and sample_age_seconds are set for a single host only.
    """

    name: str
    hosts: int
    cpus: int
    kernel_stacks: int | None
    cpu_model: str | None = None
    kernel_release: str | None = None
    sample_age_seconds: float | None = None
    costs: Costs = field(default_factory=Costs)


def total(rows: Sequence[Row]) -> Row:
    counted = [row.kernel_stacks for row in rows]
    return Row(
        **vars(sum(rows, Savings())),
        name="Total",
        hosts=sum(row.hosts for row in rows),
        cpus=sum(row.cpus for row in rows),
        kernel_stacks=None if None in counted else sum(n for n in counted if n is not None),
        costs=sum((row.costs for row in rows), Costs()),
    )


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Largest saving first."""
    return sorted(rows, key=lambda row: (-row.saved_kib, row.name))


@dataclass(frozen=True)
class Health:
    """How many hosts answered their last scrape, and how old their samples are.

    asked is None if the server does not scrape, such as a remote-write receiver. The names
    are at most NAMES_SHOWN of the hosts.
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
    """The result. left_out counts hosts that answered but are in no row.

    Their figures for this policy are missing or invalid.
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
