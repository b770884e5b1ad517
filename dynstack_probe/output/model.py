"""What all renderers of `estimate` are given, and the figures they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynstack_probe.analysis.depths import Depths, OffsetPrice, ShiftPoint
from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.shapes import ShapeCounts
from dynstack_probe.model.stacks import Kind


def kernel_and_user(kinds: Mapping[Kind, int]) -> tuple[int, int]:
    """Of stacks by kind, how many are the kernel's own, idle tasks too, and how many users'."""
    return (
        kinds[Kind.KTHREAD] + kinds[Kind.IDLE],
        kinds[Kind.USER] + kinds[Kind.USER_WORKER],
    )


@dataclass(frozen=True)
class DepthDetails:
    """What `estimate --depths` adds; the curve is rfc-v1's."""

    by_role: Sequence[Depths]
    offset_price: OffsetPrice
    random_offset: bool | None  # whether this kernel has it on
    curve: Sequence[ShiftPoint]


@dataclass(frozen=True)
class EstimateReport:
    """A snapshot and each policy's estimate of it, the headline policy first.

    `groups` are those of the headline policy, None unless they were asked for, as are
    `details`. `source` is the host, or the capture's name.
    """

    frame: Frame
    shapes: ShapeCounts
    estimates: Sequence[Estimate]
    by: str | None = None
    groups: Sequence[Group] | None = None
    source: str = "This host"
    details: DepthDetails | None = None

    def tasks_by_pages(self) -> dict[int, int]:
        """How many stacks have a mark of 1, 2, ... pages; each count up to P is there."""
        host = self.frame.host
        pages: Counter[int] = Counter()
        for shape, count in self.shapes.items():
            pages[shape.mark_pages] += count
        return {n: pages[n] for n in range(1, host.thread_size_bytes // host.page_size_bytes + 1)}

    def kinds(self) -> dict[Kind, int]:
        """How many stacks of each kind."""
        counts = Counter(self.frame.stacks.kinds)
        return {kind: counts[kind] for kind in Kind}

    def deepest(self, count: int) -> list[tuple[bytes, int, int, Kind]]:
        """Name, tid, mark in bytes and kind of the deepest tasks."""
        stacks = self.frame.stacks
        order = sorted(range(len(stacks)), key=lambda i: (-stacks.mark_bytes[i], stacks.tids[i]))
        return [
            (stacks.comms[i], stacks.tids[i], stacks.mark_bytes[i], Kind(stacks.kinds[i]))
            for i in order[:count]
        ]


@dataclass(frozen=True)
class Total:
    """All captures together under one policy."""

    policy: str
    hosts: int
    cpus: int
    stacks: int
    base_kib: int
    dynamic_kib: int
    reserve_kib: int
    saving_ratio: float
    over_limit_tasks: int


def totals_of(reports: Sequence[EstimateReport]) -> list[Total]:
    """One a policy, in the order of the first report's."""
    totals = []
    for at, estimate in enumerate(reports[0].estimates):
        column = [report.estimates[at] for report in reports]
        base = sum(one.base_kib for one in column)
        dynamic = sum(one.dynamic_kib for one in column)
        totals.append(
            Total(
                policy=estimate.policy,
                hosts=len(reports),
                cpus=sum(report.frame.host.cpus for report in reports),
                stacks=sum(one.stacks for one in column),
                base_kib=base,
                dynamic_kib=dynamic,
                reserve_kib=sum(one.reserve_kib for one in column),
                saving_ratio=1 - dynamic / base if base else 0.0,
                over_limit_tasks=sum(one.over_limit_tasks for one in column),
            )
        )
    return totals
