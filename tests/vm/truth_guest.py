# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make truth` does inside its machine: known loads, and the kernel's own word on each.

Only notes, as guest.py does: what agrees is decided by tests/truth, on the host.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.live.machine import sleepers
from tests.vm import guest

SLEEPERS = 97
SLEEPERS_NAME = "truth-sleeper"
NAMESPACED_NAME = "truth-in-pidns"
FORKS = 503
PROGRAMS = 101
DEEP_NAME = "truth-deep"
DEEP = 61
# What to read, if large.
DEEP_FILES = "/usr/lib/x86_64-linux-gnu/*.so*"
DEEP_BYTES = 200_000
LOAD_SECONDS = 20
SYSRQ = Path("/proc/sysrq-trigger")


def tasks(under_load: bool) -> dict[str, Any]:
    """Two captures with sysrq-t in between."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        if under_load:
            stack.enter_context(guest.file_load())
        captures = [_capture(Path(name) / "before.dsp")]
        log = show_tasks()
        captures.append(_capture(Path(name) / "after.dsp"))
    return {"captures": captures, "log": log}


def _capture(path: Path) -> str:
    done = guest.run_tool("record", str(path))
    if done["exit_code"]:
        raise SystemExit(f"guest: record failed: {done['stderr']}")
    return base64.b64encode(path.read_bytes()).decode("ascii")


def show_tasks() -> str:
    """The lines of sysrq-t that begin a task."""
    guest.say("sysrq-t")
    subprocess.run(["dmesg", "--clear"], check=True)
    SYSRQ.write_text("t")
    log = subprocess.run(
        ["dmesg", "--notime"], capture_output=True, errors="replace", text=True, check=True
    ).stdout
    return "".join(line for line in log.splitlines(keepends=True) if "task:" in line)


_DEEP = """
import glob, mmap, os, sys, threading
pattern, least, first, count, name, keep = sys.argv[1:]
first, count = int(first), int(count)
files = [f for f in sorted(set(map(os.path.realpath, glob.glob(pattern))))
         if os.path.getsize(f) >= int(least)]
assert len(files) >= first + count, len(files)
null = os.open("/dev/null", os.O_WRONLY)
done, end = threading.Barrier(count + 1), threading.Event()
def read(path):
    with open("/proc/thread-self/comm", "w") as comm:
        comm.write(name)
    with open(path, "rb") as file:
        os.sendfile(null, file.fileno(), 0, 1 << 14)
        end_of_it = (os.path.getsize(path) - (1 << 14)) & -4096
        page = mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_COPY, offset=end_of_it)
        # a read whose copy to user memory faults, and reads a file again
        os.preadv(file.fileno(), [page], 1 << 15)
    done.wait()
    if keep == "keep":
        end.wait()
threading.stack_size(65536)
threads = [threading.Thread(target=read, args=(f,)) for f in files[first : first + count]]
for thread in threads:
    thread.start()
done.wait()
print(flush=True)
sys.stdin.read()
end.set()
"""


@contextlib.contextmanager
def deep(first: int, keep: bool) -> Iterator[None]:
    """Threads that each read a file which nobody has read; kept, they then sleep.

    By splice, and into memory that is itself a page of the file, not yet read.
    """
    arguments = [DEEP_FILES, DEEP_BYTES, first, DEEP, DEEP_NAME, "keep" if keep else "end"]
    command = [sys.executable, "-c", _DEEP, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("guest: the readers failed")
        yield
        process.stdin.close()


def exits() -> dict[str, Any]:
    """The daemon's counts of exits and the kernel's, around a load of many kinds."""
    with guest.daemon() as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        if "serving http" not in said:
            raise SystemExit(f"guest: serve failed: {said}{process.stderr.read()}")
        before = guest.calm_scrape()
        guest.say(f"{FORKS} forks, {PROGRAMS} programs, {LOAD_SECONDS} s of reading files")
        guest.fork_and_reap(FORKS)
        for _ in range(PROGRAMS):
            subprocess.run(["/bin/true"], check=True)
        with guest.file_load(), deep(DEEP, keep=False):
            time.sleep(LOAD_SECONDS)
        after = guest.calm_scrape()
    return {"before": before["metrics"], "after": after["metrics"]}


@contextlib.contextmanager
def in_other_pid_namespace() -> Iterator[None]:
    """A task that has another pid in a namespace of its own."""
    rename = f"open('/proc/self/comm', 'w').write('{NAMESPACED_NAME}')"
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c"]
    command.append(f"{rename}; print(flush=True); import time; time.sleep(9999)")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def truth() -> dict[str, Any]:
    """Tasks when it is calm and under load, then exits."""
    with (
        sleepers(SLEEPERS, SLEEPERS_NAME.encode()),
        in_other_pid_namespace(),
        deep(0, keep=True),
    ):
        with guest.file_load():
            time.sleep(LOAD_SECONDS)
        return {"calm": tasks(under_load=False), "loaded": tasks(under_load=True), **exits()}
