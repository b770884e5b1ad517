# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy would have cost and saved on the stacks of one frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dynstack_probe.model.host import PAGE_KIB, Host
from dynstack_probe.model.savings import Savings
from dynstack_probe.model.shapes import Shape, ShapeCounts, shape_keys
from dynstack_probe.model.stacks import Stacks
from dynstack_probe.policy import Policy


class FaultRange(NamedTuple):
    """Faults that the living stacks would have taken over their lives so far."""

    min: int
    best: int
    max: int


@dataclass(frozen=True, kw_only=True)
class Estimate(Savings):
    """One policy on all stacks of a host: the columns of the RFC's table, and more."""

    policy: str
    faults: FaultRange
    over_limit_tasks: int
    reuse_most_kib: int | None = None  # None: not asked for


@dataclass(frozen=True, kw_only=True)
class Group(Savings):
    """Stacks grouped under one name. Without the reserve, which belongs to the host."""

    name: str | bytes
    worst_mark_bytes: int = 0

    @property
    def grown_pages(self) -> int:
        """What the policy would have mapped beyond the first page of each stack."""
        return self.dynamic_kib // PAGE_KIB - self.stacks


def estimate(policy: Policy, shapes: Mapping[Shape, int], host: Host) -> Estimate:
    thread_pages = host.thread_pages
    stacks = sum(shapes.values())
    at_least = best = at_most = 0
    for shape, count in shapes.items():
        low, likely, high = policy.faults(shape, thread_pages)
        at_least += low * count
        best += likely * count
        at_most += high * count
    return Estimate(
        policy=policy.name,
        stacks=stacks,
        base_kib=stacks * host.thread_size_bytes // 1024,
        dynamic_kib=_dynamic_kib(policy, shapes, thread_pages),
        reserve_kib=policy.reserve_pages(host.cpus, thread_pages) * PAGE_KIB,
        faults=FaultRange(at_least, best, at_most),
        over_limit_tasks=sum(
            count for shape, count in shapes.items() if policy.over_limit(shape, thread_pages)
        ),
        mem_total_kib=host.mem_total_kib,
    )


def model_error_ratio(modelled_kib: int, counted_kib: int) -> float:
    """How far the model is above (+) or below (-) the kernel's own, nonzero count."""
    return modelled_kib / counted_kib - 1


def reuse_most_kib(policy: Policy, shapes: Mapping[Shape, int], host: Host) -> int:
    """The most by which reuse may raise dynamic_kib.

    Two freed stacks a CPU are cached with the pages that they have grown, and who is handed
    one holds these too. A scan can't tell who was, and over time any task may have been:
    here each was handed a stack with as many pages as the deepest of all now has. Only
    stacks that exited and were deeper still could add to it.
    """
    thread_pages = host.thread_pages
    deepest = max((shape.mark_pages for shape in shapes), default=1)
    reused = ShapeCounts()
    for shape, count in shapes.items():
        reused[shape._replace(inherited_pages=max(deepest, shape.inherited_pages))] += count
    most = _dynamic_kib(policy, reused, thread_pages)
    return max(0, most - _dynamic_kib(policy, shapes, thread_pages))


def _dynamic_kib(policy: Policy, shapes: Mapping[Shape, int], thread_pages: int) -> int:
    pages = sum(
        policy.dynamic_pages(shape, thread_pages) * count for shape, count in shapes.items()
    )
    return pages * PAGE_KIB


def group_by(
    policy: Policy, stacks: Stacks, names: Iterable[str | bytes], host: Host
) -> list[Group]:
    """Estimate each group of stacks separately; names[i] is the group of stack i.

    Largest base first. The sum over the groups is the whole.
    """
    shapes_of: dict[str | bytes, ShapeCounts] = {}
    deepest: dict[str | bytes, int] = {}
    keys = Counter(
        zip(names, shape_keys(stacks, [policy.asleep_seconds]), stacks.mark_bytes, strict=True)
    )
    for (name, key, mark), count in keys.items():
        shapes_of.setdefault(name, ShapeCounts())[Shape(*key)] += count
        deepest[name] = max(mark, deepest.get(name, 0))
    groups = [
        Group(
            name=name,
            stacks=counts.total(),
            base_kib=counts.total() * host.thread_size_bytes // 1024,
            dynamic_kib=_dynamic_kib(policy, counts, host.thread_pages),
            worst_mark_bytes=deepest[name],
        )
        for name, counts in shapes_of.items()
    ]
    return sorted(groups, key=lambda group: (-group.base_kib, group.name))
