# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C at ten moments of every command's startup: one line, exit code 130, nothing leaked."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests import ROOT
from tests.live.commands import QUICKLY, arguments, commands, complaints
from tests.live.machine import bpf_objects, wait_until_gone

MOMENTS = 10
# The command, which signals on fd 3 that its first line has run: what Python does before that
# is out of our control.
TOLD = """
import os, sys
from dynstack_probe import __main__ as command
handle = command.quit_at_once
def tell():
    handle()
    os.write(int(sys.argv.pop(1)), b".")
command.quit_at_once = tell
sys.exit(command.main())
"""


def interrupted(
    words: list[str], after_seconds: float, until: str | None = None
) -> tuple[int, str, bool, float]:
    """Exit code, stderr, whether it had finished before Ctrl-C came, and run time.

    SIGINT is sent that long after the first line, or once stderr has `until`, to the whole
    process group, as a terminal does.
    """
    told, tell = os.pipe()
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as complained:

        def said() -> str:
            return os.pread(complained.fileno(), 1 << 20, 0).decode()

        process = subprocess.Popen(
            [sys.executable, "-c", TOLD, str(tell), *words],
            pass_fds=[tell],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=complained,
            cwd=ROOT,
            process_group=0,
        )
        os.close(tell)
        assert select.select([told], [], [], 30)[0]
        os.close(told)
        started = time.monotonic()
        while process.poll() is None and not (until and until in said()):
            if time.monotonic() > started + after_seconds:
                break
            time.sleep(0.002)
        done = process.poll() is not None
        if not done:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        done = done or os.fstat(printed.fileno()).st_size > 0
        return process.returncode, said(), done, time.monotonic() - started


@pytest.mark.parametrize("command", commands())
def test_ten_moments(command: str, capture: Path, prometheus: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    output = ("", path) if "FILE" in QUICKLY[command] else None
    words = arguments(command, capture, prometheus, output)
    before = bpf_objects()
    until = "serving" if command == "serve" else None  # it runs until it is stopped
    code, stderr, _, whole = interrupted(words, 60.0, until)
    assert code == 0, stderr
    path.unlink(missing_ok=True)
    count = 0
    for moment in range(MOMENTS):
        code, stderr, done, _ = interrupted(words, whole * moment / MOMENTS)
        # cost measures until it is stopped, and then reports what it has
        ready = command == "cost" or "serving" in stderr or "watching" in stderr or path.exists()
        if code == 0 and (done or ready):  # or it succeeds
            path.unlink(missing_ok=True)
            continue
        assert complaints(stderr) == ["dynstack-probe: interrupted"], moment
        assert code == 130, moment
        assert list(tmp_path.iterdir()) == []
        count += 1
    assert count, "no moment was early enough: this test has shown nothing"
    assert wait_until_gone(before) == set()
