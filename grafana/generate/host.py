# SPDX-License-Identifier: GPL-2.0-or-later
"""One host: what a policy would save on it, how deep its tasks go, what the probe costs."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana.generate.panels import (
    BYTES,
    COSTLY,
    COUNT,
    COVERED,
    DEEP,
    HALF,
    HOW_MUCH,
    HOW_SAFE,
    NONE_TOO_DEEP,
    PER_SECOND,
    RATIO,
    RESERVES_LEFT,
    SECONDS,
    SIXTH,
    THIRD,
    WHAT_PRICE,
    Column,
    Query,
    Text,
    assembled,
    danger,
    datasource_variable,
    depths,
    dial,
    events,
    label_variable,
    lines,
    number,
    rows,
    verdict,
)

HOST = '{job="$job", instance="$instance"}'
POLICY = '{job="$job", instance="$instance", policy="$policy"}'
SAVED = f"dynstack_stack_bytes{HOST} - on (job, instance) dynstack_policy_stack_bytes{POLICY}"
RESERVE = f"dynstack_policy_reserve_bytes{POLICY}"
STEP = "$__rate_interval"
CGROUP_LINK = (
    "/d/dynstack-cgroup/?${datasource:queryparam}&${job:queryparam}&${instance:queryparam}"
    "&${policy:queryparam}&${__url_time_range}&var-cgroup=${__value.raw:percentencode}"
)


NET_COST = f"instance_policy:dynstack_modelled_net_cost:ratio5m{POLICY}"
TOO_DEEP = f"dynstack_policy_over_limit_tasks{POLICY}"
DEEPEST = f"instance:dynstack_deepest_stack:ratio{HOST}"
IN_RESERVES = f"instance_policy:dynstack_modelled_reserve_headroom:ratio{POLICY}"
NET_SAVED = f"{SAVED} - on (job, instance) {RESERVE}"
NET_OF_MEMORY = f"({NET_SAVED}) / on (job, instance) dynstack_host_memory_bytes{HOST}"


def _answers() -> Sequence[Builder[Panel]]:
    """Three numbers, what to conclude from each, and what stands behind them."""
    return [
        number(
            Text(
                "How much would $policy save? (modelled)",
                "Memory of kernel stacks that it would not need, less the pages that it keeps"
                " aside.",
            ),
            Query(NET_SAVED),
            BYTES,
            width=THIRD,
        ),
        number(
            Text(
                "What would it cost? (modelled)",
                "Stack faults less cheaper forks, of all CPU time, at prices calibrated here. Below"
                " zero: it would save CPU time too.",
            ),
            Query(NET_COST),
            RATIO,
            width=THIRD,
            decimals=6,
            steps=COSTLY,
        ),
        number(
            Text(
                "Is it safe? Tasks too deep (measured)",
                "Living tasks whose mark is deeper than the policy's stack: each would overflow, so"
                " that anything but 0 rules the policy out.",
            ),
            Query(TOO_DEEP),
            COUNT,
            width=THIRD,
            steps=NONE_TOO_DEEP,
        ),
        verdict(
            Text("So much: worth it? (modelled)", "By the share of all memory that is saved."),
            Query(NET_OF_MEMORY),
            HOW_MUCH,
        ),
        verdict(
            Text("At that price? (modelled)", "By the share of all CPU time, on balance."),
            Query(NET_COST),
            WHAT_PRICE,
        ),
        verdict(
            Text(
                "Safe enough? (modelled)",
                "By tasks that are too deep, the deepest stack now, free memory in reserves.",
            ),
            Query(danger(*(f"max({one})" for one in (TOO_DEEP, DEEPEST, IN_RESERVES)))),
            HOW_SAFE,
            COUNT,
        ),
        number(
            Text(
                "Saving (modelled)",
                "Share of the stacks' memory that the policy would not need, its reserve left out,"
                " as in the RFC's table.",
            ),
            Query(f"({SAVED}) / on (job, instance) dynstack_stack_bytes{HOST}"),
            RATIO,
            width=SIXTH,
            decimals=2,
        ),
        number(
            Text(
                "Of all memory (modelled)",
                "What is saved with the reserve paid, as a share of the host's memory.",
            ),
            Query(NET_OF_MEMORY),
            RATIO,
            width=SIXTH,
            decimals=4,
        ),
        number(
            Text(
                "Stack faults a second (modelled)",
                "Faults that the policy would take. Fixed sizes take none.",
            ),
            Query(f"instance_policy:dynstack_modelled_faults:rate5m{POLICY}"),
            PER_SECOND,
            width=SIXTH,
            decimals=1,
        ),
        number(
            Text(
                "A page fault may take more (measured)",
                "How much slower each page fault in kernel mode may get before that takes 0.1% of"
                " all CPU time.",
            ),
            Query(f"instance:dynstack_kernel_page_fault_break_even_seconds:ratio5m{HOST}"),
            SECONDS,
            width=SIXTH,
        ),
        dial(
            Text(
                "Deepest stack (measured)",
                "The deepest high-water mark of all living tasks, as a share of a whole stack. At"
                " 100% it overflows.",
            ),
            Query(DEEPEST),
            DEEP,
            width=SIXTH,
        ),
        dial(
            Text(
                "Coverage (measured)",
                "Stacks read, of those that the kernel counts. Its count is batched, so some dozens"
                " more or less, and a little above 100%, mean nothing.",
            ),
            Query(f"instance:dynstack_coverage:ratio{HOST}"),
            COVERED,
            width=SIXTH,
        ),
    ]


def _more_of_that() -> Sequence[Builder[Panel]]:
    return [
        number(
            Text(
                "Saving with the reserve (modelled)",
                "Share of the stacks' memory that the policy would not need, its reserve paid.",
            ),
            Query(f"({NET_SAVED}) / on (job, instance) dynstack_stack_bytes{HOST}"),
            RATIO,
            decimals=2,
        ),
        number(
            Text(
                "A stack fault may take (modelled)",
                "Before all of them take 0.1% of all CPU time; a minor page fault takes about"
                " 0.5 to 2 us.",
            ),
            Query(f"instance_policy:dynstack_modelled_fault_break_even_seconds:ratio5m{POLICY}"),
            SECONDS,
        ),
        number(
            Text(
                "Least free memory (measured)",
                "Above the zones' minimum watermarks, since the previous scan: what a growing stack"
                " could take.",
            ),
            Query(f"dynstack_memory_headroom_bytes{HOST}"),
            BYTES,
        ),
        number(
            Text(
                "Free memory in reserves (modelled)",
                "The same in multiples of the reserves of all CPUs. Below 10 refills compete for"
                " the last pages.",
            ),
            Query(IN_RESERVES),
            COUNT,
            steps=RESERVES_LEFT,
        ),
    ]


def _memory() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "Memory in kernel stacks: measured, and modelled under $policy",
                "Whole stacks as they are now, and what the policy would hold for the same tasks.",
            ),
            [
                Query(f"dynstack_stack_bytes{HOST}", "measured: whole stacks"),
                Query(
                    f"dynstack_policy_stack_bytes{POLICY} + {RESERVE}",
                    "modelled: {{policy}} with reserve",
                ),
                Query(f"dynstack_policy_stack_bytes{POLICY}", "modelled: {{policy}}"),
            ],
            BYTES,
        ),
        depths(
            Text(
                "Depth of living stacks (measured)",
                "How many living tasks have used 1, 2, ... pages of their stacks, ever. A page is"
                " 4 KiB.",
            ),
            Query(f"sum by (pages) (dynstack_tasks{HOST})", "{{pages}}"),
            "pages",
        ),
    ]


def _events() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "Stack faults a second under $policy (modelled)",
                "Faults that the policy would take, and pages which they would map or get with a"
                " cached stack. Only policies that grow on a fault have these.",
            ),
            [
                Query(f"rate(dynstack_policy_faults_total{POLICY}[{STEP}])", "modelled: faults"),
                Query(
                    f"rate(dynstack_policy_fault_pages_total{POLICY}[{STEP}])",
                    "modelled: pages mapped",
                ),
                Query(
                    f"rate(dynstack_policy_avoided_fault_pages_total{POLICY}[{STEP}])",
                    "modelled: pages that came with a cached stack",
                ),
            ],
            PER_SECOND,
        ),
        lines(
            Text(
                "Page faults a second (measured)",
                "All page faults of the host by CPU mode: each would pay for a longer fault path.",
            ),
            [Query(f"rate(dynstack_page_faults_total{HOST}[{STEP}])", "measured: {{mode}}")],
            PER_SECOND,
        ),
        lines(
            Text(
                "Tasks created a second (measured)",
                "And those of them whose stack came from the kernel's cache of freed ones.",
            ),
            [
                Query(f"rate(dynstack_created_tasks_total{HOST}[{STEP}])", "measured: created"),
                Query(
                    f"rate(dynstack_reused_stacks_total{HOST}[{STEP}])", "measured: stack reused"
                ),
            ],
            PER_SECOND,
            width=THIRD,
        ),
        lines(
            Text(
                "Exits a second by final depth (measured)",
                "Pages that exiting tasks had used in their lifetime.",
            ),
            [
                Query(
                    f"sum by (pages) (rate(dynstack_exited_tasks_total{HOST}[{STEP}]))",
                    "measured: {{pages}} pages",
                )
            ],
            PER_SECOND,
            width=THIRD,
            stacked=True,
        ),
        lines(
            Text(
                "Late growth a second by age (measured)",
                "Tasks found a page deeper than one scan earlier, by their age then: an upper"
                " bound for what a reclaiming policy would have to map again.",
            ),
            [
                Query(
                    f"sum by (age) (rate(dynstack_late_growth_tasks_total{HOST}[{STEP}]))",
                    "measured: {{age}}",
                )
            ],
            PER_SECOND,
            width=THIRD,
        ),
    ]


def _cgroups() -> Sequence[Builder[Panel]]:
    return [
        rows(
            Text(
                "Top cgroups: measured, and modelled under $policy",
                "Kernel stacks of each cgroup's tasks; 'other' is the sum of all without a row."
                " Click a name for its history.",
            ),
            {"cgroup": "Cgroup"},
            [
                Column(
                    "Measured: whole stacks",
                    f"sum by (cgroup) (dynstack_cgroup_stack_bytes{HOST})",
                    BYTES,
                ),
                Column(
                    "Modelled: held",
                    f"sum by (cgroup) (dynstack_cgroup_policy_stack_bytes{POLICY})",
                    BYTES,
                ),
                Column(
                    "Modelled: saving",
                    f"1 - sum by (cgroup) (dynstack_cgroup_policy_stack_bytes{POLICY})"
                    f" / sum by (cgroup) (dynstack_cgroup_stack_bytes{HOST})",
                    RATIO,
                    2,
                ),
            ],
            sort="Measured: whole stacks",
            links={"Cgroup": CGROUP_LINK},
        ),
    ]


def _own_cost() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "The probe's CPU (measured)",
                "Share of one CPU: the daemon itself, and its BPF programs in the kernel.",
            ),
            [
                Query(f"rate(process_cpu_seconds_total{HOST}[{STEP}])", "measured: daemon"),
                Query(
                    f"rate(dynstack_bpf_run_seconds_total{HOST}[{STEP}])",
                    "measured: BPF {{program}}",
                ),
            ],
            RATIO,
            width=THIRD,
        ),
        lines(
            Text(
                "The probe's memory (measured)", "The daemon's resident memory, and its BPF maps."
            ),
            [
                Query(f"process_resident_memory_bytes{HOST}", "measured: daemon"),
                Query(f"dynstack_bpf_memory_bytes{HOST}", "measured: BPF maps"),
            ],
            BYTES,
            width=THIRD,
        ),
        lines(
            Text(
                "Time of a scan and a scrape (measured)",
                "A scan reads the stacks of tasks that have run; a scrape reports the last scan.",
            ),
            [
                Query(f"dynstack_scan_duration_seconds{HOST}", "measured: scan"),
                Query(f"scrape_duration_seconds{HOST}", "measured: scrape"),
            ],
            SECONDS,
            width=THIRD,
        ),
        lines(
            Text(
                "Stacks read again in a scan (measured)",
                "Stacks whose tasks had run since the previous scan, beside all stacks.",
            ),
            [
                Query(f"dynstack_scan_reread_stacks{HOST}", "measured: read again"),
                Query(f"dynstack_stacks_read{HOST}", "measured: all"),
            ],
            COUNT,
            width=HALF,
        ),
        lines(
            Text(
                "What the probe could not count (measured)",
                "Events lost, by reason, and stacks that could not be read or that KSTACK_ERASE"
                " overwrote: all zero on a good day.",
            ),
            [
                Query(f"dynstack_lost_events_total{HOST}", "measured: lost, {{reason}}"),
                Query(f"dynstack_stacks_unreadable{HOST}", "measured: unreadable"),
                Query(f"dynstack_stacks_erased{HOST}", "measured: erased"),
                Query(f"dynstack_cgroup_uncounted_stacks{HOST}", "measured: in no cgroup's series"),
            ],
            COUNT,
            width=HALF,
        ),
    ]


def host() -> Dashboard:
    """The dashboard."""
    return assembled(
        "dynstack-host",
        "Dynamic kernel stacks: Host",
        "What one host would save if its kernel stacks grew on demand, and what the probe costs.",
        "6h",
        [
            datasource_variable(),
            label_variable("job", "Job", "dynstack_stack_bytes", many=False),
            label_variable("instance", "Host", 'dynstack_stack_bytes{job="$job"}', many=False),
            label_variable(
                "policy",
                "Policy",
                f"dynstack_policy_stack_bytes{HOST}",
                many=False,
                first="rfc-v1",
            ),
        ],
        {
            "How much, at what price, how safe?": _answers(),
            "More of that": _more_of_that(),
            "Memory and depth": _memory(),
            "Faults and lifecycle": _events(),
            "Cgroups": _cgroups(),
            "The probe's own cost": _own_cost(),
        },
        events(HOST),
    )
