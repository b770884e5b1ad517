# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests do to this machine: run the tool, start tasks, ask the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import ROOT

PR_SET_NAME = 15  # linux/prctl.h


def free_port() -> int:
    """One that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run dynstack-probe as a user would, from this checkout."""
    return subprocess.run(
        [sys.executable, "-m", "dynstack_probe", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def estimate_json(*arguments: str) -> dict[str, Any]:
    """The JSON document of `estimate`, which must succeed."""
    result = run("estimate", "--format", "json", *arguments)
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


_SLEEPERS = """
import _thread, ctypes, os, sys, time

from tests import ROOT
count, name = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
prctl = ctypes.CDLL(None).prctl
lock = _thread.allocate_lock()
lock.acquire()
named = [0]
def sleeper():
    prctl(15, name, 0, 0, 0)
    named.append(1)
    lock.acquire()
_thread.stack_size(65536)
try:
    for _ in range(count):
        _thread.start_new_thread(sleeper, ())
except RuntimeError:  # no more threads: those that are there would wait for ever
    os._exit(1)
while len(named) <= count:
    time.sleep(0.01)
time.sleep(0.1)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def sleepers(count: int, name: bytes) -> Iterator[int]:
    """A process with `count` threads of that name, all asleep in futex; gives its pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SLEEPERS, str(count), name.hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()


# Forks and waits in a loop, as fast as Python can; 503 at a time stay unreaped.
_FORKER = """
import os, sys
left = int(sys.argv[1])
while left:
    batch = min(left, 503)
    pids = []
    for _ in range(batch):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    left -= batch
"""


def fork_many(count: int) -> None:
    """So many processes come and go; one more makes them."""
    subprocess.run([sys.executable, "-S", "-c", _FORKER, str(count)], check=True)


def visible_threads() -> set[int]:
    """The tids of all threads in /proc which still have a stack."""
    tids = set()
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state = stat.read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                tids.add(int(stat.parent.name))
    return tids


def bpf_objects() -> set[tuple[str, int]]:
    """All BPF programs, maps and links in the kernel, as bpftool lists them."""
    found = set()
    for kind in ("prog", "map", "link"):
        text = subprocess.run(
            ["bpftool", "-j", kind, "list"], capture_output=True, check=True
        ).stdout
        found |= {(kind, entry["id"]) for entry in json.loads(text or b"[]")}
    return found


def rename_this_thread(name: bytes) -> None:
    """Set the comm of the calling thread."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)


def wait_until_gone(objects: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """What BPF objects besides these remain after a while."""
    for _ in range(50):
        left = bpf_objects() - objects
        if not left:
            break
        time.sleep(0.1)
    return left


def forks_so_far() -> int:
    """Tasks ever created on this machine: the kernel's own count, in /proc/stat."""
    for line in open("/proc/stat"):  # noqa: PTH123, SIM115
        if line.startswith("processes "):
            return int(line.split()[1])
    raise AssertionError("/proc/stat has no processes line")
