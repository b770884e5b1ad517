# SPDX-License-Identifier: GPL-2.0-or-later
"""A Sample as Prometheus metrics: base units, no label whose values grow with tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dynstack_probe import __version__
from dynstack_probe.analysis.cost import cpu_seconds
from dynstack_probe.analysis.estimate import estimate, model_error_ratio
from dynstack_probe.analysis.timeline import growth_of_sample, inherited_pages
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.containers import short_name
from dynstack_probe.model.growth import Growth, GrowthCounter, whole_shapes
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.interval import Interval, PageFaults
from dynstack_probe.model.lifecycle import GROWTH_AGES
from dynstack_probe.model.sample import Sample
from dynstack_probe.model.shapes import by_mark
from dynstack_probe.policy import BUILT_IN, HEADLINE, Policy
from dynstack_probe.text import printable


@dataclass(frozen=True)
class Scan:
    """The result of one scan; growth is cumulative since the start, and never decreases."""

    sample: Sample
    growth: Growth
    cpu_seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class ScanCounter:
    """Turns each sample into a Scan, once per scan instead of once per scrape."""

    def __init__(self) -> None:
        self._growth = GrowthCounter()
        self._cpu_seconds: dict[str, tuple[float, float]] = {}

    def add(
        self,
        sample: Sample,
        policies: Sequence[Policy] = (),
        calibration: Calibration | None = None,
    ) -> Scan:
        """Add the next sample; with a calibration also each policy's cumulative CPU time."""
        self._growth.advance(*growth_of_sample(sample))
        if calibration is not None:
            life = sample.lifecycle
            whole = Interval(
                growth=self._growth.total,
                created=life.created,
                reused=life.reused,
                inherited=inherited_pages(life),
            )
            for policy in policies:
                faults, forks = cpu_seconds(policy, whole, sample.host, calibration)
                before = self._cpu_seconds.get(policy.name, (0.0, 0.0))
                self._cpu_seconds[policy.name] = max(faults, before[0]), max(forks, before[1])
        return Scan(sample, self._growth.total, dict(self._cpu_seconds))


@dataclass(frozen=True)
class CostInputs:
    """Inputs for cost metrics. None: not counted, not sampled, not calibrated.

    method: how page faults are counted, for HELP. headroom: since the previous scan.
    """

    page_faults: PageFaults | None = None
    method: str = ""
    headroom: Headroom | None = None
    calibration: Calibration | None = None


def largest_cgroups(sample: Sample, count: int) -> dict[int, tuple[int, ...]]:
    """Those exported by name, largest first, ties by id: always the same choice."""
    rows = sorted(sample.cgroups.items(), key=lambda row: (-sum(row[1]), row[0]))
    return dict(rows[: max(0, count)])


