# SPDX-License-Identifier: GPL-2.0-or-later
"""Each in a process of its own: what is dropped does not come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: nothing to drop")

PRELUDE = """
import json, os, subprocess, sys, threading
from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel.privileges import drop_privileges

def fields(path):
    return dict(line.rstrip("\\n").split(":\\t", 1) for line in open(path) if ":\\t" in line)
"""


def run(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_powerless(status: dict[str, str]) -> None:
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"


@needs_root
def test_drops_everything_and_keeps_the_user() -> None:
    status = run("drop_privileges(); print(json.dumps(fields('/proc/self/status')))")
    assert_powerless(status)
    assert status["Uid"].split() == [str(os.geteuid())] * 4


@needs_root
def test_the_bounding_set_goes_if_we_may() -> None:
    may = "int(fields('/proc/self/status')['CapEff'], 16) >> 8 & 1"  # CAP_SETPCAP
    told = run(
        f"may = {may}; drop_privileges();"
        "print(json.dumps([may, fields('/proc/self/status')['CapBnd']]))"
    )
    if not told[0]:
        pytest.skip("root without CAP_SETPCAP can't empty its bounding set")
    assert int(told[1], 16) == 0


@needs_root
def test_threads_and_programs_started_later_have_none() -> None:
    statuses = run(
        """
        drop_privileges()
        seen = []
        def look():
            seen.append(fields(f'/proc/self/task/{threading.get_native_id()}/status'))
        thread = threading.Thread(target=look); thread.start(); thread.join()
        out = subprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True).stdout
        seen.append(dict(l.split(':\\t', 1) for l in out.splitlines() if ':\\t' in l))
        print(json.dumps(seen))
        """
    )
    assert len(statuses) == 2
    for status in statuses:
        assert_powerless(status)


@needs_root
def test_twice_and_without_any_privilege() -> None:
    status = run(
        """
        nobody = 65534
        os.setresuid(nobody, nobody, nobody)
        drop_privileges()
        drop_privileges()
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            pass
        else:
            raise AssertionError('root again')
        print(json.dumps(fields('/proc/self/status')))
        """
    )
    assert_powerless(status)


def test_as_an_ordinary_user_too() -> None:
    assert_powerless(run("drop_privileges(); print(json.dumps(fields('/proc/self/status')))"))


def test_refuses_when_other_threads_would_keep_theirs() -> None:
    message = run(
        """
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait); thread.start()
        try:
            drop_privileges()
        except ProbeError as error:
            print(json.dumps(str(error)))
        finally:
            stop.set()
        """
    )
    assert "2 threads" in message


@needs_root
def test_says_what_was_kept() -> None:
    message = run(
        """
        from dynstack_probe.kernel import privileges
        import ctypes
        class Deaf:
            prctl = capset = staticmethod(lambda *_: 0)
        ctypes.CDLL = lambda *_, **__: Deaf()
        try:
            drop_privileges()
        except ProbeError as error:
            print(json.dumps(str(error)))
        """
    )
    assert "CapEff is" in message
    assert "NoNewPrivs is 0" in message


def test_ctrl_c_during_the_trial_is_its_parents_alone() -> None:
    """A terminal sends it to both; the child told it, too, and ended what is its parent's."""
    tried = run(
        """
        import signal
        from dynstack_probe import interrupts
        from dynstack_probe.kernel import privileges
        privileges.drop_privileges = lambda: os.kill(os.getpid(), signal.SIGINT)
        interrupts.quit_at_once()
        may = privileges.may_iterate_without_privileges([])
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        print(json.dumps([may, blocked]))
        """
    )
    assert tried == [True, False]
