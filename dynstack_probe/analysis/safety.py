# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether stacks could have grown safely: free memory, and demand on the reserve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from dynstack_probe.analysis.evidence import DEEP_BYTES, Evidence
from dynstack_probe.model.headroom import FreeMemory, Headroom
from dynstack_probe.policy import Policy

DEEP_KIB = (DEEP_BYTES // 1024, 12)  # of those whom the evidence has kept
_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True)
class Safety:
    """One policy on one host, over some time.

    headroom: None where it was not sampled. reserve_pages: of all CPUs; a_cpu_pages: what
    one CPU may have to give before it is refilled, which is all that one task can take.
    refills_below_min: of the time's refills, those that fell on samples without any memory
    above the minimum watermarks (their share of the samples, rounded up); None: not known.
    deeper: by size in KiB, the tasks that have been deeper, by name. contexts: samples of
    stacks deeper than a page, by what the CPU was doing; None where none were taken, as
    not_sampled says. kernel_samples: all that met the kernel. sampled_by_clock: so that time
    with interrupts off was not seen.
    """

    headroom: Headroom | None
    reserve_pages: int
    a_cpu_pages: int
    refills_below_min: int | None
    deepest_bytes: int
    deeper: Mapping[int, Counter[bytes]]
    contexts: Mapping[str, int] | None = None
    kernel_samples: int = 0
    sampled_by_clock: bool = True
    not_sampled: str = ""


@dataclass(frozen=True)
class ExportedSafety:
    """What the daemon exports, over a range of a host's history.

    free: the least since the moment before, at each moment. deeper: by size in KiB, the most
    tasks at a time that had been deeper; too_deep_tasks: than the policy's stack, None where
    that was not told.
    """

    free: FreeMemory
    reserve_pages: int
    a_cpu_pages: int
    deepest_bytes: int
    deeper: Mapping[int, int]
    too_deep_tasks: int | None


def shares(counts: Mapping[_Name, int]) -> dict[str, float]:
    """Each name's share of the total, most frequent first; zeros are left out."""
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {str(name): count / total for name, count in ordered if count}


def safety_of(policy: Policy, evidence: Evidence) -> Safety:
    """Of the living, and of what happened in that time; contexts are for who sampled them."""
    whole, host = evidence.whole, evidence.frame.host
    thread_pages = host.thread_pages
    headroom = whole.headroom if whole else None
    work = policy.work(whole, thread_pages) if whole else None
    below_min = None
    if headroom is not None:
        empty = sum(1 for pages in headroom.above_min_pages if not pages)
        done = work.events if work else 0
        below_min = -(-done * empty // len(headroom.above_min_pages))
    return Safety(
        headroom=headroom,
        reserve_pages=policy.reserve_pages(host.cpus, thread_pages),
        a_cpu_pages=a_cpu_pages(policy, thread_pages),
        refills_below_min=below_min,
        deepest_bytes=evidence.deepest_bytes,
        deeper={
            kib: Counter(comm for comm, mark in evidence.deep if mark > kib * 1024)
            for kib in deep_kib(host.thread_size_bytes)
        },
    )


def a_cpu_pages(policy: Policy, thread_pages: int) -> int:
    """The most pages one task can take before its CPU's reserve is refilled."""
    return max(0, thread_pages - policy.pages_at_fork(thread_pages))


def deep_kib(thread_size_bytes: int) -> list[int]:
    """The sizes reported for stacks of this THREAD_SIZE."""
    return [kib for kib in DEEP_KIB if kib * 1024 < thread_size_bytes]
