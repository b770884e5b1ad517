# SPDX-License-Identifier: GPL-2.0-or-later
"""The PromQL queries, and the conversion of their results to rows.

Three queries: the hosts' health, their figures, and what the policy would cost there. All
figures come from one query, since Prometheus isolates a query from scrapes in progress: each
host's figures are from the same scrape.
By CPU or kernel the server aggregates, so that the result stays small with any number of
hosts. By host the result is raw series, joined here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from dynstack_probe.errors import ProbeError
from dynstack_probe.fleet import costs
from dynstack_probe.fleet.client import MAX_FIGURE, Answer, Series, Server, is_valid
from dynstack_probe.fleet.costs import FIGURE, tagged
from dynstack_probe.fleet.model import NAMES_SHOWN, STALE_SECONDS, By, Fleet, Health, Row, ordered
from dynstack_probe.text import printable

# labels that our exporter sets; all others identify the host
OWN_LABELS = ("cpu_model", "kernel_release", "mode", "policy", "thread_size_bytes")
BASE = "dynstack_stack_bytes"
DYNAMIC = "dynstack_policy_stack_bytes"
INFO = "dynstack_host_info"
SCANNED_AT = "dynstack_scan_timestamp_seconds"
KERNEL_STACKS = "dynstack_kernel_stacks"
# Row's field: metric
METRICS = {
    "cpus": costs.CPUS,
    "stacks": "dynstack_stacks_read",
    "base": BASE,
    "dynamic": DYNAMIC,
    "reserve": "dynstack_policy_reserve_bytes",
    "memory": "dynstack_host_memory_bytes",
}
FIGURE_OF = {metric: figure for figure, metric in METRICS.items()} | {
    KERNEL_STACKS: "kernel_stacks",
    SCANNED_AT: "scanned_at",
}
HOSTS = "hosts"
# prefix of a metric's name: how many hosts of all groups have it
COUNT = "count "
GROUP_LABELS = {By.cpu: "cpu_model", By.kernel: "kernel_release"}

HostKey = tuple[tuple[str, str], ...]


def ask(
    server: Server,
    by: By,
    policy: str,
    job: str | None = None,
    on_answer: Callable[[str, Answer], None] = lambda expression, answer: None,
) -> Fleet:
    """Query the server for the fleet's table.

    Raises ProbeError or NotPermittedError if a query fails or matches no hosts.
    """

    def query(expression: str) -> Answer:
        answer = server.query(expression)
        on_answer(expression, answer)
        return answer

    selection = _Selection(policy, job)
    health_answer = query(selection.health())
    health = _health(health_answer.series)
    if not health.answered:
        raise ProbeError(_no_hosts(server.url, job, health))
    if by is By.host:
        figures = query(selection.raw())
        prices = query(costs.by_host(selection.of))
        rows, invalid = _host_rows(figures.series, prices.series)
    else:
        label = GROUP_LABELS[by]
        figures = query(selection.grouped(label))
        prices = query(selection.costs(label))
        rows, invalid = _group_rows(figures.series, prices.series, label, server.url), []
    if not rows:
        others = query(f"group by (policy) ({selection.of(DYNAMIC, any_policy=True)})")
        raise ProbeError(_no_policy(server.url, policy, others.series))
    return Fleet(
        url=server.url,
        job=job,
        policy=policy,
        by=by,
        rows=ordered(rows),
        health=health,
        left_out=max(0, health.answered - sum(row.hosts for row in rows)),
        left_out_names=invalid[:NAMES_SHOWN],
        warnings=list(dict.fromkeys(health_answer.warnings + figures.warnings + prices.warnings)),
    )


def quoted(text: str) -> str:
    """Quoted and escaped as a PromQL string."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


