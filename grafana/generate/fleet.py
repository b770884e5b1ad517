# SPDX-License-Identifier: GPL-2.0-or-later
"""All hosts: the RFC's table of today, spread and course of the saving, who stands out.

What is summed over hosts comes from grafana/rules/dynstack-recording.yml.
"""

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
    FULL_WIDTH,
    HALF,
    HOW_MUCH,
    HOW_SAFE,
    NONE_TOO_DEEP,
    PER_SECOND,
    RATIO,
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
    events,
    label_variable,
    lines,
    number,
    ranking,
    rows,
    verdict,
)

JOB = '{job=~"$job"}'
JOB_POLICY = '{job=~"$job", policy="$policy"}'
HOSTS = '{job=~"$job", instance=~"$instance"}'
HOSTS_POLICY = '{job=~"$job", instance=~"$instance", policy="$policy"}'
_TO_HOST = "/d/dynstack-host/?${datasource:queryparam}&${policy:queryparam}&${__url_time_range}"
HOST_LINK = f"{_TO_HOST}&var-job=${{__data.fields.Job}}&var-instance=${{__value.text}}"
BAR_LINK = f"{_TO_HOST}&var-job=${{__field.labels.job}}&var-instance=${{__field.labels.instance}}"


def _recorded(level: str, rule: str) -> str:
    """A recorded sum over the chosen jobs, for each value of `level`, for all without one."""
    prefix = f"job_{level}" if level else "job"
    by = f" by ({level})" if level else ""
    if rule.startswith("dynstack_modelled"):
        return f"sum{by} ({prefix}_policy:{rule}{JOB_POLICY})"
    return f"sum{by} ({prefix}:{rule}{JOB})"


def _saving(level: str, *, with_reserve: bool = False) -> str:
    """Saved, less the reserve if asked for, as a share of whole stacks."""
    saved = _recorded(level, "dynstack_modelled_saved_bytes:sum")
    held = _recorded(level, "dynstack_modelled_stack_bytes:sum")
    reserve = _recorded(level, "dynstack_modelled_reserve_bytes:sum")
    net = f"({saved} - {reserve})" if with_reserve else saved
    return f"{net} / ({saved} + {held})"


def _rfc_columns(level: str) -> list[Column]:
    return [
        Column("Hosts", _recorded(level, "dynstack_hosts:count")),
        Column("CPUs", _recorded(level, "dynstack_host_cpus:sum")),
        Column("Stacks (measured)", _recorded(level, "dynstack_stacks_read:sum")),
        Column("Base (measured)", _recorded(level, "dynstack_stack_bytes:sum"), BYTES),
        Column("Dynamic (modelled)", _recorded(level, "dynstack_modelled_stack_bytes:sum"), BYTES),
        Column("Saving (modelled)", _saving(level), RATIO, 2),
        Column("Saving with reserve (modelled)", _saving(level, with_reserve=True), RATIO, 2),
        Column(
            "Net CPU cost (modelled)",
            f"avg by ({level}) (job_{level}_policy:dynstack_modelled_net_cost:ratio5m{JOB_POLICY})",
            RATIO,
            6,
        ),
        Column(
            "A kernel page fault may take more (measured)",
            f"min by ({level})"
            f" (job_{level}:dynstack_kernel_page_fault_break_even_seconds:ratio5m{JOB})",
            SECONDS,
            1,
        ),
        Column(
            "Least free memory (measured)",
            f"min by ({level}) (job_{level}:dynstack_memory_headroom_bytes:min{JOB})",
            BYTES,
        ),
    ]


