# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything `estimate` reports about one host, and about several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dynstack_probe.analysis.depths import (
    Depths,
    OffsetPrice,
    ShiftPoint,
    depths_by_role,
    random_offset_price,
    shift_curve,
)
from dynstack_probe.analysis.estimate import (
    Estimate,
    Group,
    estimate,
    group_by,
    model_error_ratio,
    reuse_most_kib,
)
from dynstack_probe.analysis.grouping import group_names
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.roles import roles
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import Series
from dynstack_probe.model.shapes import by_mark, count_shapes
from dynstack_probe.model.stacks import Kind, kinds_of
from dynstack_probe.policy import Policy


def kernel_and_user(kinds: Mapping[Kind, int]) -> tuple[int, int]:
    """How many stacks belong to kernel threads, idle tasks included, and to user threads."""
    return (
        kinds[Kind.KTHREAD] + kinds[Kind.IDLE],
        kinds[Kind.USER] + kinds[Kind.USER_WORKER],
    )


@dataclass(frozen=True)
class DepthDetails:
    """What `estimate --depths` adds; the curve is rfc-v1's."""

    by_role: Sequence[Depths]
    offset_price: OffsetPrice
    random_offset: bool | None  # whether this kernel has it on; None: nobody can tell
    curve: Sequence[ShiftPoint]


@dataclass(frozen=True)
class HostEstimate:
    """A frame and each policy's estimate of it, the headline policy first.

    pages: how many stacks have a mark of 1, 2, ... pages; kinds: of each kind. `groups` are
    those of the headline policy, None unless they were asked for, as are `details`. `source`
    is the host, or the capture's name.
    """

    frame: Frame
    pages: Mapping[int, int]
    kinds: Mapping[Kind, int]
    estimates: Sequence[Estimate]
    by: str | None = None
    groups: Sequence[Group] | None = None
    source: str = "This host"
    details: DepthDetails | None = None
    series: Series | None = None

    def model_error_ratio(self) -> float | None:
        """The error of the headline policy's dynamic_kib, where the kernel counts the pages."""
        counted_kib = self.frame.coverage.kernel_stack_kib
        if self.frame.grown_kib is None or not counted_kib:
            return None
        return model_error_ratio(self.estimates[0].dynamic_kib, counted_kib)

    def deepest(self, count: int) -> list[tuple[bytes, int, int, Kind]]:
        """Name, tid, mark in bytes and kind of the deepest tasks."""
        stacks = self.frame.stacks
        order = sorted(range(len(stacks)), key=lambda i: (-stacks.mark_bytes[i], stacks.tids[i]))
        return [
            (stacks.comms[i], stacks.tids[i], stacks.mark_bytes[i], Kind(stacks.kinds[i]))
            for i in order[:count]
        ]


def host_estimate(
    frame: Frame,
    policies: Sequence[Policy],
    by: str | None = None,
    *,
    source: str = "This host",
    with_depths: bool = False,
    series: Series | None = None,
) -> HostEstimate:
    """Apply the policies; the first is the headline and the groups' one."""
    stacks = frame.stacks
    shapes = count_shapes(stacks, [policy.asleep_seconds for policy in policies])
    groups = details = None
    if by is not None:
        groups = group_by(policies[0], stacks, group_names(frame, by), frame.host)
    if with_depths:
        details = DepthDetails(
            depths_by_role(stacks, roles(stacks.kinds, stacks.comms)),
            random_offset_price(stacks),
            frame.kernel.random_offset,
            shift_curve(stacks, frame.host.thread_size_bytes),
        )
    return HostEstimate(
        frame=frame,
        pages=by_mark(shapes, frame.host.thread_pages),
        kinds=kinds_of(stacks.kinds),
        estimates=[
            replace(
                estimate(policy, shapes, frame.host),
                reuse_most_kib=reuse_most_kib(policy, shapes, frame.host),
            )
            for policy in policies
        ],
        by=by,
        groups=groups,
        source=source,
        details=details,
        series=series,
    )


@dataclass(frozen=True, kw_only=True)
class Total(Savings):
    policy: str
    hosts: int
    cpus: int
    over_limit_tasks: int


def totals_of(reports: Sequence[HostEstimate]) -> list[Total]:
    """One a policy, in the order of the first host's."""
    totals = []
    for at, first in enumerate(reports[0].estimates):
        column = [report.estimates[at] for report in reports]
        savings = sum(column, Savings())
        totals.append(
            Total(
                **vars(savings),
                policy=first.policy,
                hosts=len(reports),
                cpus=sum(report.frame.host.cpus for report in reports),
                over_limit_tasks=sum(one.over_limit_tasks for one in column),
            )
        )
    return totals
