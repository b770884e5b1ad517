"""`estimate --format json`: schema_version 1. Fields are added, never renamed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynstack_probe.analysis.estimate import Estimate
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output.model import DepthDetails, EstimateReport, kernel_and_user, totals_of
from dynstack_probe.text import printable

SCHEMA_VERSION = 1


def savings(estimate: Estimate) -> dict[str, Any]:
    """The fields by which each command tells what a policy would save."""
    return {
        "dynamic_kib": estimate.dynamic_kib,
        "reserve_kib": estimate.reserve_kib,
        "saving_ratio": estimate.saving_ratio,
        "saving_with_reserve_ratio": estimate.saving_with_reserve_ratio,
        "saving_of_ram_ratio": estimate.saving_of_ram_ratio,
        "saving_with_reserve_of_ram_ratio": estimate.saving_with_reserve_of_ram_ratio,
        "over_limit_tasks": estimate.over_limit_tasks,
    }


def _policy(estimate: Estimate) -> dict[str, Any]:
    return {"name": estimate.policy, **savings(estimate), "faults": estimate.faults._asdict()}


def document(report: EstimateReport) -> dict[str, Any]:
    """The whole report as plain dictionaries."""
    frame = report.frame
    host, coverage, cost = frame.host, frame.coverage, frame.cost
    kinds = report.kinds()
    kthreads, user_threads = kernel_and_user(kinds)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "source": printable(report.source),
        "taken_at": frame.taken_at,
        "host": {
            "cpu_model": printable(host.cpu_model),
            "cpus": host.cpus,
            "kernel_release": printable(host.kernel_release),
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
        "policies": [_policy(estimate) for estimate in report.estimates],
        "deepest": [
            {"name": printable(comm), "tid": tid, "mark_bytes": mark, "kind": kind.label}
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
    if report.details is not None:
        result["depths"] = _details(report.details)
    if report.groups is not None:
        result["groups_by"] = report.by
        result["groups_policy"] = report.estimates[0].policy
        result["groups"] = [
            {
                "name": printable(group.name),
                "stacks": group.stacks,
                "base_kib": group.base_kib,
                "dynamic_kib": group.dynamic_kib,
                "saving_ratio": group.saving_ratio,
                "worst_mark_bytes": group.worst_mark_bytes,
            }
            for group in report.groups
        ]
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


def render(report: EstimateReport) -> str:
    """JSON text, one trailing newline. Task names are escaped as in every output."""
    return json.dumps(document(report), indent=2, ensure_ascii=False) + "\n"


def render_many(reports: Sequence[EstimateReport]) -> str:
    """One document a capture, and the total of each policy."""
    totals = [asdict(total) for total in totals_of(reports)]
    result = {
        "schema_version": SCHEMA_VERSION,
        "captures": [document(report) for report in reports],
        "total": totals,
    }
    return json.dumps(result, indent=2, ensure_ascii=False) + "\n"