def _answers() -> Sequence[Builder[Panel]]:
    """Three numbers, what to conclude from each, and what stands behind them."""
    saved = _recorded("", "dynstack_modelled_saved_bytes:sum")
    reserve = _recorded("", "dynstack_modelled_reserve_bytes:sum")
    memory = _recorded("", "dynstack_host_memory_bytes:sum")
    of_memory = f"({saved} - {reserve}) / {memory}"
    net_cost = (
        f"sum(job_policy:dynstack_modelled_net_cost:ratio5m{JOB_POLICY}"
        f" * on (job) group_left () job:dynstack_host_cpus:sum{JOB})"
        f" / sum(job:dynstack_host_cpus:sum{JOB})"
    )
    too_deep = f"sum(dynstack_policy_over_limit_tasks{JOB_POLICY})"
    deepest = f"max(job:dynstack_deepest_stack:max{JOB})"
    in_reserves = f"min(instance_policy:dynstack_modelled_reserve_headroom:ratio{JOB_POLICY})"
    return [
        number(
            Text(
                "How much would $policy save? (modelled)",
                "Memory of kernel stacks that all these hosts would not need, less the pages that"
                " the policy keeps aside.",
            ),
            Query(f"{saved} - {reserve}"),
            BYTES,
            width=THIRD,
        ),
        number(
            Text(
                "What would it cost? (modelled)",
                "Stack faults less cheaper forks, of all CPU time of these hosts. Below zero it"
                " would save CPU time too.",
            ),
            Query(net_cost),
            RATIO,
            width=THIRD,
            decimals=6,
            steps=COSTLY,
        ),
        number(
            Text(
                "Is it safe? Tasks too deep (measured)",
                "Living tasks on all these hosts whose mark is deeper than the policy's stack: each"
                " would overflow, so that anything but 0 rules it out.",
            ),
            Query(too_deep),
            COUNT,
            width=THIRD,
            steps=NONE_TOO_DEEP,
        ),
        verdict(
            Text("So much: worth it? (modelled)", "By the share of all memory that is saved."),
            Query(of_memory),
            HOW_MUCH,
        ),
        verdict(
            Text("At that price? (modelled)", "By the share of all CPU time, on balance."),
            Query(net_cost),
            WHAT_PRICE,
        ),
        verdict(
            Text(
                "Safe enough? (modelled)",
                "By the worst host: tasks too deep, the deepest stack now, free memory in"
                " reserves.",
            ),
            Query(danger(too_deep, deepest, in_reserves)),
            HOW_SAFE,
            COUNT,
        ),
        number(
            Text("Hosts (measured)", "Hosts of the chosen jobs that serve a sample now."),
            Query(_recorded("", "dynstack_hosts:count")),
            COUNT,
            width=SIXTH,
        ),
        number(
            Text(
                "Saving with the reserve (modelled)",
                "Share of all stacks' memory that $policy would not need, less what it keeps"
                " aside.",
            ),
            Query(_saving("", with_reserve=True)),
            RATIO,
            width=SIXTH,
            decimals=2,
        ),
        number(
            Text(
                "Of all memory (modelled)",
                "What is saved with the reserve paid, as a share of the memory of all these hosts.",
            ),
            Query(of_memory),
            RATIO,
            width=SIXTH,
            decimals=4,
        ),
        number(
            Text(
                "Stack faults a second (modelled)",
                "Faults that $policy would take on all these hosts.",
            ),
            Query(f"sum(instance_policy:dynstack_modelled_faults:rate5m{JOB_POLICY})"),
            PER_SECOND,
            width=SIXTH,
            decimals=1,
        ),
        number(
            Text(
                "Deepest stack (measured)",
                "The deepest mark of any task on these hosts, as a share of a whole stack. At 100%"
                " it overflows.",
            ),
            Query(deepest),
            RATIO,
            width=SIXTH,
            decimals=1,
            steps=DEEP,
        ),
        number(
            Text(
                "Least coverage (measured)",
                "On the host where the smallest share of the kernel's stacks was read.",
            ),
            Query(f"min(instance:dynstack_coverage:ratio{JOB})"),
            RATIO,
            width=SIXTH,
            decimals=1,
            steps=COVERED,
        ),
    ]


