# SPDX-License-Identifier: GPL-2.0-or-later
"""The landing page's content: how much this host would save, at what price, how safely."""

from __future__ import annotations

from collections.abc import Iterator

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.model.growth import whole_shapes
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import PAGE_KIB
from dynstack_probe.policy import Policy
from dynstack_probe.serve.collector import Scan
from dynstack_probe.text import counted, percent, printable, small_percent

LEAST_SECONDS = 10.0  # rates over less are too noisy


def landing_facts(
    first: Scan, newest: Scan, policy: Policy, headroom: Headroom | None, now: float
) -> Iterator[tuple[str, str]]:
    """Rows of name and text: the newest scan, and rates since the first. now: Unix time."""
    sample = newest.sample
    host, living = sample.host, sample.living
    result = estimate(policy, whole_shapes(living.all_shapes()), host)
    yield (
        "Host",
        f"{printable(host.cpu_model)}, {counted(host.cpus, 'CPU')},"
        f" Linux {printable(host.kernel_release)}: {counted(result.stacks, 'kernel stack')} of"
        f" {host.thread_size_bytes // 1024} KiB, {result.base_kib} KiB, measured.",
    )
    yield (
        "How much",
        f"{percent(result.saving_with_reserve_ratio)} saved under {result.policy}, modelled:"
        f" {result.dynamic_kib} KiB would be left, and {result.reserve_kib} KiB of reserve."
        f" Without the reserve, as the RFC counts, {percent(result.saving_ratio)}.",
    )
    yield "At what price", _price(first, newest, policy)
    yield (
        "How safe",
        f"The deepest stack used {living.deepest_mark_bytes} of {host.thread_size_bytes} bytes,"
        f" measured. {result.over_limit_tasks} living tasks are too deep for {result.policy}."
        + _reserve(result.reserve_kib, headroom),
    )
    yield "Coverage", _coverage(newest)
    yield (
        "The probe",
        f"The last scan took {sample.scan_seconds * 1000:.1f} ms,"
        f" {max(0.0, now - sample.taken_at):.0f} s ago, and read"
        f" {counted(living.reread, 'stack')} again.",
    )


def _price(first: Scan, newest: Scan, policy: Policy) -> str:
    seconds = newest.sample.taken_at - first.sample.taken_at
    if seconds < LEAST_SECONDS:
        return "Known after a few more scans."
    if policy.name not in newest.cpu_seconds or policy.name not in first.cpu_seconds:
        return "Unknown: not calibrated."
    faults, forks = (
        (now - then) / (newest.sample.host.cpus * seconds)
        for now, then in zip(
            newest.cpu_seconds[policy.name], first.cpu_seconds[policy.name], strict=True
        )
    )
    verdict = " It saves time too." if faults < forks else ""
    return (
        f"{small_percent(faults - forks)} of all CPU time on balance in {seconds:.0f} s, modelled"
        f" at calibrated prices: faults take {small_percent(faults)}, cheaper forks save"
        f" {small_percent(forks)}.{verdict}"
    )


def _reserve(reserve_kib: int, headroom: Headroom | None) -> str:
    if headroom is None:
        return ""
    free_kib = headroom.least_pages * PAGE_KIB
    times = f", {free_kib // reserve_kib} times the reserve" if reserve_kib else ""
    return f" {free_kib} KiB are free above the minimum watermarks{times}."


def _coverage(newest: Scan) -> str:
    coverage = newest.sample.coverage
    if coverage.kernel_stacks is None:
        return f"{coverage.read} stacks were read; the kernel does not report how many there are."
    # its count is batched per CPU and read at another time, so that it may lag
    share = min(1.0, coverage.read / max(1, coverage.kernel_stacks))
    return (
        f"{percent(share)}: {coverage.read} of {coverage.kernel_stacks} stacks that the kernel"
        f" counts (off by up to a few dozen) were read, {coverage.unreadable} were unreadable."
    )
