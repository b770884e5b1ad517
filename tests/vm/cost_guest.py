# SPDX-License-Identifier: GPL-2.0-or-later
"""What `cost` needs of a kernel, noted inside a virtual machine; see test_cost.py.

Parts `cost` and `scarce` of guest.py, as root. What the two capabilities of the unit allow is
found out by a process that has these alone: `python3 -m tests.vm.cost_guest NAME`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import ROOT

PAGES = 20_011  # a prime
PROGRAM = Path("/tmp/page_faults")
CGROUP = Path("/sys/fs/cgroup")
LIMIT_BYTES = 32 << 20
CONTEXT_SECONDS = 8
# Wall time, of which an emulated CPU on a busy host gets little.
# How long the ballast is held: many times the longest pause between samples of `cost`.
HOLD_SECONDS = 40.0
RAMP_TIMEOUT_SECONDS = 150.0
COST_SECONDS = 300
# More than a capture's header, less than a frame of any machine.
SNAPSHOT_BYTES = 1024
# syscalls(2), linux/perf_event.h
_PERF_EVENT_OPEN = 298
_SOFTWARE, _PAGE_FAULTS, _EXCLUDE_USER, _EXCLUDE_KERNEL = 1, 2, 1 << 4, 1 << 5
TOOL = [sys.executable, "-m", "dynstack_probe"]


def say(what: str) -> None:
    print(f"guest: {what}", file=sys.stderr, flush=True)


def cost() -> dict[str, Any]:
    """All parts, in one boot of the machine."""
    source = ROOT / "tests/live/page_faults.c"
    subprocess.run(["gcc", "-O2", "-static", "-o", PROGRAM, source], check=True)
    facts = {name: with_two_capabilities(name) for name in PARTS}
    say("contexts, as root")
    facts["contexts_as_root"] = contexts()
    facts["limit"] = limit()
    return facts


def scarce() -> dict[str, Any]:
    """The part of that name."""
    return ballast()


def with_two_capabilities(name: str) -> Any:
    """What a part of PARTS notes, run as nobody with CAP_BPF and CAP_PERFMON."""
    say(f"{name}, as nobody with two capabilities")
    result = subprocess.run(
        [
            *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
            *("--inh-caps=-all,+bpf,+perfmon", "--ambient-caps=-all,+bpf,+perfmon"),
            *("--bounding-set=-all,+bpf,+perfmon", sys.executable, "-m", "tests.vm.cost_guest"),
            name,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if result.returncode:
        return {"failed": result.stderr[-2000:]}
    return json.loads(result.stdout)


def capabilities() -> dict[str, Any]:
    """What is held, and what the kernel thinks of perf events."""
    status = Path("/proc/self/status").read_text()
    (mask,) = re.findall(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid").read_text().strip()
    return {"effective": int(mask, 16), "perf_event_paranoid": int(paranoid)}


def perf_counters() -> dict[str, str]:
    """Whether perf's software counters of page faults may be opened, on CPU 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for mode, flags in (("user", _EXCLUDE_KERNEL), ("kernel", _EXCLUDE_USER)):
        words = (ctypes.c_uint64 * 16)()
        words[0] = _SOFTWARE | (ctypes.sizeof(words) << 32)
        words[1], words[5] = _PAGE_FAULTS, flags
        descriptor = libc.syscall(_PERF_EVENT_OPEN, words, -1, 0, -1, 0)
        found[mode] = "opened" if descriptor >= 0 else os.strerror(ctypes.get_errno())
        if descriptor >= 0:
            os.close(descriptor)
    return found


def page_faults() -> dict[str, list[tuple[int, int]]]:
    """Faults in user and kernel mode, as counted around a program that takes PAGES of one."""
    from dynstack_probe.loader import Loader
    from dynstack_probe.measure.page_faults import count_page_faults

    with Loader() as loader:
        counter = count_page_faults(loader)
    found: dict[str, list[tuple[int, int]]] = {"user": [], "kernel": []}
    for mode, tries in found.items():
        for _ in range(3):
            before = counter.read()
            subprocess.run([PROGRAM, mode, str(PAGES)], check=True)
            since = counter.read().since(before)
            tries.append((since.user, since.kernel))
    counter.close()
    return found


def contexts() -> dict[str, Any]:
    """Of two loads: how many samples were in which context, and on a stack of the CPU's own."""
    from tests.live.context_loads import contexts_under, look_up_files, send_to_oneself

    found = {}
    for load in (look_up_files, send_to_oneself):
        counts, elsewhere = contexts_under(load, CONTEXT_SECONDS)
        named = {context.value: count for context, count in counts.items()}
        found[load.__name__] = {"contexts": named, "elsewhere": elsewhere}
    return found


def plain() -> Any:
    """`cost` itself, of a calm machine."""
    return run_cost("8s")


