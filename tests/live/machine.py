# SPDX-License-Identifier: GPL-2.0-or-later
"""What live tests do to this machine: run the tool, start tasks, ask the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests import ROOT

PR_SET_NAME = 15  # linux/prctl.h


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
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
named = [0]
def sleeper():
    prctl(15, name, 0, 0, 0)
    named.append(1)
    time.sleep(1e6)
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
    """A process with `count` threads of that name, all asleep in nanosleep; yields its pid.

    Not on a lock: since Linux 6.16 a process has a small private futex hash, and if that lock
    shares a bucket with one of Python's, each wake of the latter walks all sleepers.
    """
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
    """Fork that many processes, which exit, from one more process."""
    subprocess.run([sys.executable, "-S", "-c", _FORKER, str(count)], check=True)


def visible_threads() -> set[int]:
    """The tids of all threads in /proc that still have a stack."""
    tids = set()
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state = stat.read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                tids.add(int(stat.parent.name))
    return tids


@cache
def _our_names() -> frozenset[str]:
    """Every word in the probes, cut to BPF_OBJ_NAME_LEN: the program and map names among them."""
    text = "".join(path.read_text() for path in (ROOT / "probes").glob("*.[ch]"))
    return frozenset(word[:15] for word in re.findall(r"\w+", text))


def bpf_objects() -> set[tuple[str, int]]:
    """BPF programs and maps with names of ours, and links to such programs.

    Other tools' objects may come and go meanwhile.
    """

    def listed(kind: str) -> list[dict[str, Any]]:
        command = ["bpftool", "-j", kind, "list"]
        found = subprocess.run(command, capture_output=True, check=True).stdout
        entries: list[dict[str, Any]] = json.loads(found or b"[]")
        return entries

    found = {
        (kind, entry["id"])
        for kind in ("prog", "map")
        for entry in listed(kind)
        if entry.get("name") in _our_names()
    }
    links = listed("link")
    return found | {("link", e["id"]) for e in links if ("prog", e.get("prog_id")) in found}


def rename_this_thread(name: bytes) -> None:
    """Set the comm of the calling thread."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name, 0, 0, 0)


def wait_until_gone(objects: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """BPF objects besides these that remain after a while."""
    for _ in range(50):
        left = bpf_objects() - objects
        if not left:
            break
        time.sleep(0.1)
    return left


def forks_so_far() -> int:
    """Tasks created since boot: the kernel's own count, in /proc/stat."""
    for line in open("/proc/stat"):  # noqa: PTH123, SIM115
        if line.startswith("processes "):
            return int(line.split()[1])
    raise AssertionError("/proc/stat has no processes line")
