# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside the virtual machine: known loads on its kernel, and what the tool says of them.

Only notes: what is right is decided by test_kernels.py, on the host. Runs as root under
/usr/bin/python3 from the checkout, needs nothing but the standard library, and prints one
JSON document. Where it is comes on stderr, which is the serial console.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dynstack_probe.capture import CaptureWriter
from dynstack_probe.kernel.btf import Btf
from dynstack_probe.kernel.offsets import cgroup_name_macros
from dynstack_probe.loader import Loader
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.measure.stack_scan import take_frame
from tests.live.machine import bpf_objects, fork_many, sleepers, visible_threads

SLEEPERS = 97
SLEEPERS_NAME = "vm-sleeper"
FORKS = 503
# So many and so close together that one exit may preempt another.
MANY_FORKS = 10_007
TOOL = [sys.executable, "-m", "dynstack_probe"]
PORT = 10016
CONFIG = Path("/tmp/serve.toml")
# Far more than a run takes, even emulated on a busy machine.
TOOL_TIMEOUT_SECONDS = 600
CALM_SECONDS = 3.0
CALM_ATTEMPTS = 40


def say(what: str) -> None:
    print(f"guest: {what}", file=sys.stderr, flush=True)


def run_tool(*arguments: str, through: tuple[str, ...] = ()) -> dict[str, Any]:
    say(" ".join(("dynstack-probe", *arguments)))
    started = time.monotonic()
    try:
        result = subprocess.run(
            [*through, *TOOL, *arguments],
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        why = f"did not end within {error.timeout:g} s"
        return {"exit_code": -1, "stdout": "", "stderr": why, "seconds": error.timeout}
    return {
        "exit_code": result.returncode,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "seconds": time.monotonic() - started,
    }


def estimate() -> dict[str, Any]:
    """`estimate` while known threads sleep, and how many tasks there were around it."""
    with sleepers(SLEEPERS, SLEEPERS_NAME.encode()):
        before = len(visible_threads())
        result = run_tool("estimate", "--format", "json", "--by", "comm")
        after = len(visible_threads())
    return {"run": result, "tasks_before": before, "tasks_after": after}


def capture() -> dict[str, Any]:
    """Two frames while some tasks sleep and others read files: the capture, in base64.

    tests/data holds what this gave for each kernel: python -m tests.data.golden KERNEL
    """
    say("a capture")
    with (
        sleepers(SLEEPERS, SLEEPERS_NAME.encode()),
        file_load(),
        tempfile.TemporaryDirectory() as folder,
    ):
        path = Path(folder) / "capture"
        with CaptureWriter(path) as writer:
            for _ in range(2):
                time.sleep(3)
                writer.add(take_frame(with_cgroup_paths=True))
        return {"base64": base64.b64encode(path.read_bytes()).decode("ascii")}


def doctor() -> dict[str, Any]:
    return run_tool("doctor", "--format", "json")


def policies() -> dict[str, Any]:
    return run_tool("policies", "--format", "json")


def user() -> dict[str, Any]:
    """Nobody, with the two capabilities that README asks for."""
    caps = "+bpf,+perfmon"
    ids = ("--reuid=65534", "--regid=65534", "--clear-groups")
    nobody = ("setpriv", *ids, f"--inh-caps={caps}", f"--ambient-caps={caps}")
    with file_load():
        return {
            "perf_event_paranoid": text_of("/proc/sys/kernel/perf_event_paranoid"),
            "doctor": run_tool("doctor", "--format", "json", through=nobody),
            "estimate": {"run": run_tool("estimate", "--format", "json", through=nobody)},
            "policies": run_tool("policies", "--format", "json", through=nobody),
            "faults": run_tool("faults", "--duration", "10s", "--format", "json", through=nobody),
            "record": run_tool("record", "/tmp/of-nobody.dsp", through=nobody),
        }


def top() -> dict[str, Any]:
    return run_tool("top", "--once", "--interval", "1s")


@contextlib.contextmanager
def file_load() -> Iterator[None]:
    """Page faults and reads through the shared root, its page cache and virtio; new programs.

    With pauses: an emulated CPU is slow.
    """
    load = "while :; do ls -R /usr/lib/python3/dist-packages | wc -c; sleep 0.2; done > /dev/null"
    with subprocess.Popen(["sh", "-c", load], start_new_session=True) as reader:
        try:
            yield
        finally:
            os.killpg(reader.pid, signal.SIGKILL)


def record() -> dict[str, Any]:
    """A series, to be read on the host."""
    with tempfile.TemporaryDirectory() as folder, file_load():
        path = Path(folder) / "series.dsp"
        result = run_tool("record", str(path), "--duration", "6s", "--interval", "2s")
        data = path.read_bytes() if path.exists() else b""
    return {**result, "base64": base64.b64encode(data).decode("ascii")}


def faults() -> dict[str, Any]:
    with file_load():
        return run_tool("faults", "--duration", "10s", "--format", "json")


def marks() -> dict[str, Any]:
    """Each high-water mark beside /proc/kcore's, of tasks that did not run in between."""
    core = Path("/proc/kcore")
    if not core.exists():
        return {"compared": None}
    say("marks beside /proc/kcore")
    first, stacks = take_frame().stacks, None
    with core.open("rb") as file:
        segments = _segments(file)
        size = take_frame().host.thread_size_bytes
        told = {}
        for tid, tgid, address, mark, switches in zip(
            first.tids, first.tgids, first.addresses, first.mark_bytes, first.switches, strict=True
        ):
            data = _read(file, segments, address, size)
            if data is not None:
                told[tid, tgid, address] = (mark, _mark(data), switches)
    stacks = take_frame().stacks
    after = dict(
        zip(
            zip(stacks.tids, stacks.tgids, stacks.addresses, strict=True),
            zip(stacks.mark_bytes, stacks.switches, strict=True),
            strict=True,
        )
    )
    still = {key: one for key, one in told.items() if after.get(key) == (one[0], one[2])}
    different = [(*key[:2], *one) for key, one in still.items() if one[0] != one[1]]
    return {"compared": len(still), "different": different[:20], "read": len(told)}


def _segments(core: BinaryIO) -> list[tuple[int, int, int]]:
    """Virtual address, offset and size of each piece of memory (elf(5), Elf64_Phdr)."""
    header = core.read(64)
    start, size, count = (
        *struct.unpack_from("=Q", header, 32),
        *struct.unpack_from("=HH", header, 54),
    )
    core.seek(start)
    rows = [struct.unpack("=IIQQQQQQ", core.read(size)[:56]) for _ in range(count)]
    return [(row[3], row[2], row[5]) for row in rows if row[0] == 1]


def _read(
    core: BinaryIO, segments: list[tuple[int, int, int]], address: int, size: int
) -> bytes | None:
    for base, offset, length in segments:
        if base <= address and address + size <= base + length:
            try:
                core.seek(offset + address - base)
                return core.read(size)
            except OSError:
                return None
    return None


def _mark(stack: bytes) -> int:
    """Bytes from the top down to the lowest word that is not zero; the magic is skipped."""
    words = struct.unpack(f"={len(stack) // 8}Q", stack)
    lowest = next((at for at, word in enumerate(words) if at and word), len(words) - 1)
    return len(stack) - 8 * lowest


def killed() -> dict[str, Any]:
    """What is left in the kernel after SIGKILL of the daemon."""
    before = bpf_objects()
    with daemon() as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        loaded = len(bpf_objects() - before)
    time.sleep(1)
    return {"said": said, "loaded": loaded, "left": sorted(bpf_objects() - before)}


def hotplug() -> dict[str, Any]:
    """CPU hotplug under the daemon."""
    switch = Path("/sys/devices/system/cpu/cpu1/online")
    if not switch.exists():
        return {"tried": False}
    with daemon() as process:
        assert process.stderr is not None
        facts: dict[str, Any] = {"tried": True, "said": process.stderr.readline(), "scrapes": []}
        if "serving http" not in facts["said"]:
            return facts
        for state in ("0", "1"):
            switch.write_text(state)
            fork_and_reap(50)
            time.sleep(3)
            facts["scrapes"].append(scrape())
        facts["alive"] = process.poll() is None
    return facts


def dmesg() -> dict[str, Any]:
    """Warnings and errors in the kernel's log."""
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout
    # a stall is what RCU calls an emulated CPU that is slow
    trouble = re.compile(r"WARNING|BUG:|Oops|general protection|stack guard page")
    return {"lines": [line for line in log.splitlines() if trouble.search(line)][:20]}


def processes_created() -> int:
    """Tasks ever created on this machine: the kernel's own count."""
    found = re.search(r"^processes (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def scrape() -> dict[str, float]:
    """Each metric of the daemon with its labels, and summed over them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=60) as answer:
        page: str = answer.read().decode()
    sums: dict[str, float] = {}
    for line in page.splitlines():
        sample = re.match(r"([a-z_]+)(\{.*\})? (\S+)", line)
        if sample:
            sums[sample[1]] = sums.get(sample[1], 0) + float(sample[3])
            if sample[2]:
                sums[sample[1] + sample[2]] = float(sample[3])
    return sums


def calm_scrape() -> dict[str, Any]:
    """The metrics of a scan during which no task came or went, with the kernel's counts.

    Only then are the counts of both exactly comparable.
    """
    for _ in range(CALM_ATTEMPTS):
        tasks, created, began = visible_threads(), processes_created(), time.time()
        time.sleep(CALM_SECONDS)
        calm = (tasks, created) == (visible_threads(), processes_created())
        ended = time.time()
        # the daemon starts a thread to answer: ask it last
        metrics = scrape()
        scan_ended = metrics["dynstack_scan_timestamp_seconds"]
        scan_began = scan_ended - metrics["dynstack_scan_duration_seconds"]
        if calm and began < scan_began and scan_ended < ended:
            return {"tasks": len(tasks), "created": created, "metrics": metrics}
    raise SystemExit(f"guest: never were {CALM_SECONDS:g} s without a task that came or went")


def fork_and_reap(count: int) -> None:
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def forks() -> dict[str, Any]:
    """Created and exited tasks as the daemon's program counts them around many forks.

    Exits also some time later: what is late differs from what is lost. Programs that the
    kernel left out, as they ran already on that CPU, are in its own recursion_misses.
    """
    say(f"{MANY_FORKS} forks")
    with Loader() as loader, load_lifecycle(loader) as probe, Sampler(probe) as sampler:

        def count() -> dict[str, int]:
            seen, kernel = sampler.lifecycle(), processes_created()
            exited, unread = sum(seen.exited.values()), seen.lost["exit_unread"]
            return {
                "created": seen.created,
                "exited": exited,
                "unread": unread,
                "kernel": kernel,
            }

        before = count()
        started = time.monotonic()
        fork_many(MANY_FORKS)
        seconds = time.monotonic() - started
        after = {}
        for pause in (0, 0.2, 5):
            time.sleep(pause)
            after[str(pause)] = count()
        listed = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, check=True)
        misses = {
            one.get("name", ""): one.get("recursion_misses", 0)
            for one in json.loads(listed.stdout)
            if one["type"] == "raw_tracepoint"
        }
    return {"before": before, "after": after, "seconds": seconds, "recursion_misses": misses}


@contextlib.contextmanager
def daemon() -> Iterator[subprocess.Popen[str]]:
    CONFIG.write_text("interval_seconds = 1\n")
    process = subprocess.Popen(
        [*TOOL, "serve", "--listen", f"127.0.0.1:{PORT}", "--config", str(CONFIG)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def serve() -> dict[str, Any]:
    """The daemon's counters around known forks, its capabilities, and how it ends."""
    say("dynstack-probe serve")
    started = time.monotonic()
    with daemon() as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        facts: dict[str, Any] = {"said": first_line, "start_seconds": time.monotonic() - started}
        if "serving http" not in first_line:
            facts["said"] += process.stderr.read()
            return facts
        say("waiting for a calm scrape")
        facts["before"] = calm_scrape()
        say(f"{FORKS} forks, then another one")
        fork_and_reap(FORKS)
        facts["after"] = calm_scrape()
        facts["effective_capabilities"] = [
            re.findall(r"^CapEff:\s*(\w+)", status.read_text(), re.MULTILINE)[0]
            for status in Path(f"/proc/{process.pid}/task").glob("*/status")
        ]
        with Btf() as btf:
            facts["names_cgroups"] = bool(cgroup_name_macros(btf))
        say("SIGTERM")
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        facts["exit_code"] = process.returncode
    facts["seconds"] = time.monotonic() - started
    return facts


def truth() -> dict[str, Any]:
    """What a kernel with CONFIG_DEBUG_STACK_USAGE says itself."""
    from tests.vm import truth_guest  # it is made of this file

    return truth_guest.truth()


def cost() -> dict[str, Any]:
    """What `cost` needs of this kernel."""
    from tests.vm import cost_guest

    return cost_guest.cost()


def scarce() -> dict[str, Any]:
    """`cost` under memory pressure."""
    from tests.vm import cost_guest

    return cost_guest.scarce()


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "estimate": estimate,
    "doctor": doctor,
    "user": user,
    "policies": policies,
    "record": record,
    "top": top,
    "faults": faults,
    "marks": marks,
    "capture": capture,
    "serve": serve,
    "forks": forks,
    "hotplug": hotplug,
    "killed": killed,
    "dmesg": dmesg,
    "truth": truth,
    "cost": cost,
    "scarce": scarce,
}


def possible_cpus() -> int:
    """CPUs that this kernel made an idle task for, plugged in or not: from a list as 0-3,5."""
    total = 0
    for part in Path("/sys/devices/system/cpu/possible").read_text().strip().split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def text_of(path: str) -> str | None:
    """A file of the kernel's; None if it can't be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def mounted() -> dict[str, tuple[str, str]]:
    """Where, what and how, from fstab(5)'s fields."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return {where: (kind, how) for _, where, kind, how, *_ in lines}


def way() -> dict[str, Any]:
    """How this kernel runs: whether it is what the case says."""
    mounts = mounted()
    return {
        "command_line": text_of("/proc/cmdline"),
        "bpf_jit_enable": text_of("/proc/sys/net/core/bpf_jit_enable"),
        "lockdown": text_of("/sys/kernel/security/lockdown"),
        "nohz_full": text_of("/sys/devices/system/cpu/nohz_full"),
        "proc": mounts["/proc"][1],
        "cgroup": mounts["/sys/fs/cgroup"][0],
        "kinds": sorted({kind for kind, _ in mounts.values()}),
    }


def main(parts: list[str]) -> None:
    facts: dict[str, Any] = {
        "kernel_release": os.uname().release,
        "possible_cpus": possible_cpus(),
        "online_cpus": os.cpu_count(),
        "way": way(),
    }
    for part in parts:
        facts[part] = PARTS[part]()
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