class _Selection:
    """The selectors for one policy on a job's hosts."""

    def __init__(self, policy: str, job: str | None) -> None:
        self._policy = policy
        self._job = job

    def of(self, metric: str, more: Sequence[str] = (), *, any_policy: bool = False) -> str:
        """A metric's selector. more: matchers besides job and policy."""
        matchers = list(more) if self._job is None else [*more, f"job={quoted(self._job)}"]
        if metric.startswith("dynstack_policy_") and not any_policy:
            matchers.append(f"policy={quoted(self._policy)}")
        return f"{metric}{{{','.join(matchers)}}}"

    def health(self) -> str:
        """How many hosts are scraped, answer and are stale; names of some down and stale ones."""
        up, age = self.of("up"), f"(time() - {self.of(SCANNED_AT)})"
        if self._job is None:  # only jobs with our metrics
            up = f"({up} and on (job) dynstack_build_info)"
        stale = f"({age} > {STALE_SECONDS})"
        parts = {
            "asked": f"count({up})",
            "answered": f"count({self.of(BASE)})",
            "stale": f"count({stale})",
            "median_age": f"quantile(0.5, {age})",
            "oldest_age": f"max({age})",
            "down_host": f"bottomk({NAMES_SHOWN}, {up} == 0)",
            "stale_host": f"topk({NAMES_SHOWN}, {stale})",
        }
        return " or ".join(tagged(figure, part) for figure, part in parts.items())

    def raw(self) -> str:
        return self._all_of([*METRICS.values(), INFO, SCANNED_AT, KERNEL_STACKS])

    def grouped(self, label: str) -> str:
        """The figures summed by a label of dynstack_host_info, and how many hosts have each.

        Hosts are matched on all labels but our own, so that equal instances in two clusters
        stay distinct. topk makes the match unique: without staleness markers a host may briefly
        have two infos. All metrics share one match, the expensive part.
        """
        match = self._match(label)
        metrics = self._all_of([*METRICS.values(), KERNEL_STACKS])
        chosen = f"({metrics} and ignoring (policy) {self.of(DYNAMIC)})"
        named = f'label_replace({chosen}, "{FIGURE}", "$1", "__name__", "(.+)")'
        sums = f"sum by ({label}, {FIGURE}) ({named} {match})"
        hosts = tagged(HOSTS, f"count by ({label}) ({self.of(DYNAMIC)} {match})")
        counts = f"count by (__name__) ({chosen})"
        counted = f'label_replace({counts}, "{FIGURE}", "{COUNT}$1", "__name__", "(.+)")'
        return f"{sums} or {hosts} or {counted}"

    def costs(self, label: str) -> str:
        """What the policy would cost the same hosts, and how safe it would be."""
        return costs.grouped(self.of, label, self.of(DYNAMIC), self._match(label))

    def _match(self, label: str) -> str:
        """A multiplication by 1 that adds a label of dynstack_host_info."""
        own = ", ".join(OWN_LABELS)
        info = f"topk without ({own}) (1, {self.of(INFO)})"
        return f"* ignoring ({FIGURE}, {own}) group_left ({label}) {info}"

    def _all_of(self, metrics: Iterable[str]) -> str:
        """One selector for several metrics, with or without a policy label."""
        matchers = [
            f'__name__=~"{"|".join(metrics)}"',
            f"policy=~{quoted('|' + _literal(self._policy))}",
        ]
        if self._job is not None:
            matchers.append(f"job={quoted(self._job)}")
        return f"{{{','.join(matchers)}}}"


def _literal(text: str) -> str:
    """Escaped for RE2."""
    return "".join(c if c.isalnum() or c in "_-" else f"\\x{{{ord(c):x}}}" for c in text)


def host_name(labels: Mapping[str, str]) -> str:
    """Its instance, or else its job."""
    return labels.get("instance") or labels.get("job") or "?"


def _health(series: Iterable[Series]) -> Health:
    figures: dict[str, float] = {}
    names: dict[str, list[str]] = {"down_host": [], "stale_host": []}
    for element in series:
        figure = element.labels.get(FIGURE, "")
        if figure in names:
            names[figure].append(host_name(element.labels))
        else:
            figures[figure] = element.value

    def count(figure: str) -> int:
        value = figures.get(figure, 0.0)
        return int(value) if is_valid(value) else 0

    def age(figure: str) -> float | None:
        value = figures.get(figure)
        # clock skew: an age can't be negative
        return max(0.0, value) if value is not None and abs(value) < MAX_FIGURE else None

    return Health(
        asked=count("asked") if "asked" in figures else None,
        answered=count("answered"),
        down_names=sorted(names["down_host"]),
        stale=count("stale"),
        stale_names=sorted(names["stale_host"]),
        median_age_seconds=age("median_age"),
        oldest_age_seconds=age("oldest_age"),
    )


