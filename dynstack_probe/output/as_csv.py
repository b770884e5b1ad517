"""`estimate --format csv`: a row a policy, or with --by a row a group."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from dynstack_probe.output.model import EstimateReport
from dynstack_probe.text import printable, spreadsheet_safe

POLICY_COLUMNS = (
    "cpu_model",
    "cpus",
    "kernel_release",
    "policy",
    "stacks",
    "base_kib",
    "dynamic_kib",
    "reserve_kib",
    "saving_ratio",
    "saving_with_reserve_ratio",
    "saving_of_ram_ratio",
    "faults_min",
    "faults_best",
    "faults_max",
    "over_limit_tasks",
    "kernel_stacks",
    "missed",
    "source",
)
GROUP_COLUMNS = (
    *("policy", "by", "name", "stacks", "base_kib", "dynamic_kib"),
    *("saving_ratio", "worst_mark_bytes"),
)


def render(report: EstimateReport) -> str:
    """CSV with a header line. Names that look like a formula get a leading quote."""
    return render_many([report]) if report.groups is None else _render_groups(report)


def render_many(reports: Sequence[EstimateReport]) -> str:
    """A row a capture and policy."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(POLICY_COLUMNS)
    for report in reports:
        host, coverage = report.frame.host, report.frame.coverage
        for estimate in report.estimates:
            writer.writerow(
                (
                    spreadsheet_safe(printable(host.cpu_model)),
                    host.cpus,
                    printable(host.kernel_release),
                    estimate.policy,
                    estimate.stacks,
                    estimate.base_kib,
                    estimate.dynamic_kib,
                    estimate.reserve_kib,
                    f"{estimate.saving_ratio:.6f}",
                    f"{estimate.saving_with_reserve_ratio:.6f}",
                    f"{estimate.saving_of_ram_ratio:.9f}",
                    *estimate.faults,
                    estimate.over_limit_tasks,
                    coverage.kernel_stacks,
                    coverage.missed,
                    spreadsheet_safe(printable(report.source)),
                )
            )
    return buffer.getvalue()


def _render_groups(report: EstimateReport) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(GROUP_COLUMNS)
    policy = report.estimates[0].policy
    for group in report.groups or ():
        writer.writerow(
            (
                policy,
                report.by,
                spreadsheet_safe(printable(group.name)),
                group.stacks,
                group.base_kib,
                group.dynamic_kib,
                f"{group.saving_ratio:.6f}",
                group.worst_mark_bytes,
            )
        )
    return buffer.getvalue()