def _who_stands_out() -> Sequence[Builder[Panel]]:
    return [
        ranking(
            Text(
                "Deepest stacks (measured)",
                "The ten chosen hosts with the deepest task, as a share of a whole stack. Click a"
                " bar for its host.",
            ),
            Query(f"topk(10, instance:dynstack_deepest_stack:ratio{HOSTS})", "{{instance}}"),
            RATIO,
            steps=DEEP,
            link=BAR_LINK,
        ),
        ranking(
            Text(
                "Most tasks too deep for $policy (measured)",
                "The ten chosen hosts with the most living tasks that would overflow.",
            ),
            Query(f"topk(10, dynstack_policy_over_limit_tasks{HOSTS_POLICY})", "{{instance}}"),
            COUNT,
            steps=NONE_TOO_DEEP,
            link=BAR_LINK,
        ),
        ranking(
            Text(
                "Least covered (measured)",
                "The ten chosen hosts on which the smallest share of the kernel's stacks was read.",
            ),
            Query(f"bottomk(10, instance:dynstack_coverage:ratio{HOSTS})", "{{instance}}"),
            RATIO,
            steps=COVERED,
            link=BAR_LINK,
        ),
        ranking(
            Text(
                "Most stack faults a second under $policy (modelled)",
                "The ten chosen hosts that would take the most.",
            ),
            Query(
                f"topk(10, instance_policy:dynstack_modelled_faults:rate5m{HOSTS_POLICY})",
                "modelled: {{instance}}",
            ),
            PER_SECOND,
            link=BAR_LINK,
        ),
        ranking(
            Text(
                "Least free memory (measured)",
                "The ten chosen hosts with the least free above the minimum watermarks: what"
                " growing stacks could take.",
            ),
            Query(f"bottomk(10, dynstack_memory_headroom_bytes{HOSTS})", "{{instance}}"),
            BYTES,
            link=BAR_LINK,
        ),
        ranking(
            Text(
                "Slowest scans (measured)",
                "The ten chosen hosts whose last scan took the longest.",
            ),
            Query(f"topk(10, dynstack_scan_duration_seconds{HOSTS})", "{{instance}}"),
            SECONDS,
            link=BAR_LINK,
        ),
    ]


def _tables() -> Sequence[Builder[Panel]]:
    return [
        *_by_host(),
        rows(
            Text(
                "By CPU model: measured, and modelled under $policy",
                "The RFC's table for this fleet as it is now: a row for each CPU model.",
            ),
            {"cpu_model": "CPU"},
            _rfc_columns("cpu_model"),
            sort="Base (measured)",
        ),
        rows(
            Text(
                "By kernel release: measured, and modelled under $policy",
                "The same table by kernel release, so that releases can be compared.",
            ),
            {"kernel_release": "Kernel"},
            _rfc_columns("kernel_release"),
            sort="Base (measured)",
        ),
    ]


def _over_time() -> Sequence[Builder[Panel]]:
    spread = "job_policy:dynstack_modelled_saving"
    return [
        lines(
            Text(
                "Memory of all stacks: measured, and modelled under $policy",
                "Whole stacks of all hosts, and what the policy would hold and save of them.",
            ),
            [
                Query(_recorded("", "dynstack_stack_bytes:sum"), "measured: whole stacks"),
                Query(
                    _recorded("", "dynstack_modelled_stack_bytes:sum"), "modelled: held by $policy"
                ),
                Query(
                    f"{_recorded('', 'dynstack_modelled_saved_bytes:sum')}"
                    f" - {_recorded('', 'dynstack_modelled_reserve_bytes:sum')}",
                    "modelled: saved, with the reserve",
                ),
            ],
            BYTES,
        ),
        lines(
            Text(
                "Spread of the saving among hosts under $policy (modelled)",
                "The hosts with the least, the middle and the greatest saving of each job, without"
                " the reserve.",
            ),
            [
                Query(f"{spread}:max{JOB_POLICY}", "modelled: {{job}}, most"),
                Query(f"{spread}:median{JOB_POLICY}", "modelled: {{job}}, median"),
                Query(f"{spread}:min{JOB_POLICY}", "modelled: {{job}}, least"),
            ],
            RATIO,
        ),
        lines(
            Text(
                "Saving by CPU model under $policy (modelled)",
                "Without the reserve, for each CPU model.",
            ),
            [Query(_saving("cpu_model"), "modelled: {{cpu_model}}")],
            RATIO,
        ),
        lines(
            Text(
                "Saving by kernel release under $policy (modelled)",
                "Without the reserve, for each kernel release: does a new kernel go deeper?",
            ),
            [Query(_saving("kernel_release"), "modelled: {{kernel_release}}")],
            RATIO,
        ),
    ]