def _group_rows(
    series: Iterable[Series], prices: Iterable[Series], label: str, url: str
) -> list[Row]:
    """Raises ProbeError if sums cover different numbers of hosts, or one is invalid."""
    groups: dict[str, dict[str, float]] = {}
    counts: dict[str, float] = {}
    for element in series:
        figure = element.labels.get(FIGURE, "")
        if figure.startswith(COUNT):
            counts[figure.removeprefix(COUNT)] = element.value
        else:
            figures = groups.setdefault(element.labels.get(label, ""), {})
            figures[FIGURE_OF.get(figure, figure)] = element.value
    if any(counts.get(metric) != counts.get(DYNAMIC) for metric in METRICS.values()):
        raise ProbeError(_invalid_figures(url))
    all_counted = counts.get(KERNEL_STACKS) == counts.get(DYNAMIC)
    priced = costs.of_series(prices, lambda labels: labels.get(label, ""))
    rows = []
    for name, figures in groups.items():
        hosts = figures.get(HOSTS, -1)
        if not (_is_complete(figures) and is_valid(hosts)):
            raise ProbeError(_invalid_figures(url))
        row = _row(name or "unknown", figures, int(hosts))
        row = replace(row, costs=costs.costs_of(priced.get(name, {})))
        rows.append(row if all_counted else replace(row, kernel_stacks=None))
    return rows


def _invalid_figures(url: str) -> str:
    return f"{url} has hosts whose figures are missing or invalid: --by host lists them"


def _is_complete(figures: Mapping[str, float]) -> bool:
    return all(figure in figures and is_valid(figures[figure]) for figure in METRICS)


def _row(name: str, figures: Mapping[str, float], hosts: int) -> Row:
    counted = figures.get("kernel_stacks")
    return Row(
        name=name,
        hosts=hosts,
        cpus=int(figures["cpus"]),
        stacks=int(figures["stacks"]),
        base_kib=int(figures["base"]) // 1024,
        dynamic_kib=int(figures["dynamic"]) // 1024,
        reserve_kib=int(figures["reserve"]) // 1024,
        mem_total_kib=int(figures["memory"]) // 1024,
        kernel_stacks=int(counted) if counted is not None and is_valid(counted) else None,
    )


def _host_rows(series: Iterable[Series], prices: Iterable[Series]) -> tuple[list[Row], list[str]]:
    """One row per host, and the names of hosts whose figures are incomplete or invalid."""
    hosts: dict[HostKey, dict[str, float]] = {}
    infos: dict[HostKey, Mapping[str, str]] = {}
    now = 0.0
    for element in series:
        labels = element.labels
        key = _host_key(labels)
        metric = labels.get("__name__", "")
        now = element.at
        if metric == INFO:
            infos[key] = labels
        elif metric in FIGURE_OF:
            hosts.setdefault(key, {})[FIGURE_OF[metric]] = element.value
    names = _distinct_names(list(hosts))
    priced = costs.of_series(prices, _host_key)
    rows, invalid = [], []
    for key, figures in hosts.items():
        if not _is_complete(figures):
            invalid.append(names[key])
            continue
        info = infos.get(key, {})
        row = _row(names[key], figures, hosts=1)
        age = now - figures.get("scanned_at", now)
        rows.append(
            replace(
                row,
                cpu_model=info.get("cpu_model"),
                kernel_release=info.get("kernel_release"),
                sample_age_seconds=max(0.0, age) if abs(age) < MAX_FIGURE else None,
                costs=costs.costs_of(priced.get(key, {}), row.cpus),
            )
        )
    return rows, sorted(invalid)


def _host_key(labels: Mapping[str, str]) -> HostKey:
    own = ("__name__", FIGURE, *OWN_LABELS)
    return tuple(sorted((name, value) for name, value in labels.items() if name not in own))


def _distinct_names(keys: Sequence[HostKey]) -> dict[HostKey, str]:
    """Each host's instance, with its other labels where it is ambiguous."""
    seen = Counter(host_name(dict(key)) for key in keys)
    names = {}
    for key in keys:
        name = host_name(dict(key))
        if seen[name] > 1:
            rest = ",".join(f"{label}={value}" for label, value in key if label != "instance")
            name = f"{name} {{{rest}}}"
        names[key] = name
    return names


def _no_hosts(url: str, job: str | None, health: Health) -> str:
    where = "" if job is None else f" of job {job!a}"
    if health.asked:
        return (
            f"{url} scrapes {health.asked} hosts{where}, but none has a sample: is"
            " `dynstack-probe serve` running there?"
        )
    return f"{url} has no dynstack metrics{where}: does it scrape `dynstack-probe serve`?"


def _no_policy(url: str, policy: str, others: Iterable[Series]) -> str:
    known = sorted({printable(element.labels.get("policy", "")[:40]) for element in others})
    return (
        f"no host of {url} exports policy {policy!a}; available:"
        f" {', '.join(known[:10]) or 'none'} (`policies` in the daemon's configuration)"
    )
