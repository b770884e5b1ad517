# SPDX-License-Identifier: GPL-2.0-or-later
"""Metrics from samples made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dynstack_probe.model.containers import short_name
from dynstack_probe.model.frame import Coverage
from dynstack_probe.model.growth import growth_of, whole_shapes
from dynstack_probe.model.lifecycle import ExitReads, Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.serve.collector import HostCollector, Scan, ScanCounter
from tests.factory import COSTS, a_host

Shapes = Mapping[tuple[int, int], int]


def a_sample(
    living: Shapes,
    exited: Shapes | None = None,
    *,
    skipped: tuple[int, ...] = (0,) * 8,
    cgroups: Mapping[int, tuple[int, ...]] | None = None,
    exit_reads: ExitReads = ExitReads(),
    kernel_stack_kib: int | None = None,
) -> Sample:
    count = sum(living.values())
    return Sample(
        host=a_host(),
        living=Living({Kind.USER: living}, skipped, (0,) * 6, 1),
        lifecycle=Lifecycle(
            *(7, 3, exited or {}, (0,) * 8, (1, 2, 3, 4, 5, 6), {"exit_unread": 0}, 9, 0.5),
            exit_reads,
        ),
        coverage=Coverage(count, 0, count + 1, kernel_stack_kib or count * 16, False),
        cgroups=cgroups or {},
        scan_seconds=0.001,
        taken_at=1.0,
        kernel_counters={"nr_dynamic_stacks_faults": 156, "kstack_4k": 5},
        bpf_memory_bytes=4096,
    )


def collected(
    *samples: Sample, policies: tuple[str, ...] = ("rfc-v1",), top: int = 2
) -> list[dict[str, float]]:
    """What each of the samples in turn looks like to Prometheus."""
    scans, newest = ScanCounter(), list[Scan | None]([None])
    registry = CollectorRegistry()
    registry.register(
        HostCollector(
            lambda: newest[0],
            lambda: [BUILT_IN[name] for name in policies],
            lambda: top,
            lambda: {1: '/a\x1b\n"', 2: "/b"},
            lambda: COSTS,
        )
    )
    pages = []
    for sample in samples:
        newest[0] = scans.add(sample)
        text = generate_latest(registry).decode()
        pages.append(
            {
                s.name + "".join(f" {value}" for _, value in sorted(s.labels.items())): s.value
                for family in text_string_to_metric_families(text)
                for s in family.samples
            }
        )
    return pages


def test_nothing_but_the_build_before_the_first_scan() -> None:
    registry = CollectorRegistry()
    registry.register(HostCollector(lambda: None, list, lambda: 1, dict, lambda: COSTS))
    assert [f.name for f in registry.collect()] == ["dynstack_build"]


def test_figures() -> None:
    # two fresh stacks of one page, one grown to three, one of two on a stack that had two
    sample = a_sample({(1, 1): 2, (3, 1): 1, (2, 2): 1}, {(2, 1): 10, (1, 2): 4})
    (page,) = collected(sample, policies=("rfc-v1", "static-8k"))
    assert page["dynstack_stack_bytes"] == 4 * 16384
    assert page["dynstack_policy_stack_bytes rfc-v1"] == (1 + 1 + 3 + 2) * 4096
    assert page["dynstack_policy_stack_bytes static-8k"] == 4 * 8192
    assert page["dynstack_policy_reserve_bytes rfc-v1"] == 2 * 3 * 4096
    assert page["dynstack_policy_faults_total rfc-v1"] == 2 + 10
    assert page["dynstack_policy_avoided_fault_pages_total rfc-v1"] == 1
    assert page["dynstack_policy_over_limit_tasks static-8k"] == 1
    assert page["dynstack_tasks user 3"] == 1
    assert page["dynstack_exited_tasks_total 1"] == 4
    assert page["dynstack_created_tasks_total"] == 7
    assert page["dynstack_late_growth_tasks_total older"] == 6
    assert page["dynstack_kernel_dynamic_stack_bytes"] == 156 * 1024
    assert page["dynstack_kernel_exited_stacks_total 4k"] == 5
    assert page["dynstack_page_faults_total kernel"] == 6
    assert page["dynstack_memory_headroom_bytes"] == 700 * 4096
    assert page["dynstack_calibrated_fault_seconds"] == pytest.approx(2e-6)
    assert page["dynstack_calibrated_clear_page_seconds"] == pytest.approx(1e-7)


def test_how_exits_were_read() -> None:
    reads = ExitReads(windowed=63, checked=1, caught=1, hidden=2, unproved=4096)
    (page,) = collected(a_sample({(1, 1): 1}, {(1, 1): 90, (2, 1): 10}, exit_reads=reads))
    assert page["dynstack_exit_reads_total whole"] == 37
    assert page["dynstack_exit_reads_total windows"] == 63
    assert page["dynstack_exit_reads_hidden_total"] == 2
    assert page["dynstack_exit_reads_unproved"] == 4096
    least, most = reads.missed_range()
    assert page["dynstack_exit_pages_hidden_estimate least"] == least > 0
    assert page["dynstack_exit_pages_hidden_estimate most"] == most == 63


def test_the_models_error_on_a_kernel_with_dynamic_stacks() -> None:
    """Three stacks, two pages of one of them inherited: 5 pages, of which the kernel counts 6."""
    sample = a_sample({(1, 1): 2, (2, 3): 1}, kernel_stack_kib=24)
    (page,) = collected(sample)
    assert page["dynstack_kernel_resident_stack_bytes"] == 24 * 1024
    assert page["dynstack_model_error_ratio resident"] == 5 / 6 - 1
    (stock,) = collected(dataclasses.replace(sample, kernel_counters={}))
    assert not [name for name in stock if "model_error" in name or "kernel_resident" in name]


def test_a_skipped_page_is_mapped_but_no_fault() -> None:
    (page,) = collected(a_sample({(3, 1): 1}, skipped=(0, 1, 0, 0, 0, 0, 0, 0)))
    assert page["dynstack_policy_faults_total rfc-v1"] == 1
    assert page["dynstack_policy_fault_pages_total rfc-v1"] == 2


def test_a_task_in_flight_does_not_make_a_counter_fall() -> None:
    alive, in_flight, exited = (
        a_sample({(2, 1): 5}),
        a_sample({(2, 1): 4}),
        a_sample({(2, 1): 4}, {(2, 1): 2}),
    )
    pages = collected(alive, in_flight, exited)
    assert [page["dynstack_policy_faults_total rfc-v1"] for page in pages] == [5, 5, 6]


def test_cgroups_are_the_largest_and_other() -> None:
    held = {1: (9, 1, 0, 0, 0, 0, 0, 0), 2: (5,) + (0,) * 7, 3: (1,) + (0,) * 7, 4: (2,) + (0,) * 7}
    (page,) = collected(a_sample({(1, 1): 18}, cgroups=held))
    name = '/a\\x1b\\n"'
    assert page[f"dynstack_cgroup_stack_bytes {name}"] == 10 * 16384
    assert page[f"dynstack_cgroup_policy_stack_bytes {name} rfc-v1"] == 11 * 4096
    assert page["dynstack_cgroup_stack_bytes /b"] == 5 * 16384
    assert page["dynstack_cgroup_stack_bytes other"] == 3 * 16384
    assert page["dynstack_cgroups_in_other"] == 2


def test_a_cgroup_that_nobody_can_name_adds_to_other() -> None:
    held = {1: (2,) + (0,) * 7, 987654321: (5,) + (0,) * 7}
    (page,) = collected(a_sample({(1, 1): 7}, cgroups=held))
    assert page["dynstack_cgroup_stack_bytes other"] == 5 * 16384
    assert page["dynstack_cgroups_in_other"] == 1
    assert not [series for series in page if "987654321" in series]


PAGES = st.integers(1, 4)


@given(st.lists(st.dictionaries(st.tuples(PAGES, PAGES), st.integers(0, 1000))))
def test_what_has_grown_never_falls(counts: list[dict[tuple[int, int], int]]) -> None:
    scans = ScanCounter()
    grown = [scans.add(a_sample(living)).growth for living in counts]
    for earlier, later in pairwise(grown):
        assert earlier | later == later
    for one, living in zip(grown, counts, strict=True):
        assert growth_of(whole_shapes(living)) | one == one


ID = "0123456789ab" + "c" * 52


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker:0123456789ab"),
        (f"/docker/{ID}", "docker:0123456789ab"),
        (
            f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
            "containerd:0123456789ab",
        ),
        (f"/kubepods.slice/crio-{ID}.scope", "cri-o:0123456789ab"),
        (f"/kubepods/besteffort/pod12/{ID}", "containerd:0123456789ab"),
        (f"/machine.slice/libpod-{ID}.scope", "podman:0123456789ab"),
        ("/system.slice/ssh.service", "/system.slice/ssh.service"),
        ("/docker/short", "/docker/short"),
        ("/", "/"),
    ],
)
def test_short_name(path: str, name: str) -> None:
    assert short_name(path) == name