def run_cost(duration: str) -> Any:
    result = subprocess.run(
        [*TOOL, "cost", "--duration", duration, "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        return {"failed": result.stderr}
    return json.loads(result.stdout)


def doctor() -> Any:
    result = subprocess.run(
        [*TOOL, "doctor", "--format", "json"], capture_output=True, text=True, check=False
    )
    return json.loads(result.stdout)["checks"]


PARTS: dict[str, Callable[[], Any]] = {
    "capabilities": capabilities,
    "perf_counters": perf_counters,
    "page_faults": page_faults,
    "contexts": contexts,
    "plain": plain,
    "doctor": doctor,
}


# --- a memory cgroup at its limit ------------------------------------------------------


def vmstat(*prefixes: str) -> int:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return sum(int(value) for name, value in lines if name.startswith(prefixes))


def counts_now(box: Path) -> dict[str, int]:
    """The cgroup's own counters, and the kernel's of global reclaim."""
    events = dict(line.split() for line in (box / "memory.events").read_text().splitlines())
    stat = dict(line.split() for line in (box / "memory.stat").read_text().splitlines())
    return {
        "max": int(events["max"]),
        "oom": int(events["oom"]),
        "cgroup_pgsteal": sum(int(v) for name, v in stat.items() if name.startswith("pgsteal")),
        "allocstall": vmstat("allocstall"),
        "pgsteal_direct": vmstat("pgsteal_direct "),
    }


_READER = """
import sys
path = sys.argv[1]
buffer = bytearray(1 << 20)
while True:
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
"""


def limit() -> dict[str, Any]:
    """`cost` while a cgroup reads more than its limit holds and nobody else lacks memory."""
    say("a memory cgroup at its limit")
    (CGROUP / "cgroup.subtree_control").write_text("+memory")
    box = CGROUP / "box"
    box.mkdir()
    (box / "memory.max").write_text(str(LIMIT_BYTES))
    largest = max(
        Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"), key=lambda path: path.stat().st_size
    )
    enter = f"echo $$ > {box}/cgroup.procs; exec {sys.executable} -c '{_READER}' {largest}"
    with subprocess.Popen(["sh", "-c", enter]) as reader:
        try:
            time.sleep(5)
            before = counts_now(box)
            found = run_cost("8s")
            after = counts_now(box)
        finally:
            reader.kill()
    with contextlib.suppress(OSError):
        box.rmdir()
    return {"file_bytes": largest.stat().st_size, "before": before, "after": after, "cost": found}


# --- a ballast -------------------------------------------------------------------------


def zones() -> list[tuple[str, dict[str, int]]]:
    """/proc/zoneinfo word by word: free, min, low, managed and lowmem reserve for GFP_KERNEL."""
    found: list[tuple[str, dict[str, int]]] = []
    for line in Path("/proc/zoneinfo").read_text().splitlines():
        words = line.replace("pages", "").split()
        if words[0] == "Node":
            found.append((words[-1], {}))
        elif words[0] == "protection:":  # of DMA, DMA32, Normal, ...
            found[-1][1]["kept"] = int(words[3].strip("(,)"))
        elif len(words) == 2 and words[0] in ("free", "min", "low", "managed"):
            found[-1][1].setdefault(words[0], int(words[1]))
    return [
        (name, zone)
        for name, zone in found
        if zone.get("managed") and name not in ("Movable", "Device")
    ]


def headroom() -> int:
    return sum(max(0, zone["free"] - zone["min"] - zone["kept"]) for _, zone in zones())


def largest_zone() -> dict[str, int]:
    return max((zone for _, zone in zones()), key=lambda zone: zone["managed"])


def watch(path: str) -> None:
    """Headroom again and again, with its time, into a file, until told; a process of its own."""
    with open(path, "w") as file:  # noqa: PTH123
        while not Path(f"{path}.stop").exists():
            print(f"{time.monotonic():.3f} {headroom()}", file=file, flush=True)
            time.sleep(0.02)


def hold() -> None:
    """Allocate until the largest zone is at its low watermark, then hold."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    memory = mmap.mmap(-1, 1 << 31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    at, ends = 0, time.monotonic() + RAMP_TIMEOUT_SECONDS
    quiet_since = time.monotonic()
    while time.monotonic() < min(ends, quiet_since + HOLD_SECONDS):
        zone = largest_zone()
        above = zone["free"] - zone["low"]
        if above <= 0:
            time.sleep(0.1)
            continue
        # half of the rest, so that the last steps are small
        pages = max(8, min(above // 2, 4096))
        memory[at : at + pages * 4096 : 4096] = b"\1" * pages
        at += pages * 4096
        if pages > 64:
            quiet_since = time.monotonic()
    print(json.dumps({"held_pages": at // 4096, "zone": largest_zone()}))


@contextlib.contextmanager
def watching(path: Path) -> Iterator[None]:
    code = f"from tests.vm.cost_guest import watch; watch({str(path)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as watcher:
        try:
            yield
        finally:
            Path(f"{path}.stop").touch()
            watcher.wait()


def wait_for_first_frame() -> None:
    """`cost` compiles for a minute here before it samples; its file is renamed at the end."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            parts = list(Path("/tmp").glob("dynstack-probe-*/host.dsp*"))
            if any(part.stat().st_size > SNAPSHOT_BYTES for part in parts):
                return
        time.sleep(0.2)


def ballast() -> dict[str, Any]:
    """`cost` while free memory falls to the low watermark, and a watcher beside it."""
    say("a ballast")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched"
        with watching(path):
            tool = subprocess.Popen(
                [*TOOL, "cost", "--duration", f"{COST_SECONDS}s", "--format", "json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            wait_for_first_frame()
            began = time.monotonic()
            code = "from tests.vm.cost_guest import hold; hold()"
            held = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=False
            )
            ended = time.monotonic()
            stdout, stderr = tool.communicate()
        lines = [line.split() for line in path.read_text().splitlines()]
    return {
        "began": began,
        "ended": ended,
        "held": held.stdout or held.stderr,
        "watched": [(float(at), int(pages)) for at, pages in lines],
        "exit_code": tool.returncode,
        "stderr": stderr,
        "cost": json.loads(stdout) if tool.returncode == 0 else None,
    }


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
