"""Counted page faults against programs that take a known number of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel import host, perf
from dynstack_probe.loader import Loader, probes_dir
from dynstack_probe.measure.page_faults import (
    KERNEL_MODE_TRACEPOINT,
    DutyCycle,
    PageFaultCounter,
    PerfPageFaults,
    TracedPageFaults,
    count_page_faults,
)
from tests.live.machine import ROOT

PAGES = 20_011  # a prime
STEADY_FAULTS_A_SECOND = 60_000
# Others use this machine too, and what they take only adds to what is counted.
ATTEMPTS = 12


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page_faults") / "page_faults"
    source = Path(__file__).with_name("page_faults.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", path, source], check=True)
    return path


def traced() -> PageFaultCounter:
    with Loader() as loader:
        probe = loader.load(
            probes_dir() / "kernel_page_faults.c",
            {"POSSIBLE_CPUS": host.possible_cpus()},
            [],
            maps=["kernel_page_faults"],
            tracepoints={KERNEL_MODE_TRACEPOINT: "on_kernel_fault"},
        )
    return TracedPageFaults(probe)


@pytest.fixture(params=[PerfPageFaults, traced], ids=["perf", "traced"], scope="module")
def counter(request: pytest.FixtureRequest) -> Iterator[PageFaultCounter]:
    make: Callable[[], PageFaultCounter] = request.param
    made = make()
    yield made
    made.close()


@pytest.mark.parametrize("mode", ["user", "kernel"])
def test_known_page_faults_are_counted_in_their_mode(
    counter: PageFaultCounter, program: Path, mode: str
) -> None:
    found = []
    for _ in range(ATTEMPTS):
        before = counter.read()
        subprocess.run([program, mode, str(PAGES)], check=True)
        after = counter.read()
        found.append((after.user - before.user, after.kernel - before.kernel))
        if PAGES <= getattr(after, mode) - getattr(before, mode) <= PAGES * 1.01:
            break
    user = min(user for user, _ in found)
    kernel = min(kernel for _, kernel in found)
    right, wrong = (user, kernel) if mode == "user" else (kernel, user)
    assert PAGES <= right <= PAGES * 1.01
    assert wrong < PAGES * 0.1


@pytest.mark.parametrize("duty", [DutyCycle(), DutyCycle(0.2, 3.0)], ids=["default", "fast"])
def test_a_duty_cycle_tells_a_steady_load(program: Path, duty: DutyCycle) -> None:
    """Two minutes of it: held against counters that are on all of the time."""
    seconds = 8 * duty.period_seconds
    load = subprocess.Popen(
        [program, "user", str(STEADY_FAULTS_A_SECOND), str(round(seconds + 60))]
    )
    time.sleep(1)
    always, sometimes = PerfPageFaults(), PerfPageFaults(duty)
    try:
        ends = time.monotonic() + seconds
        while (due := sometimes.due_at()) is not None and (due < ends or sometimes.is_on):
            time.sleep(max(0.0, due - time.monotonic()))
            sometimes.turn()
        truth, told = always.read().user, sometimes.read().user
        print(f"\ntold {told}, counted {truth}")
        assert told == pytest.approx(truth, rel=0.10)
    finally:
        load.kill()
        load.wait()
        always.close()
        sometimes.close()


_AFTER_DROPPING = """
import sys, time
from dynstack_probe.kernel.privileges import drop_privileges
from dynstack_probe.measure.page_faults import DutyCycle, PerfPageFaults
counter = PerfPageFaults(DutyCycle(0.1, 0.11))
drop_privileges("nobody")
for _ in range(4):
    counter.turn()
    b"x" * (1 << 22)  # page faults
    time.sleep(0.1)
print(counter.read().user)
"""


def test_counters_are_switched_by_a_process_without_privileges() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _AFTER_DROPPING], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 0


def test_where_nothing_counts_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cpu: int, config: int) -> None:
        raise PermissionError(13, os.strerror(13))

    def fail(*_: object, **__: object) -> None:
        raise ProbeError("no such tracepoint")

    monkeypatch.setattr(perf, "ModeCounters", refuse)
    monkeypatch.setattr(Loader, "load", fail)
    with pytest.raises(ProbeError, match=r"Permission denied.*no such tracepoint"):
        count_page_faults()
