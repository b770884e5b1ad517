"""`dynstack-probe estimate`."""

from __future__ import annotations

import enum
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynstack_probe.measure.snapshot import Snapshot
    from dynstack_probe.policy import Policy
    from dynstack_probe.report.model import EstimateReport


class Format(enum.StrEnum):
    """How to print."""

    table = "table"
    json = "json"
    csv = "csv"


class By(enum.StrEnum):
    """What to group stacks by."""

    comm = "comm"
    cgroup = "cgroup"
    kind = "kind"


HELP = """Estimate the memory that on-demand kernel stacks would save on this host.

Reads every task's stack high-water mark through BPF (about a second; nothing stays
behind) and prints the row that this machine would have in the RFC's table:
BASE(kb) is what its kernel stacks hold now, Dynamic(kb) what they would hold.

\b
  sudo dynstack-probe estimate
  sudo dynstack-probe estimate --policy rfc-v1 --policy static-8k
  sudo dynstack-probe estimate --by cgroup --format csv --output stacks.csv

Dynamic(kb) errs low: under the RFC a freed stack keeps its grown pages for the next
task, which one scan cannot see. Exit codes: 0 good, 1 failed, 2 usage, 3 this kernel
can't be measured, 4 not permitted (CAP_BPF and CAP_PERFMON are needed).
"""


def choose_policies(names: Sequence[str]) -> list[Policy]:
    """The built-in policies of these names, each once; UsageError for an unknown one."""
    from dynstack_probe.policy import BUILT_IN

    for name in names:
        if name not in BUILT_IN:
            known = ", ".join(BUILT_IN)
            raise UsageError(f"unknown policy {name!r}: choose from {known}")
    return [BUILT_IN[name] for name in dict.fromkeys(names)]


def build_report(snapshot: Snapshot, policies: Sequence[Policy], by: str | None) -> EstimateReport:
    """Apply the policies; the first is the headline and the groups' one."""
    from dynstack_probe.measure.grouping import group_names
    from dynstack_probe.policy import count_shapes, estimate, group_by
    from dynstack_probe.report.model import EstimateReport

    shapes = count_shapes(snapshot.stacks)
    groups = None
    if by is not None:
        names = group_names(snapshot, by)
        groups = group_by(policies[0], snapshot.stacks, names, snapshot.host)
    return EstimateReport(
        snapshot=snapshot,
        shapes=shapes,
        estimates=[estimate(policy, shapes, snapshot.host) for policy in policies],
        by=by,
        groups=groups,
    )


def render(report: EstimateReport, form: Format) -> str:
    """The report in the form asked for."""
    if form is Format.json:
        from dynstack_probe.report import as_json

        return as_json.render(report)
    if form is Format.csv:
        from dynstack_probe.report import as_csv

        return as_csv.render(report)
    from dynstack_probe.report import as_table

    return as_table.render(report)


def command(
    policy: list[str] = typer.Option(
        ["rfc-v1"],
        "--policy",
        metavar="NAME",
        help="Allocator model: rfc-v1, static-8k, static-12k. Repeat to compare.",
    ),
    form: Format = typer.Option(Format.table, "--format", help="How to print."),
    by: Optional[By] = typer.Option(None, "--by", help="Group stacks as well."),  # noqa: UP045
    output: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--output", "-o", help="Write to this file instead of the terminal."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite --output if it exists."),
    btf: Path = typer.Option(
        Path("/sys/kernel/btf/vmlinux"), "--btf", help="The running kernel's type information."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Show what bcc printed and what each step took."
    ),
) -> None:
    """Run HELP's command."""
    from dynstack_probe.report.output import check_writable, write

    policies = choose_policies(policy)
    check_writable(output, force)

    from dynstack_probe.measure.stack_scan import take_snapshot

    snapshot = take_snapshot(btf, with_cgroup_paths=by is By.cgroup)
    scanned = time.perf_counter()
    report = build_report(snapshot, policies, by.value if by else None)
    write(render(report, form), output, force)
    if verbose:
        print(explain_cost(snapshot, time.perf_counter() - scanned), file=sys.stderr)


def explain_cost(snapshot: Snapshot, render_seconds: float) -> str:
    """What each step took, and what bcc printed."""
    from dynstack_probe.kernel.host import peak_rss_kib

    cost = snapshot.cost
    return (
        f"child start {cost.child_start_seconds:.3f} s, compile {cost.compile_seconds:.3f} s,"
        f" load {cost.load_seconds:.3f} s, scan {cost.scan_seconds:.4f} s,"
        f" render {render_seconds:.3f} s; peak {peak_rss_kib()} KiB,"
        f" child peak {cost.child_peak_rss_kib} KiB\n{cost.native_output}"
    ).rstrip()
