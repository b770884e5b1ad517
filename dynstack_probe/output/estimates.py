# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns of estimates and of groups of stacks, and what an estimate took."""

from __future__ import annotations

from dynstack_probe.analysis.estimate import Estimate, Group
from dynstack_probe.analysis.host_estimate import Total
from dynstack_probe.model.frame import Cost
from dynstack_probe.output.columns import Column
from dynstack_probe.output.savings import BASE, DYNAMIC, POLICY, SAVING, STACKS

ESTIMATE: tuple[Column[Estimate], ...] = (
    Column("name", lambda one: one.policy),
    *POLICY,
    Column("over_limit_tasks", lambda one: one.over_limit_tasks),
    Column("faults", lambda one: one.faults._asdict()),
    Column("reuse_most_kib", lambda one: one.reuse_most_kib),
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


def cost_in_words(cost: Cost, render_seconds: float, peak_rss_kib: int) -> str:
    """What each step took, and what bcc printed."""
    return (
        f"child start {cost.child_start_seconds:.3f} s, compile {cost.compile_seconds:.3f} s,"
        f" load {cost.load_seconds:.3f} s, scan {cost.scan_seconds:.4f} s,"
        f" render {render_seconds:.3f} s; peak {peak_rss_kib} KiB,"
        f" child peak {cost.child_peak_rss_kib} KiB\n{cost.native_output}"
    ).rstrip()
