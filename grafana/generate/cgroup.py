# SPDX-License-Identifier: GPL-2.0-or-later
"""One cgroup of one host: what its tasks' stacks hold, and would hold under a policy."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana.generate.host import HOST
from grafana.generate.panels import (
    BYTES,
    COUNT,
    RATIO,
    Query,
    Text,
    assembled,
    datasource_variable,
    events,
    label_variable,
    lines,
    number,
)

CGROUP = '{job="$job", instance="$instance", cgroup="$cgroup"}'
CHOSEN = '{job="$job", instance="$instance", cgroup="$cgroup", policy="$policy"}'
WHOLE = f"dynstack_cgroup_stack_bytes{CGROUP}"
HELD = f"dynstack_cgroup_policy_stack_bytes{CHOSEN}"
SAVED = f"{WHOLE} - on (job, instance, cgroup) {HELD}"


def _now() -> Sequence[Builder[Panel]]:
    return [
        number(
            Text("Whole stacks (measured)", "Kernel stacks of the cgroup's tasks as they are now."),
            Query(WHOLE),
            BYTES,
        ),
        number(
            Text(
                "Stacks (measured)",
                "The number of tasks: whole stacks divided by the size of one.",
            ),
            Query(f"{WHOLE} / on (job, instance) dynstack_thread_size_bytes{HOST}"),
            COUNT,
        ),
        number(
            Text(
                "Saved under $policy (modelled)",
                "Memory that the policy would not need. The reserve is the host's and is left out.",
            ),
            Query(SAVED),
            BYTES,
        ),
        number(
            Text("Saving (modelled)", "The same as a share of the cgroup's whole stacks."),
            Query(f"({SAVED}) / on (job, instance, cgroup) {WHOLE}"),
            RATIO,
            decimals=2,
        ),
    ]


def _over_time() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "Memory in kernel stacks: measured, and modelled under each policy",
                "Whole stacks of the cgroup's tasks, and what each policy would hold for them.",
            ),
            [
                Query(WHOLE, "measured: whole stacks"),
                Query(f"dynstack_cgroup_policy_stack_bytes{CGROUP}", "modelled: {{policy}}"),
            ],
            BYTES,
        ),
        lines(
            Text(
                "Share of the host's stacks (measured)",
                "This cgroup's share of all memory in kernel stacks on the host.",
            ),
            [
                Query(
                    f"{WHOLE} / on (job, instance) group_left () dynstack_stack_bytes{HOST}",
                    "measured: {{cgroup}}",
                )
            ],
            RATIO,
        ),
    ]


def cgroup() -> Dashboard:
    """The dashboard."""
    return assembled(
        "dynstack-cgroup",
        "Dynamic kernel stacks: Cgroup",
        "What the tasks of one cgroup would save if their kernel stacks grew on demand.",
        "6h",
        [
            datasource_variable(),
            label_variable("job", "Job", "dynstack_stack_bytes", many=False),
            label_variable("instance", "Host", 'dynstack_stack_bytes{job="$job"}', many=False),
            label_variable("cgroup", "Cgroup", f"dynstack_cgroup_stack_bytes{HOST}", many=False),
            label_variable(
                "policy",
                "Policy",
                f"dynstack_policy_stack_bytes{HOST}",
                many=False,
                first="rfc-v1",
            ),
        ],
        {"Now": _now(), "Over time": _over_time()},
        events(HOST),
    )
