# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/metrics.md and docs/policies.md from the code: python -m tests.documents.reference."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from dynstack_probe.output.policies import explain
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.serve.collector import HostCollector, ScanCounter
from tests import ROOT
from tests.factory import COSTS
from tests.scale.test_series import busiest_sample

METRICS_HEAD = """# Metrics

What `dynstack-probe serve` exports, made from its code by `make documents`. Measured unless it
says *Modelled* or *Calibrated*. No label grows with the number of tasks; `cgroup` has at most
`top_cgroups` values and `other`. Counters also have a `_created` time where the scraper asks for
OpenMetrics. The process's own `process_*` metrics are those of every Prometheus client.

Which way figures err: marks err low (a word that was used and holds zero is not seen), so
whatever follows from them does; the modelled ones err as `docs/policies.md` says of each policy;
scans are up to `interval_seconds` old; the kernel's own count is batched per CPU and off by some
dozens of stacks.

| metric | type | labels | unit | meaning |
|---|---|---|---|---|
"""
POLICIES_HEAD = """# Policies

Models of allocators for kernel stacks that were proposed or shipped, each with its source, its
formula, and what it leaves out with the direction in which that errs. Made from the code by `make
documents`; the same text is `dynstack-probe policies --explain NAME`. CONTRIBUTING.md shows how to
add one; one of your own, for a single run, is a TOML file (`policies --help`).
"""
UNITS = {"bytes": "bytes", "seconds": "seconds", "ratio": "ratio", "timestamp": "Unix time"}


def families() -> list[Metric]:
    """All that can be on the page."""
    policies = [policy for policy in BUILT_IN.values() if policy.marks_suffice]
    newest = ScanCounter().add(busiest_sample(16384), policies, COSTS.calibration)
    registry = CollectorRegistry()
    registry.register(
        HostCollector(lambda: newest, lambda: policies, lambda: 2, dict, lambda: COSTS, 1)
    )
    return list(registry.collect())


def unit_of(name: str) -> str:
    words = name.split("_")
    if "timestamp" in words:
        return UNITS["timestamp"]
    return next((UNITS[word] for word in reversed(words) if word in UNITS), "count")


def row_of(family: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    shown = ", ".join(f"`{label}`" for label in labels)
    name = f"{family.name}{suffix}"
    return (
        f"| `{name}` | {family.type} | {shown} | {unit_of(family.name)} | {family.documentation} |"
    )


def metrics() -> str:
    rows = sorted(row_of(family) for family in families())
    return METRICS_HEAD + "\n".join(rows) + "\n"


def policies() -> str:
    return "\n".join(_policy_parts())


def _policy_parts() -> Iterable[str]:
    yield POLICIES_HEAD
    for policy in BUILT_IN.values():
        yield f"## {policy.name}\n\n```\n{explain(policy)}\n```\n"


PAGES = {"metrics.md": metrics, "policies.md": policies}


def main() -> None:
    for name, made in PAGES.items():
        (ROOT / "docs" / name).write_text(made())


if __name__ == "__main__":
    main()
