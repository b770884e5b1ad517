# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies side by side, on the chosen hosts together."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana.generate.panels import (
    BYTES,
    COSTLY,
    COUNT,
    NONE_TOO_DEEP,
    PER_SECOND,
    RATIO,
    RESERVES_LEFT,
    Column,
    Query,
    Text,
    assembled,
    datasource_variable,
    events,
    label_variable,
    lines,
    rows,
)

HOSTS = '{job=~"$job", instance=~"$instance"}'
POLICIES = '{job=~"$job", instance=~"$instance", policy=~"$policy"}'
STEP = "$__rate_interval"

HELD = f"sum by (policy) (dynstack_policy_stack_bytes{POLICIES})"
RESERVE = f"sum by (policy) (dynstack_policy_reserve_bytes{POLICIES})"
# Over the hosts that have the policy, which are not all while it is rolled out.
SAVED = (
    f"sum by (policy) (dynstack_stack_bytes{HOSTS}"
    f" - on (job, instance) group_right () dynstack_policy_stack_bytes{POLICIES})"
)
SAVING = f"{SAVED} / ({SAVED} + {HELD})"
SAVING_WITH_RESERVE = f"({SAVED} - {RESERVE}) / ({SAVED} + {HELD})"
FAULTS = f"sum by (policy) (rate(dynstack_policy_faults_total{POLICIES}[{STEP}]))"
# Of all CPU time of the hosts that tell: `* 0 +` is their CPUs with the policy's label.
NET_RULE = f"instance_policy:dynstack_modelled_net_cost:ratio5m{POLICIES}"
CPUS = f"on (job, instance) group_left () dynstack_host_cpus{HOSTS}"
NET_COST = f"sum by (policy) ({NET_RULE} * {CPUS}) / sum by (policy) ({NET_RULE} * 0 + {CPUS})"
HEADROOM = f"min by (policy) (instance_policy:dynstack_modelled_reserve_headroom:ratio{POLICIES})"
OVER_LIMIT = f"sum by (policy) (dynstack_policy_over_limit_tasks{POLICIES})"


def _table() -> Sequence[Builder[Panel]]:
    return [
        rows(
            Text(
                "Policies now: modelled, and measured where it says so",
                "All chosen hosts together: saving, cost, safety. Below zero CPU time is saved"
                " too. No faults where a policy does not grow on a fault; free memory is that of"
                " the host with the least.",
            ),
            {"policy": "Policy"},
            [
                Column("Held (modelled)", HELD, BYTES),
                Column("Reserve (modelled)", RESERVE, BYTES),
                Column("Saving (modelled)", SAVING, RATIO, 2),
                Column("Saving with reserve (modelled)", SAVING_WITH_RESERVE, RATIO, 2),
                Column("Net CPU cost (modelled)", NET_COST, RATIO, 6, COSTLY),
                Column("Faults (modelled)", FAULTS, PER_SECOND, 1),
                Column("Tasks too deep (measured marks)", OVER_LIMIT, steps=NONE_TOO_DEEP),
                Column("Least free memory in reserves (modelled)", HEADROOM, steps=RESERVES_LEFT),
            ],
            sort="Saving with reserve (modelled)",
        )
    ]


def _over_time() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "Saving with the reserve (modelled)",
                "Share of the stacks' memory that each policy would not need, all it keeps aside"
                " counted in.",
            ),
            [Query(SAVING_WITH_RESERVE, "modelled: {{policy}}")],
            RATIO,
        ),
        lines(
            Text(
                "Saving without the reserve (modelled)",
                "The same without what is kept aside, as the RFC's table has it.",
            ),
            [Query(SAVING, "modelled: {{policy}}")],
            RATIO,
        ),
        lines(
            Text(
                "Memory held with the reserve: modelled, beside whole stacks as measured",
                "What the same tasks' stacks hold now, and would hold under each policy.",
            ),
            [
                Query(f"{HELD} + {RESERVE}", "modelled: {{policy}}"),
                Query(f"sum(dynstack_stack_bytes{HOSTS})", "measured: whole stacks"),
            ],
            BYTES,
        ),
        lines(
            Text("Reserve (modelled)", "Pages that each policy keeps aside, whether used or not."),
            [Query(RESERVE, "modelled: {{policy}}")],
            BYTES,
        ),
        lines(
            Text(
                "Stack faults a second (modelled)",
                "Faults that each policy would take; only those that grow on a fault take any.",
            ),
            [Query(FAULTS, "modelled: {{policy}}")],
            PER_SECOND,
        ),
        lines(
            Text(
                "Net CPU cost (modelled)",
                "Stack faults less cheaper forks, of all CPU time. Below zero the policy would"
                " save CPU time too.",
            ),
            [Query(NET_COST, "modelled: {{policy}}")],
            RATIO,
        ),
        lines(
            Text(
                "Least free memory in reserves (modelled)",
                "Free memory above the minimum watermarks in multiples of the reserves of all"
                " CPUs, of the host with the least. Below 10 refills compete for the last pages.",
            ),
            [Query(HEADROOM, "modelled: {{policy}}")],
            COUNT,
        ),
        lines(
            Text(
                "Pages mapped in faults a second (modelled)",
                "What those faults would have to find in the reserve; one fault may map several.",
            ),
            [
                Query(
                    f"sum by (policy) (rate(dynstack_policy_fault_pages_total{POLICIES}[{STEP}]))",
                    "modelled: {{policy}}",
                )
            ],
            PER_SECOND,
        ),
        lines(
            Text(
                "Pages that came with a cached stack, a second (modelled)",
                "Pages used without a fault, since the stack's previous owner had grown them.",
            ),
            [
                Query(
                    "sum by (policy)"
                    f" (rate(dynstack_policy_avoided_fault_pages_total{POLICIES}[{STEP}]))",
                    "modelled: {{policy}}",
                )
            ],
            PER_SECOND,
        ),
        lines(
            Text(
                "Living tasks too deep for the policy (measured marks)",
                "Tasks whose measured mark is deeper than the policy's stack: each is an overflow.",
            ),
            [Query(OVER_LIMIT, "measured marks: {{policy}}")],
            COUNT,
        ),
    ]


def policies() -> Dashboard:
    """The dashboard."""
    jobs = '{job=~"$job"}'
    return assembled(
        "dynstack-policies",
        "Dynamic kernel stacks: Policies",
        "Policies side by side. Which ones there are is up to `policies` in the daemons'"
        " configuration.",
        "24h",
        [
            datasource_variable(),
            label_variable("job", "Job", "dynstack_stack_bytes", many=True),
            label_variable("instance", "Hosts", f"dynstack_stack_bytes{jobs}", many=True),
            label_variable("policy", "Policies", f"dynstack_policy_stack_bytes{HOSTS}", many=True),
        ],
        {"Now": _table(), "Over time": _over_time()},
        events(HOSTS),
    )
