# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate --format csv`: a row a policy, or with --by a row a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.analysis.host_estimate import HostEstimate
from dynstack_probe.output.columns import Column, csv_text, of
from dynstack_probe.output.estimates import GROUP
from dynstack_probe.output.savings import BASE, POLICY, STACKS


def _estimate(row: tuple[HostEstimate, Estimate]) -> Estimate:
    return row[1]


def _group(row: tuple[HostEstimate, Group]) -> Group:
    return row[1]


# A row is a host and its estimate under one policy.
ESTIMATES: tuple[Column[tuple[HostEstimate, Estimate]], ...] = (
    Column("cpu_model", lambda row: row[0].frame.host.cpu_model),
    Column("cpus", lambda row: row[0].frame.host.cpus),
    Column("kernel_release", lambda row: row[0].frame.host.kernel_release),
    Column("policy", lambda row: row[1].policy),
    *of(_estimate, (STACKS, BASE, *POLICY)),
    Column("faults_min", lambda row: row[1].faults.min),
    Column("faults_best", lambda row: row[1].faults.best),
    Column("faults_max", lambda row: row[1].faults.max),
    Column("over_limit_tasks", lambda row: row[1].over_limit_tasks),
    Column("kernel_stacks", lambda row: row[0].frame.coverage.kernel_stacks),
    Column("missed", lambda row: row[0].frame.coverage.missed),
    Column("reuse_most_kib", lambda row: row[1].reuse_most_kib),
    Column("model_error_ratio", lambda row: row[0].model_error_ratio(), digits=6),
    Column("source", lambda row: row[0].source),
)
GROUPS: tuple[Column[tuple[HostEstimate, Group]], ...] = (
    Column("policy", lambda row: row[0].estimates[0].policy),
    Column("by", lambda row: row[0].by),
    *of(_group, GROUP),
)


def render(report: HostEstimate) -> str:
    if report.groups is None:
        return render_many([report])
    return csv_text(GROUPS, ((report, group) for group in report.groups))


def render_many(reports: Sequence[HostEstimate]) -> str:
    """A row a capture and policy."""
    rows: list[tuple[HostEstimate, Any]] = [
        (report, estimate) for report in reports for estimate in report.estimates
    ]
    return csv_text(ESTIMATES, rows)
