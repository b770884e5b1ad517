# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes the child quick, and that it costs nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynstack_probe import loader
from dynstack_probe.__main__ import _scans_this_host
from dynstack_probe.loader import CHILD, Loader
from tests import ROOT

_IDENTITY = f"""
import ctypes, importlib.util, os
spec = importlib.util.spec_from_file_location("child", {str(CHILD)!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
def identity():
    lines = open("/proc/thread-self/status").read().splitlines()
    return os.geteuid(), [line for line in lines if line.startswith("CapEff")]
def death_signal():
    found = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(2, ctypes.byref(found)) == 0  # PR_GET_PDEATHSIG
    return found.value
child.die_with_parent(os.getppid())
before = identity()
try:
    with child.not_as_root(os.getppid()):
        print(os.geteuid(), death_signal())
        assert identity()[1] == before[1]
        raise ValueError
except ValueError:
    assert identity() == before
print(death_signal())
"""


def euid_within(*under: str) -> str:
    command = [*under, "/usr/bin/python3", "-I", "-c", _IDENTITY]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another for a while")
def test_another_user_that_still_dies_with_its_parent() -> None:
    assert euid_within() == "65534 9\n9\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have fewer capabilities")
@pytest.mark.parametrize("lacking", ["setpcap", "setuid"])
def test_still_root_where_that_may_not_be_changed(lacking: str) -> None:
    kept = euid_within("setpriv", f"--bounding-set=-{lacking}", f"--inh-caps=-{lacking}")
    assert kept == "0 9\n9\n"


def test_an_early_child_is_the_loaders_first() -> None:
    loader.start_early()
    early = loader._early
    assert early is not None
    loader.start_early()
    with Loader(check_capabilities=False) as first, Loader(check_capabilities=False) as second:
        assert first._child is early
        assert second._child is not early


@pytest.mark.parametrize(
    ("words", "early"),
    [
        (["estimate"], True),
        (["estimate", "--format=json", "-v"], True),
        (["estimate", "a.dsp"], False),
        (["estimate", "--help"], False),
        (["cost"], False),
        ([], False),
    ],
)
def test_only_a_scan_of_this_host_begins_early(words: list[str], early: bool) -> None:
    assert _scans_this_host(words) is early


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-"])
def test_a_closed_stream_gets_nothing_of_the_childs(closed: str) -> None:
    script = f'"$1" -m dynstack_probe estimate --no-such-option {closed}'
    told = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable], cwd=ROOT, capture_output=True, check=False
    )
    assert told.returncode == 2
    assert told.stdout == b""


def test_an_early_child_that_nobody_wants_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "dynstack_probe", "estimate", "--no-such-option"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert len(told.stderr.splitlines()) == 1
    deadline = time.monotonic() + 5
    while children_of_nobody():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of_nobody() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
            parents = (path.parent / "status").read_text()
        except OSError:
            continue
        if str(CHILD) in words and "PPid:\t1\n" in parents:
            found.append(path.parent.name)
    return found
