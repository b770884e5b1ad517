# SPDX-License-Identifier: GPL-2.0-or-later
"""`estimate --format json`: schema_version 1. Fields are added, never renamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynstack_probe.analysis.host_estimate import (
    DepthDetails,
    HostEstimate,
    kernel_and_user,
    totals_of,
)
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.columns import as_dict, json_text
from dynstack_probe.output.estimates import ESTIMATE, GROUP, TOTAL
from dynstack_probe.output.savings import series_json

SCHEMA_VERSION = 1


def document(report: HostEstimate) -> dict[str, Any]:
    """The whole report as plain dictionaries."""
    frame = report.frame
    host, coverage, cost = frame.host, frame.coverage, frame.cost
    kinds = report.kinds()
    kthreads, user_threads = kernel_and_user(kinds)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "taken_at": frame.taken_at,
        "host": {
            "cpu_model": host.cpu_model,
            "cpus": host.cpus,
            "kernel_release": host.kernel_release,
            "thread_size_bytes": host.thread_size_bytes,
            "page_size_bytes": host.page_size_bytes,
            "mem_total_kib": host.mem_total_kib,
        },
        "measured": {
            "stacks": len(frame.stacks),
            "kthreads": kthreads,
            "idle_tasks": kinds[Kind.IDLE],
            "user_threads": user_threads,
            "user_workers": kinds[Kind.USER_WORKER],
            "base_kib": frame.base_kib,
            "resident_kib": frame.stacks.resident_kib(),
            "tasks_by_pages": {str(n): count for n, count in report.tasks_by_pages().items()},
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


def render(report: HostEstimate) -> str:
    return json_text(document(report))


def render_many(reports: Sequence[HostEstimate]) -> str:
    """One document a capture, and the total of each policy."""
    totals = [as_dict(TOTAL, total) for total in totals_of(reports)]
    result = {
        "schema_version": SCHEMA_VERSION,
        "captures": [document(report) for report in reports],
        "total": totals,
    }
    return json_text(result)
