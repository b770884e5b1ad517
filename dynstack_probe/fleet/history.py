# SPDX-License-Identifier: GPL-2.0-or-later
"""One host's past, from a Prometheus server.

A range is queried as a subquery: it works at the instant-query endpoint of any compatible
server, and its steps are aligned across all series.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet.ask import quoted
from dynstack_probe.fleet.client import Server, is_valid
from dynstack_probe.fleet.costs import EXTREMES, FIGURE, RATES, TOO_DEEP, tagged
from dynstack_probe.fleet.model import NAMES_SHOWN
from dynstack_probe.model.history import SCANNED_AT, History, Range, Track
from dynstack_probe.text import printable

_METRICS = (
    "dynstack_host_cpus",
    "dynstack_host_info",
    "dynstack_host_memory_bytes",
    "dynstack_kernel_stacks",
    "dynstack_policy_reserve_bytes",
    "dynstack_policy_stack_bytes",
    "dynstack_stack_bytes",
    "dynstack_stacks_erased",
    "dynstack_stacks_read",
    "dynstack_stacks_unreadable",
    "dynstack_tasks",
    SCANNED_AT,
    "dynstack_policy_fault_pages_total",
    "dynstack_policy_avoided_fault_pages_total",
    "dynstack_created_tasks_total",
    "dynstack_reused_stacks_total",
    "dynstack_exited_tasks_total",
    "dynstack_calibrated_fault_seconds",
    "dynstack_calibrated_clear_page_seconds",
    TOO_DEEP,
    *(metric for metric, _ in RATES.values()),
)
_CGROUPS = ("dynstack_cgroup_stack_bytes", "dynstack_cgroup_policy_stack_bytes")


def _tracks(server: Server, expression: str, asked: Range) -> tuple[list[Track], list[str]]:
    """Series and warnings. Raises ProbeError, one line, if the query fails."""
    steps = f"[{math.ceil(asked.seconds)}s:{asked.step_seconds}s]"
    return server.query_as_of(f"{expression}{steps}", asked.end, _track)


def _track(element: dict[str, Any]) -> Track:
    labels = element["metric"]
    if not all(isinstance(value, str) for value in labels.values()):
        raise TypeError
    values = {float(at): float(value) for at, value in element["values"]}
    return Track(labels, {at: v for at, v in values.items() if is_valid(v)})


def history_of(
    server: Server,
    asked: Range,
    policy: str,
    instance: str | None = None,
    job: str | None = None,
) -> History:
    """One host's metrics over a range; of its cgroups under one policy.

    Raises ProbeError if no host matches in that time, or more than one.
    """
    instance, job = _the_host(server, asked, instance, job)
    chosen = f"instance={quoted(instance)},job={quoted(job)}"
    named, warnings = _tracks(server, f'{{__name__=~"{"|".join(_METRICS)}",{chosen}}}', asked)
    cgroups, _ = _tracks(
        server, f'{{__name__=~"{"|".join(_CGROUPS)}",policy=~"|{policy}",{chosen}}}', asked
    )
    # for min and max use every scraped sample, not only the one at each step
    parts = [
        tagged(
            metric,
            f"{extreme} by (instance, job)"
            f" ({extreme}_over_time({metric}{{{chosen}}}[{asked.step_seconds}s]))",
        )
        for extreme, metric in EXTREMES.values()
    ]
    extremes, _ = _tracks(server, f"({' or '.join(parts)})", asked)
    tracks = _by_name([*named, *cgroups])
    tracks.update(_by_name(extremes, FIGURE))
    return History(server.url, instance, job, asked, tracks, warnings)


def _the_host(
    server: Server, asked: Range, instance: str | None, job: str | None
) -> tuple[str, str]:
    matchers = {"instance": instance, "job": job}
    selector = ",".join(f"{name}={quoted(value)}" for name, value in matchers.items() if value)
    found, _ = _tracks(
        server, f"group by (instance, job) (dynstack_stack_bytes{{{selector}}})", asked
    )
    hosts = sorted({(one.labels.get("instance", ""), one.labels.get("job", "")) for one in found})
    if not hosts:
        where = f" of {printable(instance)}" if instance else ""
        raise ProbeError(
            f"{server.url} has no dynstack metrics{where} from that time: does it scrape"
            " `dynstack-probe serve`? `fleet` lists hosts"
        )
    if len(hosts) > 1:
        names = ", ".join(printable(f"{name} (job {of})") for name, of in hosts[:NAMES_SHOWN])
        more = f" and {len(hosts) - NAMES_SHOWN} more" if len(hosts) > NAMES_SHOWN else ""
        raise ProbeError(
            f"{server.url} has {len(hosts)} hosts, choose one with --instance and --job:"
            f" {names}{more}"
        )
    return hosts[0]


def _by_name(tracks: Iterable[Track], label: str = "__name__") -> dict[str, list[Track]]:
    named: dict[str, list[Track]] = {}
    for track in tracks:
        named.setdefault(track.labels.get(label, ""), []).append(track)
    return named


def range_of(start: float | None, seconds: float) -> Range:
    """`seconds` from `start` (Unix time), or up to now."""
    return Range(time.time() if start is None else start + seconds, seconds)
