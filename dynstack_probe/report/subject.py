# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report knows of one host, wherever it comes from: frames or a Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynstack_probe.analysis.comparison import Row
from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.analysis.host_estimate import DepthDetails
from dynstack_probe.analysis.safety import ExportedSafety, Safety
from dynstack_probe.model.cost import HostCost
from dynstack_probe.model.history import Span
from dynstack_probe.model.host import Host
from dynstack_probe.model.interval import Interval
from dynstack_probe.model.series import Series
from dynstack_probe.model.stacks import Kind, Stacks


@dataclass(frozen=True)
class Depths:
    """Depths in bytes, task by task."""

    stacks: Stacks
    details: DepthDetails
    deepest: Sequence[tuple[bytes, int, int, Kind]]


@dataclass(frozen=True)
class Subject:
    """One host. Sentences are whole; names are as they came.

    name, called: of the host, and as the RFC's table calls its row. headline: of the
    moment that stands for all; rows: each policy then. over_time: seconds, BASE and Dynamic
    in KiB at each sample. faults, created, exited: a second; each a mean of `rate_of`.
    errors: which way which figure errs. missing: sections that this source can't fill, in
    words. recording: the command that makes such a report's data. cost, safety: of the headline's
    policy, where a series was watched. headroom: seconds, and free pages at each of what
    headroom_of says.
    """

    name: str
    called: str
    host: Host
    options: str
    kinds: Mapping[Kind, int]
    origin: str
    coverage: Sequence[tuple[str, str]]
    errors: Sequence[tuple[str, str]]
    missed: int
    headline: Estimate
    headline_of: str
    rows: Sequence[Row]
    pages: Mapping[int, int]
    groups: Sequence[Group]
    grouped_by: str
    dynamic_errs: str
    faults_err: str
    rate_of: str
    recording: Sequence[str] = ()
    series: Series | None = None
    whole: Interval | None = None
    resident: str = ""
    over_time: Sequence[tuple[float, float, float]] = ()
    pages_over_time: tuple[Sequence[float], Mapping[int, Sequence[float]]] | None = None
    faults: Sequence[Span] = ()
    created: Sequence[Span] = ()
    exited: Sequence[Span] = ()
    seconds: float = 0.0
    depths: Depths | None = None
    missing: str = ""
    cost: HostCost | None = None
    safety: Safety | ExportedSafety | None = None
    headroom: Sequence[tuple[float, int]] = ()
    headroom_of: str = ""
    facts: Sequence[tuple[str, str]] = ()
