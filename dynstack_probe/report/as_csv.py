"""`estimate --format csv`: a row a policy, or with --by a row a group."""

from __future__ import annotations

import csv
import io

from dynstack_probe.report.model import EstimateReport
from dynstack_probe.report.text import printable, spreadsheet_safe

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
)
GROUP_COLUMNS = ("policy", "by", "name", "stacks", "base_kib", "dynamic_kib")


def render(report: EstimateReport) -> str:
    """CSV with a header line. Names that look like a formula get a leading quote."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    host, coverage = report.snapshot.host, report.snapshot.coverage
    if report.groups is not None:
        writer.writerow(GROUP_COLUMNS)
        policy = report.estimates[0].policy
        for group in report.groups:
            name = spreadsheet_safe(printable(group.name))
            writer.writerow(
                (policy, report.by, name, group.stacks, group.base_kib, group.dynamic_kib)
            )
        return buffer.getvalue()
    writer.writerow(POLICY_COLUMNS)
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
            )
        )
    return buffer.getvalue()