def _by_host() -> Sequence[Builder[Panel]]:
    info = "topk by (job, instance) (1, dynstack_host_info)"
    named = "on (job, instance) group_left (cpu_model, kernel_release)"
    labels = {"job": "Job", "instance": "Host", "cpu_model": "CPU", "kernel_release": "Kernel"}

    def of_host(series: str) -> str:
        return f"sum by ({', '.join(labels)}) ({series} * {named} {info})"

    saving = "instance_policy:dynstack_modelled_saving"
    return [
        rows(
            Text(
                "By host: measured, and modelled under $policy",
                "The RFC's table again, a row for each chosen host. A host's name leads to its own"
                " dashboard.",
            ),
            labels,
            [
                Column("CPUs", of_host(f"dynstack_host_cpus{HOSTS}")),
                Column("Stacks (measured)", of_host(f"dynstack_stacks_read{HOSTS}")),
                Column("Base (measured)", of_host(f"dynstack_stack_bytes{HOSTS}"), BYTES),
                Column(
                    "Dynamic (modelled)",
                    of_host(f"dynstack_policy_stack_bytes{HOSTS_POLICY}"),
                    BYTES,
                ),
                Column("Saving (modelled)", of_host(f"{saving}:ratio{HOSTS_POLICY}"), RATIO, 2),
                Column(
                    "Saving with reserve (modelled)",
                    of_host(f"{saving}_with_reserve:ratio{HOSTS_POLICY}"),
                    RATIO,
                    2,
                ),
                Column(
                    "Net CPU cost (modelled)",
                    of_host(f"instance_policy:dynstack_modelled_net_cost:ratio5m{HOSTS_POLICY}"),
                    RATIO,
                    6,
                    COSTLY,
                ),
                Column(
                    "Tasks too deep (measured)",
                    of_host(f"dynstack_policy_over_limit_tasks{HOSTS_POLICY}"),
                    steps=NONE_TOO_DEEP,
                ),
                Column(
                    "Coverage (measured)",
                    of_host(f"instance:dynstack_coverage:ratio{HOSTS}"),
                    RATIO,
                    1,
                    COVERED,
                ),
            ],
            sort="Base (measured)",
            height=10,
            links={"Host": HOST_LINK},
        ),
    ]


def _chosen_over_time() -> Sequence[Builder[Panel]]:
    return [
        lines(
            Text(
                "Saving by host under $policy (modelled)",
                "Without the reserve: the ten chosen hosts with the least saving at each moment.",
            ),
            [
                Query(
                    f"bottomk(10, instance_policy:dynstack_modelled_saving:ratio{HOSTS_POLICY})",
                    "modelled: {{instance}}",
                ),
            ],
            RATIO,
            width=HALF,
        ),
        lines(
            Text(
                "Probes that answer (measured)",
                "Targets of the chosen jobs, and those of them that could be scraped.",
            ),
            [
                Query(f"count(up{HOSTS})", "measured: targets"),
                Query(f"sum(up{HOSTS})", "measured: up"),
            ],
            COUNT,
            width=FULL_WIDTH - HALF,
        ),
    ]


def fleet() -> Dashboard:
    """The dashboard."""
    return assembled(
        "dynstack-fleet",
        "Dynamic kernel stacks: Fleet",
        "What all hosts together would save if their kernel stacks grew on demand.",
        "24h",
        [
            datasource_variable(),
            label_variable("job", "Job", "dynstack_stack_bytes", many=True),
            label_variable(
                "policy",
                "Policy",
                f"dynstack_policy_stack_bytes{JOB}",
                many=False,
                first="rfc-v1",
            ),
            label_variable("instance", "Hosts", f"dynstack_stack_bytes{JOB}", many=True),
        ],
        {
            "How much, at what price, how safe? All hosts of the chosen jobs": _answers(),
            "Who stands out among the chosen hosts?": _who_stands_out(),
            "The RFC's table of today": _tables(),
            "All hosts over time": _over_time(),
            "The chosen hosts over time": _chosen_over_time(),
        },
        events(HOSTS),
    )
