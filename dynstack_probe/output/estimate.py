# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate`: all figures of one host, or one row per capture of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.analysis.host_estimate import (
    DepthDetails,
    HostEstimate,
    Total,
    kernel_and_user,
    totals_of,
)
from dynstack_probe.model.frame import Cost
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.columns import Column, as_dict, csv_text, json_text, of
from dynstack_probe.output.savings import BASE, DYNAMIC, POLICY, SAVING, STACKS, series_json

SCHEMA_VERSION = 1

ESTIMATE: tuple[Column[Estimate], ...] = (
    Column("name", lambda one: one.policy),
    *POLICY,
    Column("over_limit_tasks", lambda one: one.over_limit_tasks),
    Column("faults", lambda one: one.faults._asdict(), modelled=True),
    Column("reuse_most_kib", lambda one: one.reuse_most_kib, modelled=True),
)
GROUP: tuple[Column[Group], ...] = (
    Column[Group]("name", lambda group: group.name),
    *(STACKS, BASE, DYNAMIC, SAVING),
    Column[Group]("worst_mark_bytes", lambda group: group.worst_mark_bytes, "worst"),
)
TOTAL: tuple[Column[Total], ...] = (
    Column("policy", lambda total: total.policy),
    Column("hosts", lambda total: total.hosts),
    Column("cpus", lambda total: total.cpus),
    *(STACKS, BASE, *POLICY),
    Column("over_limit_tasks", lambda total: total.over_limit_tasks),
)


def _estimate(row: tuple[HostEstimate, Estimate]) -> Estimate:
    return row[1]


# A row is a host and its estimate under one policy.
CSV: tuple[Column[tuple[HostEstimate, Estimate]], ...] = (
    Column("cpu_model", lambda row: row[0].frame.host.cpu_model),
    Column("cpus", lambda row: row[0].frame.host.cpus),
    Column("kernel_release", lambda row: row[0].frame.host.kernel_release),
    Column("policy", lambda row: row[1].policy),
    *of(_estimate, (STACKS, BASE, *POLICY)),
    Column("faults_min", lambda row: row[1].faults.min, modelled=True),
    Column("faults_best", lambda row: row[1].faults.best, modelled=True),
    Column("faults_max", lambda row: row[1].faults.max, modelled=True),
    Column("over_limit_tasks", lambda row: row[1].over_limit_tasks),
    Column("kernel_stacks", lambda row: row[0].frame.coverage.kernel_stacks),
    Column("missed", lambda row: row[0].frame.coverage.missed),
    Column("reuse_most_kib", lambda row: row[1].reuse_most_kib, modelled=True),
    Column("model_error_ratio", lambda row: row[0].model_error_ratio(), digits=6),
    Column("source", lambda row: row[0].source),
)


def as_table(reports: Sequence[HostEstimate]) -> str:
    """At most 80 columns."""
    from dynstack_probe.output.as_table import render, render_many

    return render(reports[0]) if len(reports) == 1 else render_many(reports)


def as_csv(reports: Sequence[HostEstimate]) -> str:
    """One row per capture and policy; for a report with groups, one per group."""
    first = reports[0]
    if first.groups is None:
        return csv_text(CSV, ((report, one) for report in reports for one in report.estimates))
    policy: Column[Group] = Column("policy", lambda _: first.estimates[0].policy)
    by: Column[Group] = Column("by", lambda _: first.by)
    return csv_text((policy, by, *GROUP), first.groups)


def as_json(reports: Sequence[HostEstimate]) -> str:
    """schema_version 1: fields are added, never renamed. Of several each, and their totals."""
    if len(reports) == 1:
        return json_text(document(reports[0]))
    return json_text(
        {
            "schema_version": SCHEMA_VERSION,
            "captures": [document(report) for report in reports],
            "total": [as_dict(TOTAL, total) for total in totals_of(reports)],
        }
    )


def document(report: HostEstimate) -> dict[str, Any]:
    frame = report.frame
    coverage, cost = frame.coverage, frame.cost
    kinds = report.kinds
    kthreads, user_threads = kernel_and_user(kinds)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "taken_at": frame.taken_at,
        "host": asdict(frame.host),
        "measured": {
            "stacks": len(frame.stacks),
            "kthreads": kthreads,
            "idle_tasks": kinds[Kind.IDLE],
            "user_threads": user_threads,
            "user_workers": kinds[Kind.USER_WORKER],
            "base_kib": frame.base_kib,
            "resident_kib": frame.stacks.resident_kib(),
            "tasks_by_pages": {str(n): count for n, count in report.pages.items()},
            "unreadable": coverage.unreadable,
            "kernel_stack_kib": coverage.kernel_stack_kib,
        },
        "coverage": {
            "kernel_stacks": coverage.kernel_stacks,
            "kernel_count_exact": coverage.refreshed,
            "read": coverage.read,
            "missed": coverage.missed,
            "erased": coverage.erased,
            "boot_idle_mark_bytes": coverage.boot_idle_mark_bytes,
        },
        "caveats": list(frame.caveats),
        "policies": [as_dict(ESTIMATE, estimate) for estimate in report.estimates],
        "deepest": [
            {"name": comm, "tid": tid, "mark_bytes": mark, "kind": kind.label}
            for comm, tid, mark, kind in report.deepest(5)
        ],
        "cost": {
            "child_start_seconds": cost.child_start_seconds,
            "compile_seconds": cost.compile_seconds,
            "load_seconds": cost.load_seconds,
            "scan_seconds": cost.scan_seconds,
            "child_peak_rss_kib": cost.child_peak_rss_kib,
        },
    }
    if frame.grown_kib is not None:
        result["measured"]["nr_dynamic_stacks_faults_kib"] = frame.grown_kib
    error = report.model_error_ratio()
    if error is not None:
        result["model_error"] = {"policy": report.estimates[0].policy, "resident_ratio": error}
    if report.series is not None:
        result["series"] = series_json(report.series)
    if report.details is not None:
        result["depths"] = _details(report.details)
    if report.groups is not None:
        result["groups_by"] = report.by
        result["groups_policy"] = report.estimates[0].policy
        result["groups"] = [as_dict(GROUP, group) for group in report.groups]
    return result


def _details(details: DepthDetails) -> dict[str, Any]:
    price = details.offset_price
    return {
        "by_role": [asdict(row) for row in details.by_role],
        "random_offset": {
            "active": details.random_offset,
            "user_stacks": price.user_stacks,
            "pages_low": price.low_pages,
            "pages_high": price.high_pages,
        },
        "shift_curve": [asdict(point) for point in details.curve],
    }


def cost_in_words(cost: Cost, render_seconds: float, peak_rss_kib: int) -> str:
    """What each step took, and what bcc printed."""
    return (
        f"child start {cost.child_start_seconds:.3f} s, compile {cost.compile_seconds:.3f} s,"
        f" load {cost.load_seconds:.3f} s, scan {cost.scan_seconds:.4f} s,"
        f" render {render_seconds:.3f} s; peak {peak_rss_kib} KiB,"
        f" child peak {cost.child_peak_rss_kib} KiB\n{cost.native_output}"
    ).rstrip()
