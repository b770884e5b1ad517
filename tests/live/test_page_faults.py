# SPDX-License-Identifier: GPL-2.0-or-later
"""Counted page faults against programs that take a known number of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel import bpf
from dynstack_probe.loader import Loader
from dynstack_probe.measure.page_faults import DutyCycle, PageFaultCounter, count_page_faults
from tests import ROOT

PAGES = 20_011  # a prime
STEADY_FAULTS_A_SECOND = 60_000
# Other processes' faults only add to the count.
ATTEMPTS = 12


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page_faults") / "page_faults"
    source = Path(__file__).with_name("page_faults.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", path, source], check=True)
    return path


def counting(duty: DutyCycle | None = None) -> PageFaultCounter:
    with Loader() as loader:
        return count_page_faults(loader, duty)


@pytest.fixture(scope="module")
def counter() -> Iterator[PageFaultCounter]:
    made = counting()
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
    """Two minutes, compared with counters that are always on."""
    seconds = 8 * duty.period_seconds
    load = subprocess.Popen(
        [program, "kernel", str(STEADY_FAULTS_A_SECOND), str(round(seconds + 60))]
    )
    time.sleep(1)
    always, sometimes = counting(), counting(duty)
    try:
        ends = time.monotonic() + seconds
        while (due := sometimes.due_at()) is not None and (due < ends or sometimes.is_on):
            time.sleep(max(0.0, due - time.monotonic()))
            sometimes.turn()
        truth, told = always.read().kernel, sometimes.read().kernel
        print(f"\ntold {told}, counted {truth}")
        assert told == pytest.approx(truth, rel=0.10)
    finally:
        load.kill()
        load.wait()
        always.close()
        sometimes.close()


_AFTER_DROPPING = """
import mmap, os, time
from dynstack_probe.kernel.privileges import drop_privileges
from dynstack_probe.loader import Loader
from dynstack_probe.measure.page_faults import DutyCycle, count_page_faults
with Loader() as loader:
    counter = count_page_faults(loader, DutyCycle(0.1, 0.11))
os.setresuid(65534, 65534, 65534)
drop_privileges()
for _ in range(4):
    counter.turn()
    with open("/dev/zero", "rb", buffering=0) as zero:
        zero.readinto(mmap.mmap(-1, 1 << 24))
    time.sleep(0.1)
print(counter.read().kernel)
"""


def test_it_is_switched_by_a_process_without_privileges() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _AFTER_DROPPING], capture_output=True, text=True, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 0


def test_a_kernel_that_does_not_let_it_attach(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(program_fd: int, tracepoint: str) -> int:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(bpf, "attach_raw_tracepoint", refuse)
    with pytest.raises(ProbeError, match=r"page_fault_kernel.*not permitted"):
        counting()
