"""The tool under Debian's kernels, 6.1 and 6.12, which this machine does not run.

One short case is part of `make test`, and is skipped where QEMU or the kernel can't be had.
DYNSTACK_VM=all (`make vm-test`) runs all of them, and then nothing is skipped.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.vm.guest import FORKS, SLEEPERS, SLEEPERS_NAME
from tests.vm.machine import (
    Kernel,
    UnavailableError,
    boot,
    check_host,
    get_kernel,
    newest_kernel,
)

ALL = os.environ.get("DYNSTACK_VM") == "all"
# The last has idle tasks, and so stacks, of CPUs that are not plugged in.
SMP = ("1", "4", "2,maxcpus=8")
CASES = [(series, smp) for series in ("6.1", "6.12") for smp in SMP] if ALL else [("6.1", "1")]
PARTS = ["estimate", "doctor", "serve"] if ALL else ["estimate", "serve"]
# Kernel threads that may come or go between two counts.
FEW = 5
# dynstack-probe itself and its child, which are tasks too while it runs.
ITSELF = 2

needs_all = pytest.mark.skipif(not ALL, reason="takes minutes: make vm-test")


def kernel_or_why_not(series: str) -> tuple[Kernel | None, str]:
    try:
        check_host()
        return get_kernel(series), ""
    except UnavailableError as error:
        return None, str(error)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-smp{case[1]}")
def guest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What guest.py noted in a machine that has ended."""
    series, smp = request.param
    kernel, why = kernel_or_why_not(series)
    if kernel is None:
        give_up = pytest.fail if ALL else pytest.skip
        give_up(f"Linux {series} was not tried: {why}")
    facts = boot(kernel, smp, PARTS)
    assert facts["kernel_release"] == kernel.release
    return facts


def test_estimate_reads_every_stack(guest: dict[str, Any]) -> None:
    run = guest["estimate"]["run"]
    assert run["exit_code"] == 0, run["stderr"]
    document = json.loads(run["stdout"])
    groups = {group["name"]: group["stacks"] for group in document["groups"]}
    assert groups[SLEEPERS_NAME] == SLEEPERS

    # CPU 0's idle task has a static stack; those of all other possible CPUs are counted
    idle = guest["possible_cpus"] - 1
    assert document["measured"]["idle_tasks"] == idle
    coverage = document["coverage"]
    tasks = sorted((guest["estimate"]["tasks_before"], guest["estimate"]["tasks_after"]))
    assert tasks[0] + idle - FEW <= coverage["read"] <= tasks[1] + idle + ITSELF + FEW
    assert coverage["kernel_count_exact"]
    assert abs(coverage["kernel_stacks"] - coverage["read"]) <= FEW
    assert coverage["missed"] <= FEW


@needs_all
def test_doctor_finds_nothing_wrong(guest: dict[str, Any]) -> None:
    assert guest["doctor"]["exit_code"] == 0, guest["doctor"]["stdout"] + guest["doctor"]["stderr"]


def test_serve_counts_every_fork_and_exit(guest: dict[str, Any]) -> None:
    facts = guest["serve"]
    assert "after" in facts, f"the daemon did not start: {facts['said']}"
    before, after = facts["before"], facts["after"]

    def rise(metric: str) -> float:
        difference: float = after["metrics"][metric] - before["metrics"][metric]
        return difference

    created = after["created"] - before["created"]
    background = created - FORKS
    assert 0 <= background < FORKS, "too much else went on in the guest"
    assert rise("dynstack_created_tasks_total") == FORKS + background
    more_tasks = after["tasks"] - before["tasks"]
    assert rise("dynstack_exited_tasks_total") == FORKS + background - more_tasks
    assert after["metrics"]["dynstack_lost_events_total"] == 0
    assert after["metrics"]["dynstack_stacks_read"] == after["tasks"] + guest["possible_cpus"] - 1


def test_serve_keeps_no_capability_and_ends_on_sigterm(guest: dict[str, Any]) -> None:
    facts = guest["serve"]
    assert "after" in facts, f"the daemon did not start: {facts['said']}"
    assert {int(mask, 16) for mask in facts["effective_capabilities"]} == {0}
    assert facts["exit_code"] == 0


def test_the_kernel_is_the_newest_of_its_series() -> None:
    stanzas = "\n\n".join(
        f"Package: linux-image-amd64\nDepends: linux-image-{release}-amd64 (= {version})"
        for release, version in (
            ("6.12.117+deb12", "6.12.117-1~deb12u1"),
            ("6.1.0-56", "6.1.192-2"),
            ("6.1.0-50", "6.1.176-1"),
        )
    )
    assert newest_kernel(stanzas, "6.1") == ("linux-image-6.1.0-56-amd64", "6.1.192-2")
    assert newest_kernel(stanzas, "6.12")[1] == "6.12.117-1~deb12u1"
    with pytest.raises(UnavailableError, match=r"no linux-image-amd64 of Linux 6\.6"):
        newest_kernel(stanzas, "6.6")
