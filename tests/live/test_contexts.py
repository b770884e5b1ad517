# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPU was doing when stacks were deep, under loads that are known.

A datagram to oneself sends with bottom halves off (__dev_queue_xmit()), and its softirq then
runs on the CPU's own stack (do_softirq_own_stack()), not on the task's. Looking up files
takes no such lock for long.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dynstack_probe.loader import Loader
from dynstack_probe.measure.call_paths import Sampling, load_call_paths
from dynstack_probe.measure.contexts import Context
from tests.live.machine import run

SECONDS = 4


def look_up_files(ends: float) -> None:
    here = str(Path(__file__).resolve())
    while time.monotonic() < ends:
        os.stat(here)  # noqa: PTH116


def send_to_oneself(ends: float) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        while time.monotonic() < ends:
            sender.send(b"x" * 1000)
            receiver.recv(2000)


def contexts_under(load: Callable[[float], None]) -> tuple[Counter[Context], int]:
    """Of this process's own samples; and how many samples were on a CPU's own stack."""
    found: Counter[Context] = Counter()
    with (
        Loader() as loader,
        load_call_paths(loader, rate_hz=997, deeper_than=500) as probe,
        Sampling(probe) as sampling,
    ):
        thread = threading.Thread(target=load, args=(time.monotonic() + SECONDS,), name="load")
        thread.start()
        while thread.is_alive():
            time.sleep(0.2)
            tasks = {int(task.name) for task in Path("/proc/self/task").iterdir()}
            found.update(s.context for s in sampling.read() if s.tid in tasks)
        elsewhere = sampling.counters().elsewhere
    return found, elsewhere


def test_preemption_is_told_from_a_load_that_turns_it_off() -> None:
    files, _ = contexts_under(look_up_files)
    datagrams, elsewhere = contexts_under(send_to_oneself)
    print(f"\nfiles {dict(files)}; datagrams {dict(datagrams)}, {elsewhere} on another stack")
    for found in (files, datagrams):
        assert found.total() > 200
        assert found[Context.UNKNOWN] == 0
    assert datagrams[Context.PREEMPTION_OFF] / datagrams.total() > 0.15
    assert files[Context.PREEMPTIBLE] / files.total() > 0.8
    assert files[Context.PREEMPTIBLE] / files.total() > (
        datagrams[Context.PREEMPTIBLE] / datagrams.total()
    )
    # softirqs run on a stack of the CPU's own
    assert datagrams[Context.SOFTIRQ] / datagrams.total() < 0.05
    assert elsewhere > 50


def test_faults_tells_contexts_headroom_and_runs(tmp_path: Path) -> None:
    load = threading.Thread(target=send_to_oneself, args=(time.monotonic() + 5,))
    load.start()
    told = run(
        *("faults", "-d", "3", "--rate", "997", "--deeper-than", "500"),
        *("--folded", str(tmp_path / "f"), "--format", "json"),
    )
    load.join()
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert sum(document["contexts"].values()) == pytest.approx(1)
    assert document["contexts"]["preemption off"] > 0
    assert all(sum(path["contexts"].values()) == pytest.approx(1) for path in document["paths"])
    assert document["reserve"]["most_pages_in_a_run"] <= 3
    for crossing in document["crossings"]:
        assert crossing["headroom_kib"] > 0
