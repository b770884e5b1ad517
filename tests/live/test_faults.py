# SPDX-License-Identifier: GPL-2.0-or-later
"""`faults` against tasks whose calls are known, and against two scans around it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import Loader
from dynstack_probe.measure.faults import Context, FaultWatch, StackFault, load_faults
from dynstack_probe.measure.stack_scan import take_frame
from tests import ROOT
from tests.live.machine import bpf_objects, run, wait_until_gone
from tests.live.variants import OtherLoader

SOURCE = Path(__file__).with_name("known_calls.c")
CROSSINGS = 1009
# An mmap amid many mappings crosses in about one of five tasks, since each call starts at a
# random stack offset; the others hardly ever do, and then nothing may be reported.
TASKS = {
    "mmap": 4700,
    "futex": 211,
    "newfstatat": 211,
    "sendmsg": 211,
    "ioctl": 211,
    "poll": 211,
    "execve": 211,
}
IA32_TASKS = 400


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """known_calls, and what its execve tasks become."""
    folder = tmp_path_factory.mktemp("known-calls")
    calls, parked = folder / "known_calls", folder / "parked"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", calls, SOURCE], check=True)
    subprocess.run(
        ["gcc", "-O1", "-static", "-nostdlib", "-DPARKED", "-o", parked, SOURCE], check=True
    )
    return calls, parked


class KnownCalls:
    """The running program; `call_of` maps each of its tids to the call that it makes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.call_of: dict[int, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                return
            tid, call = line.split()
            self.call_of[int(tid)] = call
        raise AssertionError("known_calls died")

    def make_them(self) -> None:
        """Make all calls concurrently; returns when they are done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextlib.contextmanager
def known_calls(programs: tuple[Path, Path], tasks: dict[str, int]) -> Iterator[KnownCalls]:
    folder = programs[0].parent / "deep"
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [programs[0], folder, programs[1], *(f"{call}={n}" for call, n in tasks.items())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield KnownCalls(process)
    finally:
        process.communicate()


def marks_in_pages(tids: set[int]) -> dict[int, int]:
    stacks = take_frame().stacks
    marks = zip(stacks.tids, stacks.mark_pages(), strict=True)
    return {tid: pages for tid, pages in marks if tid in tids}


class Watched(NamedTuple):
    """What `faults` and two scans reported of the known tasks."""

    call_of: dict[int, str]
    before: dict[int, int]
    after: dict[int, int]
    faults: list[StackFault]


@pytest.fixture(scope="module")
def watched(programs: tuple[Path, Path]) -> Watched:
    tasks = dict(TASKS)
    if Features().built_with("IA32_EMULATION"):
        tasks["ia32:192"] = IA32_TASKS
    with known_calls(programs, tasks) as calls:
        tids = set(calls.call_of)
        with Loader() as loader, load_faults(loader) as probe, FaultWatch(probe) as watch:
            before = marks_in_pages(tids)
            watch.begin()
            calls.make_them()
            watch.scan_all_tasks()
            faults = [fault for fault in watch.read() if fault.tid in tids]
            after = marks_in_pages(tids)
            assert watch.counters().lost == 0
            assert watch.counters().untracked == 0
    return Watched(calls.call_of, before, after, faults)


def test_1009_crossings_are_told_with_the_right_call(watched: Watched) -> None:
    assert len(watched.faults) >= CROSSINGS
    wrong = Counter(
        (watched.call_of[fault.tid], fault.call, fault.late)
        for fault in watched.faults
        if fault.call != watched.call_of[fault.tid]
    )
    assert wrong.total() <= len(watched.faults) / 100, wrong
    exact = sum(1 for fault in watched.faults if not fault.late)
    assert exact >= 0.99 * len(watched.faults)
    told = {fault.call for fault in watched.faults}
    assert {"mmap", "sendmsg"} <= told


def test_the_total_is_the_growth_that_two_scans_show(watched: Watched) -> None:
    assert set(watched.before) == set(watched.after) == set(watched.call_of)
    grown = {
        tid: pages - watched.before[tid]
        for tid, pages in watched.after.items()
        if pages != watched.before[tid]
    }
    told: Counter[int] = Counter()
    for fault in watched.faults:
        told[fault.tid] += fault.pages
    assert dict(told) == grown


def test_32_bit_calls_are_told_as_such(watched: Watched) -> None:
    if not Features().built_with("IA32_EMULATION"):
        pytest.skip("this kernel has no 32-bit system calls, or does not tell")
    assert [fault for fault in watched.faults if fault.call == "ia32:192"]


def test_each_crossing_says_who_and_how_deep(watched: Watched) -> None:
    for fault in watched.faults:
        assert fault.comm in (b"known_calls", b"parked")
        assert fault.pages_before * 4096 < fault.mark_bytes <= 16384
        assert 1 <= fault.faults <= fault.pages
        assert 0 < fault.age_seconds < 600
        assert fault.context is Context.SYSCALL
        assert fault.cgroup_id > 0


def test_the_window_shows_what_a_look_at_the_whole_page_shows() -> None:
    """Compiled with CHECK_WINDOW it reads the whole page at each system call's exit."""
    script = "for i in $(seq 150); do ls -lR /etc/apt /proc/self >/dev/null; done 2>/dev/null"
    with (
        OtherLoader({"CHECK_WINDOW": 1}) as loader,
        load_faults(loader) as probe,
        FaultWatch(probe) as watch,
    ):
        watch.begin()
        subprocess.run(["/bin/sh", "-c", script], check=False)
        watch.scan_all_tasks()
        faults = watch.read()
    assert len(faults) >= 50
    hidden = [fault for fault in faults if fault.hidden or fault.late]
    assert len(hidden) <= len(faults) / 100, hidden


def test_stacks_that_share_a_slot_are_told_apart(programs: tuple[Path, Path]) -> None:
    """With one slot per eight stacks most are in the hash."""
    with known_calls(programs, {"mmap": 800}) as calls:
        tids = set(calls.call_of)
        before = marks_in_pages(tids)
        with (
            OtherLoader({"SLOTS": 128, "MAX_COLLIDED": 1 << 16}) as loader,
            load_faults(loader) as probe,
            FaultWatch(probe) as watch,
        ):
            watch.begin()
            calls.make_them()
            watch.scan_all_tasks()
            told = sum(fault.pages for fault in watch.read() if fault.tid in tids)
        after = marks_in_pages(tids)
    assert told == sum(after.values()) - sum(before.values()) > 50


def test_the_command_in_all_forms(tmp_path: Path) -> None:
    before = bpf_objects()
    with subprocess.Popen(["/bin/sh", "-c", "while :; do ls /; done >/dev/null"]) as busy:
        try:
            table = run("faults", "--duration", "2")
            as_json = run("faults", "--duration", "1.5", "--format", "json")
            path = tmp_path / "faults.csv"
            as_csv = run("faults", "-d", "1.5", "--format", "csv", "--output", str(path))
        finally:
            busy.kill()
    assert (table.returncode, as_json.returncode, as_csv.returncode) == (0, 0, 0), table.stderr
    assert max(map(len, table.stdout.splitlines())) <= 80
    for words in ("System call", "mmap", "Exactness", "ns a system call"):
        assert words in table.stdout
    document = json.loads(as_json.stdout)
    assert document["found"]["crossings"] == len(document["crossings"]) > 0
    assert document["found"]["pages"] == sum(call["pages"] for call in document["calls"])
    assert {crossing["comm"] for crossing in document["crossings"]} & {"ls", "sh"}
    assert document["cost"]["syscalls"] > 100
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["found"] for row in rows} <= {"exact", "by scan"}
    assert run("faults", "-d", "1", "-o", str(path)).returncode == 2
    assert run("faults", "--duration", "0").returncode == 2
    assert wait_until_gone(before) == set()


