"""One host's past, as a Prometheus server has it.

A range is asked for as a subquery, which any server answers at the address where the
client already asks, and whose steps are the same moments for all series.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet.ask import quoted
from dynstack_probe.fleet.client import Server, warnings_of
from dynstack_probe.text import printable

STEPS = 120
LEAST_STEP_SECONDS = 15
# as long as Prometheus takes a sample for fresh: some scrapes lie in it
LEAST_RATE_SECONDS = 300
NAMES_SHOWN = 5

_GAUGES = (
    "dynstack_host_cpus",
    "dynstack_host_info",
    "dynstack_host_memory_bytes",
    "dynstack_kernel_stacks",
    "dynstack_policy_over_limit_tasks",
    "dynstack_policy_reserve_bytes",
    "dynstack_policy_stack_bytes",
    "dynstack_deepest_stack_bytes",
    "dynstack_stack_bytes",
    "dynstack_stacks_erased",
    "dynstack_stacks_read",
    "dynstack_stacks_unreadable",
    "dynstack_tasks",
)
_CGROUPS = ("dynstack_cgroup_stack_bytes", "dynstack_cgroup_policy_stack_bytes")
_COUNTERS = (
    "dynstack_policy_faults_total",
    "dynstack_created_tasks_total",
    "dynstack_exited_tasks_total",
)

Labels = Mapping[str, str]
Values = Mapping[float, float]


@dataclass(frozen=True)
class Track:
    """One series: its labels, and its value at each step (Unix time) that has one."""

    labels: Labels
    values: Values


@dataclass(frozen=True)
class Range:
    """From `end` so many seconds back, Unix time."""

    end: float
    seconds: float

    @property
    def step_seconds(self) -> int:
        """From one moment asked for to the next."""
        return max(LEAST_STEP_SECONDS, math.ceil(self.seconds / STEPS))

    @property
    def rate_seconds(self) -> int:
        """Over how long a rate is the mean."""
        return max(LEAST_RATE_SECONDS, self.step_seconds)


@dataclass(frozen=True)
class History:
    """All series of one host. `rates` are those of counters, per second, by metric."""

    url: str
    instance: str
    job: str
    asked: Range
    gauges: Mapping[str, Sequence[Track]]
    rates: Mapping[str, Sequence[Track]]
    warnings: Sequence[str]

    def sums(self, metric: str, **labels: str) -> dict[float, float]:
        """The sum over all series with these labels, by time; {} if there are none."""
        tracks = [*self.gauges.get(metric, ()), *self.rates.get(metric, ())]
        total: dict[float, float] = {}
        for track in tracks:
            if all(track.labels.get(name) == value for name, value in labels.items()):
                for at, value in track.values.items():
                    total[at] = total.get(at, 0.0) + value
        return total

    def last(self, metric: str, **labels: str) -> float | None:
        """At the newest moment that has one."""
        values = self.sums(metric, **labels)
        return values[max(values)] if values else None

    def label_values(self, metric: str, label: str) -> list[str]:
        """Each once, in the order of the answer."""
        tracks = self.gauges.get(metric, ())
        return list(dict.fromkeys(track.labels.get(label, "") for track in tracks))


def _tracks(server: Server, expression: str, asked: Range) -> tuple[list[Track], list[str]]:
    """Series and warnings. Raises ProbeError, in one line, for whatever goes wrong."""
    steps = f"[{math.ceil(asked.seconds)}s:{asked.step_seconds}s]"
    return server.query_as_of(f"{expression}{steps}", asked.end, _matrix)


def _matrix(document: dict[str, Any]) -> tuple[list[Track], list[str]]:
    """Raises what a document of another shape makes Python raise."""
    data = document["data"]
    if document["status"] != "success" or data["resultType"] != "matrix":
        raise ValueError
    return [_track(one) for one in data["result"]], warnings_of(document)


def _track(element: dict[str, Any]) -> Track:
    labels = element["metric"]
    if not all(isinstance(value, str) for value in labels.values()):
        raise TypeError
    values = {float(at): float(value) for at, value in element["values"]}
    return Track(labels, {at: v for at, v in values.items() if 0 <= v < 2.0**63})


def history_of(
    server: Server,
    asked: Range,
    policy: str,
    instance: str | None = None,
    job: str | None = None,
) -> History:
    """All that is needed of one host; of its cgroups under one policy.

    Raises ProbeError if there is none in that time, or several that could be meant.
    """
    instance, job = _the_host(server, asked, instance, job)
    chosen = f"instance={quoted(instance)},job={quoted(job)}"
    gauges, warnings = _tracks(server, f'{{__name__=~"{"|".join(_GAUGES)}",{chosen}}}', asked)
    cgroups, _ = _tracks(
        server, f'{{__name__=~"{"|".join(_CGROUPS)}",policy=~"|{policy}",{chosen}}}', asked
    )
    rates = {
        name: _tracks(server, f"rate({name}{{{chosen}}}[{asked.rate_seconds}s])", asked)[0]
        for name in _COUNTERS
    }
    by_name = _by_name([*gauges, *cgroups])
    return History(server.url, instance, job, asked, by_name, rates, warnings)


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
        wanted = f" of {printable(instance)}" if instance else ""
        raise ProbeError(
            f"{server.url} has no metrics of dynstack-probe{wanted} from that time: does it scrape"
            " `dynstack-probe serve`? `fleet` lists hosts"
        )
    if len(hosts) > 1:
        names = ", ".join(printable(f"{name} (job {of})") for name, of in hosts[:NAMES_SHOWN])
        more = f" and {len(hosts) - NAMES_SHOWN} more" if len(hosts) > NAMES_SHOWN else ""
        raise ProbeError(
            f"{server.url} knows {len(hosts)} hosts, choose one by --instance and --job:"
            f" {names}{more}"
        )
    return hosts[0]


def _by_name(tracks: Iterable[Track]) -> dict[str, list[Track]]:
    named: dict[str, list[Track]] = {}
    for track in tracks:
        named.setdefault(track.labels.get("__name__", ""), []).append(track)
    return named


def range_of(start: float | None, seconds: float) -> Range:
    """From `start` on for so long, or up to now."""
    return Range(time.time() if start is None else start + seconds, seconds)
