# SPDX-License-Identifier: GPL-2.0-or-later
"""`cost` on this host, and the same from a capture of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.live.machine import run

_FORKS = """
import os, sys, time
count = 0
end = time.time() + float(sys.argv[1])
while time.time() < end:
    pid = os.fork()
    pid or os._exit(0)
    os.waitpid(pid, 0)
    count += 1
    time.sleep(0.002)
print(count)
"""


def fork_for(seconds: float, counts: list[int]) -> None:
    """Append the number of forks done: few on a busy machine."""
    command = [sys.executable, "-c", _FORKS, str(seconds)]
    counts.append(int(subprocess.run(command, check=True, capture_output=True).stdout))


def test_a_fork_load_makes_cheaper_forks() -> None:
    forks: list[int] = []
    load = threading.Thread(target=fork_for, args=(12, forks))
    load.start()
    told = run("cost", "--duration", "6s", "--format", "json")
    load.join()
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["seconds"] == pytest.approx(6, abs=2)
    assert document["created_per_second"] > forks[0] / 12 / 2
    # each touches at least one page of its own
    assert document["page_faults_per_second"]["user"] > forks[0] / 12 / 2
    assert 0 < document["calibration"]["clear_page_ns"] < document["calibration"]["fault_ns"]
    cost = document["cost"]
    low, high = cost["fork_saving_cpu_ratio_range"]
    assert 0 < low <= cost["fork_saving_cpu_ratio"] <= high < 0.01
    assert document["safety"]["headroom_kib"]["least"] > 0
    assert document["safety"]["headroom_samples"] >= 2
    assert document["safety"]["context_samples"] is not None
    assert document["safety"]["kernel_samples"] > document["safety"]["context_samples"]
    assert document["safety"]["not_sampled"] is None
    shares = document["safety"]["contexts"]
    assert not shares or sum(shares.values()) == pytest.approx(1)


def test_a_capture_has_the_calibration_of_its_host(tmp_path: Path) -> None:
    path = tmp_path / "host.dsp"
    made = run("record", str(path), "--duration", "3s", "--interval", "1s")
    assert made.returncode == 0, made.stderr
    one, two = (run("cost", str(path), "--format", "json") for _ in range(2))
    assert one.stdout == two.stdout, one.stderr
    assert json.loads(one.stdout)["calibration"]["fault_ns"] > 0
