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
    COUNT,
    FULL_WIDTH,
    HALF,
    PER_SECOND,
    RATIO,
    SECONDS,
    SIXTH,
    Column,
    Query,
    Text,
    assembled,
    datasource_variable,
    label_variable,
    lines,
    number,
    ranking,
    rows,
)

JOB = '{job=~"$job"}'
JOB_POLICY = '{job=~"$job", policy="$policy"}'
HOSTS = '{job=~"$job", instance=~"$instance"}'
HOSTS_POLICY = '{job=~"$job", instance=~"$instance", policy="$policy"}'
HOST_LINK = (
    "/d/dynstack-host/?${datasource:queryparam}&${policy:queryparam}"
    "&var-job=${__data.fields.Job}&var-instance=${__value.text}"
)


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
            4,
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


def _whole() -> Sequence[Builder[Panel]]:
    saved = _recorded("", "dynstack_modelled_saved_bytes:sum")
    reserve = _recorded("", "dynstack_modelled_reserve_bytes:sum")
    memory = _recorded("", "dynstack_host_memory_bytes:sum")
    return [
        number(
            Text("Hosts (measured)", "Hosts of the chosen jobs that serve a sample now."),
            Query(_recorded("", "dynstack_hosts:count")),
            COUNT,
            width=SIXTH,
        ),
        number(
            Text("Stacks (measured)", "Kernel stacks read, on all these hosts."),
            Query(_recorded("", "dynstack_stacks_read:sum")),
            COUNT,
            width=SIXTH,
        ),
        number(
            Text(
                "Saved with the reserve (modelled)",
                "Memory that $policy would save on all these hosts, its reserve counted in.",
            ),
            Query(f"{saved} - {reserve}"),
            BYTES,
            width=SIXTH,
        ),
        number(
            Text(
                "Of all memory (modelled)",
                "That amount as a share of the memory of all these hosts.",
            ),
            Query(f"({saved} - {reserve}) / {memory}"),
            RATIO,
            width=SIXTH,
            decimals=4,
        ),
        number(
            Text(
                "Saving (modelled)",
                "Share of all stacks' memory that $policy would not need, without its reserve.",
            ),
            Query(_saving("")),
            RATIO,
            width=SIXTH,
            decimals=2,
        ),
        number(
            Text(
                "Saving with the reserve (modelled)",
                "The same, less the pages that the policy keeps aside.",
            ),
            Query(_saving("", with_reserve=True)),
            RATIO,
            width=SIXTH,
            decimals=2,
        ),
        number(
            Text(
                "Net CPU cost (modelled)",
                "Stack faults less cheaper forks, of all CPU time of these hosts. Below zero it"
                " would save CPU time too.",
            ),
            Query(f"avg(job_policy:dynstack_modelled_net_cost:ratio5m{JOB_POLICY})"),
            RATIO,
            decimals=4,
            steps=((None, "green"), (0.001, "yellow"), (0.01, "red")),
        ),
        number(
            Text(
                "Stack faults a second (modelled)",
                "Faults that $policy would take on all these hosts.",
            ),
            Query(f"sum(instance_policy:dynstack_modelled_faults:rate5m{JOB_POLICY})"),
            PER_SECOND,
            decimals=1,
        ),
        number(
            Text(
                "Deepest stack (measured)",
                "The deepest mark of any task on these hosts, as a share of a whole stack. At 100%"
                " it overflows.",
            ),
            Query(f"max(job:dynstack_deepest_stack:max{JOB})"),
            RATIO,
            decimals=1,
            steps=((None, "green"), (0.75, "yellow"), (0.9, "red")),
        ),
        number(
            Text(
                "Least free memory (measured)",
                "Above the minimum watermarks, on the host that has least: what a growing stack"
                " could take there.",
            ),
            Query(f"min(job:dynstack_memory_headroom_bytes:min{JOB})"),
            BYTES,
        ),
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


def _hosts() -> Sequence[Builder[Panel]]:
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
                    "Coverage (measured)",
                    of_host(f"instance:dynstack_coverage:ratio{HOSTS}"),
                    RATIO,
                    1,
                ),
            ],
            sort="Base (measured)",
            height=10,
            links={"Host": HOST_LINK},
        ),
        ranking(
            Text(
                "Slowest scans (measured)",
                "The ten chosen hosts whose last scan took longest.",
            ),
            Query(f"topk(10, dynstack_scan_duration_seconds{HOSTS})", "{{instance}}"),
            SECONDS,
        ),
        ranking(
            Text(
                "Deepest stacks (measured)",
                "The ten chosen hosts with the deepest task, as a share of a whole stack.",
            ),
            Query(f"topk(10, instance:dynstack_deepest_stack:ratio{HOSTS})", "{{instance}}"),
            RATIO,
        ),
        ranking(
            Text(
                "Least covered (measured)",
                "The ten chosen hosts on which the smallest share of the kernel's stacks was read.",
            ),
            Query(f"bottomk(10, instance:dynstack_coverage:ratio{HOSTS})", "{{instance}}"),
            RATIO,
        ),
        lines(
            Text(
                "Saving by host under $policy (modelled)",
                "Without the reserve: the ten chosen hosts with the least saving at each moment.",
            ),
            [
                Query(f"bottomk(10, {saving}:ratio{HOSTS_POLICY})", "modelled: {{instance}}"),
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
            "Whole fleet (whatever hosts are chosen)": _whole(),
            "Whole fleet over time": _over_time(),
            "Chosen hosts": _hosts(),
        },
    )