def test_crossings_are_the_faults_and_what_reuse_avoids() -> None:
    """Two probes, one count: a crossing is no fault if its page came with a reused stack."""
    with subprocess.Popen(["/bin/sh", "-c", "while :; do ls /; done >/dev/null"]) as busy:
        try:
            said = json.loads(run("faults", "--duration", "4", "--format", "json").stdout)
        finally:
            busy.kill()
    found, modelled = said["found"]["pages"], said["rfc_v1"]
    # each starts and stops within some ms of the other
    assert abs(found - modelled["crossed_pages"]) <= 3 + 0.05 * found
    assert found > 20
    assert modelled["fault_pages"] < 0.8 * found


def test_call_paths_are_named_and_drawn(tmp_path: Path) -> None:
    folded, picture, page = tmp_path / "p.folded", tmp_path / "p.svg", tmp_path / "p.html"
    options = ("--rate", "999", "--deeper-than", "1024")
    with subprocess.Popen(["/bin/sh", "-c", "while :; do ls -l /; done >/dev/null"]) as busy:
        try:
            result = run(
                "faults", "-d", "3", *options, "--folded", str(folded), "--flamegraph", str(picture)
            )
            as_page = run("faults", "-d", "1", *options, "--flamegraph", str(page), "--format=json")
        finally:
            busy.kill()
    assert result.returncode == 0, result.stderr
    assert "Deepest sample" in result.stdout
    lines = folded.read_text().splitlines()
    assert len(lines) > 10
    (end,) = re.findall(r"(?m)^(\w+) \w _etext$", Path("/proc/kallsyms").read_text())
    text_end = int(end, 16)
    for line in lines:
        comm, call, *functions = line.rpartition(" ")[0].split(";")
        assert comm
        assert call
        assert functions
        # code that BPF generates for other tracers has no symbol in kallsyms
        unnamed = [int(name, 16) for name in functions if name.startswith("0x")]
        assert all(address >= text_end for address in unnamed), line
    assert any("do_syscall_64" in line for line in lines)
    drawn = "".join(ElementTree.parse(picture).getroot().itertext())
    (in_title,) = re.findall(r"on .*: (\d+) of", " ".join(drawn.split()))
    assert f"all: {in_title} samples (100.0%)" in drawn
    ((deep, lost),) = re.findall(
        r"(\d+) deep enough, on \d+ paths; (\d+) lost", " ".join(result.stdout.split())
    )
    assert int(deep) - int(lost) == int(in_title)
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == int(in_title)
    assert page.read_text().startswith("<!doctype html>")
    for path in json.loads(as_page.stdout)["paths"]:
        depths = [f["depth_bytes"] for f in path["frames"] if f["depth_bytes"] is not None]
        assert depths == sorted(depths)
        assert depths[-1] == path["deepest_bytes"] > 1024
    assert run("faults", "-d", "1", "--folded", str(folded)).returncode == 2
    assert run("faults", "-d", "1", "--flamegraph", str(tmp_path / "p.png")).returncode == 2


def test_hidden_symbols_are_said_to_be_so(tmp_path: Path) -> None:
    result = subprocess.run(
        ["setpriv", "--bounding-set=-all,+bpf,+perfmon,+dac_override", "--inh-caps=-all",
         sys.executable, "-m", "dynstack_probe", "faults", "-d", "1",
         "--folded", str(tmp_path / "p")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 4
    assert "CAP_SYSLOG" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dynstack_probe", "faults"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "until Ctrl-C" in process.stderr.readline()
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert int(status.partition("CapEff:")[2].split()[0], 16) == 0
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "ns a system call" in output


def test_missing_capabilities() -> None:
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    tool = [sys.executable, "-m", "dynstack_probe", "faults", "-d", "1"]
    result = subprocess.run(
        [*command, *tool], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
    assert result.returncode == 4
    assert "CAP_BPF and CAP_PERFMON" in result.stderr
