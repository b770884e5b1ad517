# SPDX-License-Identifier: GPL-2.0-or-later
"""All policies side by side on the same data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dynstack_probe.analysis.cost import host_cost, pareto_best
from dynstack_probe.analysis.estimate import Estimate, estimate
from dynstack_probe.analysis.timeline import Rate, rate
from dynstack_probe.model.cost import PolicyCost
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.series import Series
from dynstack_probe.model.shapes import Shape, count_shapes
from dynstack_probe.policy import Policy


@dataclass(frozen=True)
class Row:
    """One policy: its estimate, its work per second, and the tasks deeper than it allows.

    cost: None where no series was watched on a host that was calibrated. pareto_best: no
    other policy beats it in both memory and CPU time.
    """

    policy: Policy
    estimate: Estimate
    rate: Rate | None
    over_limit: Sequence[tuple[bytes, int]]
    cost: PolicyCost | None = None
    pareto_best: bool = False


@dataclass(frozen=True)
class Comparison:
    """All policies on one frame; `whole` where there was a series."""

    source: str
    frame: Frame
    rows: Sequence[Row]
    whole: Interval | None
    series: Series | None = None


def compare(
    frame: Frame,
    policies: Sequence[Policy],
    whole: Interval | None,
    source: str,
    series: Series | None = None,
) -> Comparison:
    thread_pages = frame.host.thread_pages
    shapes = count_shapes(frame.stacks, [policy.asleep_seconds for policy in policies])
    costs = host_cost(source, frame, whole, policies) if whole and policies else None
    best = pareto_best(costs.rows) if costs else set()
    rows = [
        Row(
            policy,
            estimate(policy, shapes, frame.host),
            rate(policy, whole, thread_pages) if whole else None,
            _over_limit(policy, frame, thread_pages),
            costs.rows[at] if costs and costs.prices else None,
            policy.name in best,
        )
        for at, policy in enumerate(policies)
    ]
    return Comparison(source, frame, rows, whole, series)


def _over_limit(policy: Policy, frame: Frame, thread_pages: int) -> list[tuple[bytes, int]]:
    """Names of deeper tasks with their counts, most frequent first."""
    over = {
        pages
        for pages in range(1, thread_pages + 1)
        if policy.over_limit(Shape(pages, 1), thread_pages)
    }
    if not over:
        return []
    least_bytes = (min(over) - 1) * PAGE_BYTES
    stacks = frame.stacks
    pairs = zip(stacks.comms, stacks.mark_bytes, strict=True)
    return Counter(comm for comm, mark in pairs if mark > least_bytes).most_common()