@dataclass(frozen=True, eq=False)
class HostCollector(Collector):
    """Exports the newest scan. Collecting reads no kernel file and takes no lock.

    All arguments but boot_time (Unix time) are called at each collection.
    """

    newest: Callable[[], Scan | None]
    policies: Callable[[], Sequence[Policy]]
    top_cgroups: Callable[[], int]
    cgroup_paths: Callable[[], Mapping[int, str]]
    costs: Callable[[], CostInputs]
    boot_time: int | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: which metrics there are depends on the kernel."""
        return []

    def collect(self) -> Iterable[Metric]:
        """All metrics; only dynstack_build before the first scan."""
        yield InfoMetricFamily("dynstack_build", "Build info.", value={"version": __version__})
        newest = self.newest()
        if newest is None:
            return
        sample = newest.sample
        yield from _living(sample)
        yield from self._of_policies(newest)
        yield from _of_lifecycle(sample)
        yield from self._of_cgroups(sample)
        yield from _coverage(sample)
        yield from _of_kernel(sample)
        yield from _of_host(sample)
        if self.boot_time is not None:
            yield GaugeMetricFamily(
                "dynstack_host_boot_time_seconds",
                "When the kernel booted, Unix time.",
                value=self.boot_time,
            )
        yield from _own_cost(sample)
        yield from _of_costs(self.costs())

    def _of_policies(self, newest: Scan) -> Iterable[Metric]:
        gauge = partial(GaugeMetricFamily, labels=["policy"])
        counter = partial(CounterMetricFamily, labels=["policy"])
        stack_bytes = gauge(
            "dynstack_policy_stack_bytes",
            "Modelled: memory of the living stacks under the policy, without its reserve.",
        )
        reserve = gauge(
            "dynstack_policy_reserve_bytes",
            "Modelled: preallocated pages that the policy holds in reserve.",
        )
        over = gauge(
            "dynstack_policy_over_limit_tasks",
            "Living tasks whose measured high-water mark exceeds the policy's stack.",
        )
        over_exited = counter(
            "dynstack_policy_over_limit_exited_tasks",
            "Exited tasks whose measured high-water mark exceeded the policy's stack.",
        )
        faults = counter(
            "dynstack_policy_faults",
            "Modelled: stack faults of living tasks and of those that exited since the start.",
        )
        mapped = counter(
            "dynstack_policy_fault_pages",
            "Modelled: pages that stack faults would have mapped.",
        )
        avoided = counter(
            "dynstack_policy_avoided_fault_pages",
            "Modelled: pages used without a fault, being already mapped in a reused stack.",
        )
        spent = counter(
            "dynstack_policy_fault_cpu_seconds",
            "Modelled: CPU time that stack faults would have taken, at calibrated prices.",
        )
        spared = counter(
            "dynstack_policy_fork_saved_cpu_seconds",
            "Modelled: CPU time saved at fork by allocating fewer pages.",
        )
        sample = newest.sample
        pages = sample.host.thread_pages
        living = whole_shapes(sample.living.all_shapes())
        exited = whole_shapes(sample.lifecycle.exited)
        grown = Interval(growth=newest.growth)
        for policy in self.policies():
            name = policy.name
            now = estimate(policy, living, sample.host)
            stack_bytes.add_metric([name], now.dynamic_kib * 1024)
            reserve.add_metric([name], now.reserve_kib * 1024)
            over.add_metric([name], now.over_limit_tasks)
            ended = estimate(policy, exited, sample.host)
            over_exited.add_metric([name], ended.over_limit_tasks)
            if name in newest.cpu_seconds:
                spent.add_metric([name], newest.cpu_seconds[name][0])
                spared.add_metric([name], newest.cpu_seconds[name][1])
            work = policy.work(grown, pages)
            if work is None:
                continue
            faults.add_metric([name], work.events)
            mapped.add_metric([name], work.pages)
            avoided.add_metric([name], policy.avoided_pages(grown, pages))
        yield from (stack_bytes, reserve, over, over_exited, faults, mapped, avoided, spent, spared)

    def _of_cgroups(self, sample: Sample) -> Iterable[Metric]:
        measured = GaugeMetricFamily(
            "dynstack_cgroup_stack_bytes",
            "Kernel stacks of the cgroup's tasks at full size; smaller cgroups are in 'other'.",
            labels=["cgroup"],
        )
        modelled = GaugeMetricFamily(
            "dynstack_cgroup_policy_stack_bytes",
            "Modelled: memory of the cgroup's stacks under the policy.",
            labels=["cgroup", "policy"],
        )
        top = largest_cgroups(sample, self.top_cgroups())
        paths = self.cgroup_paths()
        shown: dict[str, list[tuple[int, ...]]] = {}
        rest = [held for cgroup_id, held in sample.cgroups.items() if cgroup_id not in top]
        for cgroup_id, held in top.items():
            path = paths.get(cgroup_id)
            if path:
                # two may shorten to the same name, such as a container's cgroup and its child
                shown.setdefault(printable(short_name(path)), []).append(held)
            else:  # removed before its name was read
                rest.append(held)
        if rest:
            shown["other"] = rest
        for name, rows in shown.items():
            columns = [sum(column) for column in zip(*rows, strict=True)]
            measured.add_metric([name], sum(columns) * sample.host.thread_size_bytes)
            shapes = whole_shapes({(n, 1): count for n, count in enumerate(columns, start=1)})
            for policy in self.policies():
                result = estimate(policy, shapes, sample.host)
                modelled.add_metric([name, policy.name], result.dynamic_kib * 1024)
        yield measured
        yield modelled
        yield GaugeMetricFamily(
            "dynstack_cgroup_uncounted_stacks",
            "Stacks missing from all cgroups' series, since the BPF map of cgroups is full.",
            value=sample.living.uncounted_cgroups,
        )
        yield GaugeMetricFamily(
            "dynstack_cgroups_in_other", "Cgroups aggregated as 'other'.", value=len(rest)
        )


def _living(sample: Sample) -> Iterable[Metric]:
    tasks = GaugeMetricFamily(
        "dynstack_tasks",
        "Living stacks by kind of task and pages down to the high-water mark.",
        labels=["kind", "pages"],
    )
    pages = sample.host.thread_pages
    for kind, shapes in sample.living.shapes.items():
        for n, count in by_mark(whole_shapes(shapes), pages).items():
            tasks.add_metric([kind.label, str(n)], count)
    yield tasks
    yield GaugeMetricFamily(
        "dynstack_stack_bytes",
        "Measured: the living stacks at full size, THREAD_SIZE each.",
        value=sample.living.stacks() * sample.host.thread_size_bytes,
    )
    yield GaugeMetricFamily(
        "dynstack_deepest_stack_bytes",
        "Measured: the deepest high-water mark of all living stacks.",
        value=sample.living.deepest_mark_bytes,
    )


def _of_lifecycle(sample: Sample) -> Iterable[Metric]:
    life = sample.lifecycle
    by_pages = by_mark(whole_shapes(life.exited), sample.host.thread_pages)
    exited = {str(n): count for n, count in by_pages.items()}
    yield _counter(
        "dynstack_exited_tasks",
        "Exited tasks by stack pages used at exit.",
        "pages",
        exited,
    )
    yield CounterMetricFamily("dynstack_created_tasks", "Tasks created.", value=life.created)
    yield CounterMetricFamily(
        "dynstack_reused_stacks",
        "Tasks created on a cached stack of an earlier task.",
        value=life.reused,
    )
    growth = dict(zip(GROWTH_AGES, life.growth_by_age, strict=True))
    yield _counter(
        "dynstack_late_growth_tasks",
        "Tasks at least a page deeper than in the previous scan, by age then (upper bound).",
        "age",
        growth,
    )
    yield _counter(
        "dynstack_lost_events",
        "Events that could not be counted or stored, by reason.",
        "reason",
        life.lost,
    )
    reads = life.exit_reads
    whole = sum(life.exited.values()) - reads.windowed
    yield _counter(
        "dynstack_exit_reads",
        "Stacks read at exit: whole or, once proved sufficient, a window of each page.",
        "how",
        {"whole": whole, "windows": reads.windowed},
    )
    yield CounterMetricFamily(
        "dynstack_exit_reads_hidden",
        "Stacks read whole at exit with a used page that windows would have missed.",
        value=reads.hidden,
    )
    yield GaugeMetricFamily(
        "dynstack_exit_reads_unproved",
        "Grown stacks still to be read whole at exit, without a miss, before windows suffice.",
        value=reads.unproved,
    )
    missed = GaugeMetricFamily(
        "dynstack_exit_pages_hidden_estimate",
        "Exits since the start with a page that windows missed, from those caught: 95% bounds.",
        labels=["bound"],
    )
    for bound, exits in zip(("least", "most"), reads.missed_range(), strict=True):
        missed.add_metric([bound], exits)
    yield missed


def _coverage(sample: Sample) -> Iterable[Metric]:
    coverage = sample.coverage
    if coverage.kernel_stacks is not None:
        yield GaugeMetricFamily(
            "dynstack_kernel_stacks",
            "The kernel's own count of stacks, off by up to a few dozen (per-CPU batching).",
            value=coverage.kernel_stacks,
        )
    yield GaugeMetricFamily("dynstack_stacks_read", "Stacks in this sample.", value=coverage.read)
    yield GaugeMetricFamily(
        "dynstack_stacks_unreadable", "Stacks that could not be read.", value=coverage.unreadable
    )
    yield GaugeMetricFamily(
        "dynstack_stacks_erased",
        "Stacks overwritten by KSTACK_ERASE: their high-water marks are lower bounds.",
        value=coverage.erased,
    )


def _of_kernel(sample: Sample) -> Iterable[Metric]:
    counters = sample.kernel_counters
    if "nr_dynamic_stacks_faults" in counters:
        yield GaugeMetricFamily(
            "dynstack_kernel_dynamic_stack_bytes",
            "The kernel's own count of pages grown beyond each stack's first.",
            value=counters["nr_dynamic_stacks_faults"] * 1024,
        )
        yield from _of_resident(sample)
    sizes = {n.removeprefix("kstack_"): v for n, v in counters.items() if n[:7] == "kstack_"}
    if sizes:
        yield _counter(
            "dynstack_kernel_exited_stacks",
            "The kernel's own count of exited tasks by stack used (DEBUG_STACK_USAGE).",
            "up_to",
            sizes,
        )


def _of_resident(sample: Sample) -> Iterable[Metric]:
    """With dynamic stacks, where nr_kernel_stack counts mapped pages."""
    mapped_kib = sample.coverage.kernel_stack_kib
    if not mapped_kib:
        return
    yield GaugeMetricFamily(
        "dynstack_kernel_resident_stack_bytes",
        "The kernel's own count of pages mapped in living stacks.",
        value=mapped_kib * 1024,
    )
    living = whole_shapes(sample.living.all_shapes())
    modelled = estimate(BUILT_IN[HEADLINE], living, sample.host).dynamic_kib
    error = GaugeMetricFamily(
        "dynstack_model_error_ratio",
        f"{HEADLINE}'s model over the kernel's own count, minus 1; unread stacks lower it.",
        labels=["quantity"],
    )
    error.add_metric(["resident"], model_error_ratio(modelled, mapped_kib))
    yield error


def _of_host(sample: Sample) -> Iterable[Metric]:
    host = sample.host
    labels = {
        "cpu_model": printable(host.cpu_model),
        "kernel_release": printable(host.kernel_release),
        "thread_size_bytes": str(host.thread_size_bytes),
    }
    yield InfoMetricFamily("dynstack_host", "This host.", value=labels)
    yield GaugeMetricFamily(
        "dynstack_thread_size_bytes",
        "Size of each kernel stack (THREAD_SIZE).",
        value=host.thread_size_bytes,
    )
    yield GaugeMetricFamily("dynstack_host_cpus", "CPUs online.", value=host.cpus)
    yield GaugeMetricFamily(
        "dynstack_host_memory_bytes", "Total memory (MemTotal).", value=host.mem_total_kib * 1024
    )


def _of_costs(costs: CostInputs) -> Iterable[Metric]:
    faults, headroom, calibration = costs.page_faults, costs.headroom, costs.calibration
    if faults is not None:
        yield _counter(
            "dynstack_page_faults",
            f"Page faults on user memory since the start, by CPU mode; {costs.method}.",
            "mode",
            {"user": faults.user, "kernel": faults.kernel},
        )
    if headroom is not None:
        yield GaugeMetricFamily(
            "dynstack_memory_headroom_bytes",
            "Free memory above the zones' minimum watermarks: the lowest of some samples since the"
            " previous scan.",
            value=headroom.least_pages * PAGE_BYTES,
        )
    if calibration is not None:
        yield GaugeMetricFamily(
            "dynstack_calibrated_fault_seconds",
            "Calibrated at the start: a minor page fault on private memory, median of many.",
            value=calibration.fault_ns / 1e9,
        )
        yield GaugeMetricFamily(
            "dynstack_calibrated_clear_page_seconds",
            "Calibrated at the start: clearing a page in the kernel, median of many.",
            value=calibration.clear_page_ns / 1e9,
        )


def _own_cost(sample: Sample) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "dynstack_scan_duration_seconds", "Duration of the last scan.", value=sample.scan_seconds
    )
    yield GaugeMetricFamily(
        "dynstack_scan_timestamp_seconds", "End of the last scan, Unix time.", value=sample.taken_at
    )
    yield GaugeMetricFamily(
        "dynstack_scan_reread_stacks",
        "Stacks that the last scan had to reread, since their tasks had run.",
        value=sample.living.reread,
    )
    program = "stack_lifecycle"
    yield _counter(
        "dynstack_bpf_runs", "Runs of BPF programs.", "program", {program: sample.lifecycle.runs}
    )
    yield _counter(
        "dynstack_bpf_run_seconds",
        "Time spent in BPF programs, as they measure it.",
        "program",
        {program: sample.lifecycle.run_seconds},
    )
    yield GaugeMetricFamily(
        "dynstack_bpf_memory_bytes", "Kernel memory of our BPF maps.", value=sample.bpf_memory_bytes
    )


def _counter(
    name: str, documentation: str, label: str, values: Mapping[str, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
