# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policy would cost on many hosts, and whether it is safe there: one more query.

Rates are over five minutes, as in grafana/rules/dynstack-recording.yml, which records the same
figures. A host that exports only some of them, such as one that is scraped slim or has just
started, counts for these only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from dynstack_probe.fleet.client import Series, is_valid
from dynstack_probe.fleet.model import Costs
from dynstack_probe.model.history import History, mean

# a label of ours that tells the parts of a result apart
FIGURE = "dynstack_figure"
RATE_SECONDS = 300
CPUS = "dynstack_host_cpus"
# Costs' figures that are rates of counters; and the CPUs of the hosts that have them.
RATES = {
    "faults_cpu": ("dynstack_policy_fault_cpu_seconds_total", "cost_cpus"),
    "forks_cpu": ("dynstack_policy_fork_saved_cpu_seconds_total", ""),
    "faults": ("dynstack_policy_faults_total", "fault_cpus"),
    "kernel_page_faults": ("dynstack_page_faults_total", "page_fault_cpus"),
}
HEADROOM, DEEPEST = "dynstack_memory_headroom_bytes", "dynstack_deepest_stack_bytes"
TOO_DEEP = "dynstack_policy_over_limit_tasks"
# Figures aggregated over hosts by min or max instead of a sum.
EXTREMES = {"headroom": ("min", HEADROOM), "deepest": ("max", DEEPEST)}

# of one metric, with more matchers if any
Selector = Callable[..., str]


def tagged(figure: str, expression: str) -> str:
    """Labels the expression's result, to be found in a union of several."""
    return f'label_replace({expression}, "{FIGURE}", "{figure}", "", "")'


def by_host(of: Selector) -> str:
    """The query for each host's figures."""
    parts = [tagged(figure, _rate(of, figure)) for figure in RATES]
    parts += [tagged(figure, of(metric)) for figure, (_, metric) in EXTREMES.items()]
    return " or ".join([*parts, tagged("too_deep", of(TOO_DEEP))])


def grouped(of: Selector, label: str, chosen: str, match: str) -> str:
    """The same, aggregated by a label that `match` adds. chosen: a selector that limits the hosts.

    match: begins with a binary operator, and ignores our own labels and FIGURE.
    """
    only = f"and ignoring ({FIGURE}, mode, policy) {chosen}"
    summed = [tagged(figure, _rate(of, figure)) for figure in RATES]
    for figure, (_, cpus) in RATES.items():
        if cpus:
            counting = f"({of(CPUS)} and ignoring (mode, policy) {_rate(of, figure)})"
            summed.append(tagged(cpus, counting))
    with_cost = f"({of(CPUS)} ^ 0 and ignoring (policy) {_rate(of, 'faults_cpu')})"
    summed.append(tagged("hosts", with_cost))
    summed.append(tagged("too_deep", of(TOO_DEEP)))
    parts = [f"sum by ({label}, {FIGURE}) ((({' or '.join(summed)}) {only}) {match})"]
    for figure, (extreme, metric) in EXTREMES.items():
        one = f"(({tagged(figure, of(metric))}) {only}) {match}"
        parts.append(f"{extreme} by ({label}, {FIGURE}) ({one})")
    return " or ".join(parts)


def _rate(of: Selector, figure: str) -> str:
    metric, _ = RATES[figure]
    mode = ['mode="kernel"'] if metric == "dynstack_page_faults_total" else []
    return f"rate({of(metric, mode)}[{RATE_SECONDS}s])"


def of_series(
    series: Iterable[Series], key: Callable[[Mapping[str, str]], object]
) -> dict[object, dict[str, float]]:
    """The figures of each host or group, without invalid ones."""
    found: dict[object, dict[str, float]] = {}
    for element in series:
        figure = element.labels.get(FIGURE, "")
        if is_valid(element.value):
            found.setdefault(key(element.labels), {})[figure] = element.value
    return found


def over_range(history: History, policy: str, cpus: int) -> Costs:
    """What the policy would have cost one host over a past range. cpus: its CPUs at the time.

    Rates are means over the range; too_deep_tasks is the maximum at any time.
    """
    figures = {}
    for figure, (metric, _) in RATES.items():
        spans = history.rates(metric, **_labels(metric, policy))
        if spans:
            figures[figure] = mean(spans)
    for figure, (extreme, metric) in EXTREMES.items():
        values = history.sums(metric).values()
        if values:
            figures[figure] = min(values) if extreme == "min" else max(values)
    too_deep = history.sums(TOO_DEEP, policy=policy).values()
    if too_deep:
        figures["too_deep"] = max(too_deep)
    return costs_of(figures, cpus)


def _labels(metric: str, policy: str) -> dict[str, str]:
    return {"mode": "kernel"} if metric == "dynstack_page_faults_total" else {"policy": policy}


def costs_of(figures: Mapping[str, float], cpus: int | None = None) -> Costs:
    """Costs from the figures of a host or group. cpus: the host's; None for a group."""

    def cpus_with(figure: str) -> int:
        if cpus is not None:
            return cpus if figure in figures else 0
        return int(figures.get(RATES[figure][1], 0))

    knows_cost = "faults_cpu" in figures and "forks_cpu" in figures
    hosts = 1 if cpus is not None else int(figures.get("hosts", 0))
    headroom, deepest = figures.get("headroom"), figures.get("deepest")
    too_deep = figures.get("too_deep")
    return Costs(
        hosts=hosts if knows_cost else 0,
        cpus=cpus_with("faults_cpu") if knows_cost else 0,
        faults_cpu=figures.get("faults_cpu", 0.0) if knows_cost else 0.0,
        forks_cpu=figures.get("forks_cpu", 0.0) if knows_cost else 0.0,
        fault_cpus=cpus_with("faults"),
        faults_per_second=figures.get("faults", 0.0),
        page_fault_cpus=cpus_with("kernel_page_faults"),
        kernel_page_faults_per_second=figures.get("kernel_page_faults", 0.0),
        headroom_kib=None if headroom is None else int(headroom) // 1024,
        deepest_bytes=None if deepest is None else int(deepest),
        too_deep_tasks=None if too_deep is None else int(too_deep),
    )
