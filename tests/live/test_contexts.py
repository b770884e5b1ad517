# SPDX-License-Identifier: GPL-2.0-or-later
"""Contexts in which stacks were deep, under known loads."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from dynstack_probe.measure.contexts import Context
from tests.live.context_loads import contexts_under, look_up_files, send_to_oneself
from tests.live.machine import run


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
    # softirqs run on a per-CPU stack
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
