# SPDX-License-Identifier: GPL-2.0-or-later
"""The command on the real kernel: output, permissions, and what it leaves behind."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.live.machine import bpf_objects, estimate_json, run, sleepers, wait_until_gone

SYSTEM_PYTHON = "/usr/bin/python3"


def test_the_table_is_plain_and_fits() -> None:
    result = run("estimate", "--by", "comm")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "This host" in result.stdout
    assert "AMD Genoa (quoted)" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_json_adds_up() -> None:
    document = estimate_json("--policy", "rfc-v1", "--policy", "static-8k", "--by", "cgroup")
    host, measured = document["host"], document["measured"]
    assert measured["stacks"] * host["thread_size_bytes"] == measured["base_kib"] * 1024
    assert sum(measured["tasks_by_pages"].values()) == measured["stacks"]
    assert measured["kthreads"] + measured["user_threads"] == measured["stacks"]
    pages = sum(int(n) * count for n, count in measured["tasks_by_pages"].items())
    rfc, static = document["policies"]
    assert rfc["dynamic_kib"] == pages * 4
    assert rfc["saving_ratio"] == 1 - rfc["dynamic_kib"] / measured["base_kib"]
    assert rfc["reserve_kib"] == host["cpus"] * (host["thread_size_bytes"] // 4096 - 1) * 4
    assert static["dynamic_kib"] == measured["stacks"] * 8
    assert sum(group["stacks"] for group in document["groups"]) == measured["stacks"]
    assert sum(group["dynamic_kib"] for group in document["groups"]) == rfc["dynamic_kib"]
    assert host["kernel_release"] == os.uname().release


def test_a_hostile_task_name_is_escaped() -> None:
    name = b"\x1b[31m\n\"'\xff=<&"
    with sleepers(3, name):
        for form in ("table", "json", "csv"):
            result = run("estimate", "--by", "comm", "--format", form)
            assert "\x1b" not in result.stdout
            names = result.stdout.replace("\\\\", "\\").replace('\\"', '"').replace('""', '"')
            assert "\\x1b[31m\\n\"'\\xff=<&" in names, form


def test_a_cgroup_is_named_by_its_path() -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(m[1]) for m in mounts if m[2] == "cgroup2"), None)
    if mount is None:
        pytest.skip("no cgroup2 file system is mounted")
    group = mount / "dynstack-probe-test.slice"
    group.mkdir()
    try:
        with sleepers(7, b"in-a-cgroup") as pid:
            (group / "cgroup.procs").write_text(str(pid))
            groups = {g["name"]: g["stacks"] for g in estimate_json("--by", "cgroup")["groups"]}
        assert groups["/dynstack-probe-test.slice"] == 8
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # its last task is still exiting
                time.sleep(0.05)


def test_output_file(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert run("estimate", "--format", "json", "--output", str(path)).returncode == 0
    assert json.loads(path.read_text())["schema_version"] == 1
    assert run("estimate", "--output", str(path)).returncode == 2
    assert run("estimate", "--format", "csv", "-o", str(path), "--force").returncode == 0
    assert path.read_text().startswith("cpu_model,")


def test_verbose_tells_what_each_step_took() -> None:
    result = run("estimate", "-v")
    assert "compile" in result.stderr
    assert "scan" in result.stderr


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_no_btf(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "btf"
    if content is not None:
        path.write_bytes(content)
    result = run("estimate", "--btf", str(path))
    # a missing file is a usage error; one without BTF can't be a kernel's
    assert result.returncode == (2 if content is None else 3)
    assert result.stderr.startswith("dynstack-probe: ")
    assert result.stderr.count("\n") == 1
    result = run("doctor", "--btf", str(path))
    if content is None:
        assert result.returncode == 2
        return
    assert result.returncode == 3
    assert "missing kernel and BTF" in " ".join(result.stdout.split())


RUBBISH = f'exec {SYSTEM_PYTHON} -c \'import os, sys; os.write(int(sys.argv[3]), b"?")\' "$@"'


@pytest.mark.parametrize(
    ("script", "code", "about"),
    [
        ("exit 7", 1, "exited with code 7"),
        ("exec sleep 60", 1, "did not answer within 2 s"),
        (RUBBISH, 1, "sent a malformed answer"),
        ("exec /nonexistent", 1, "exited with code 127"),
    ],
)  # fmt: skip
def test_a_bad_child(tmp_path: Path, script: str, code: int, about: str) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script} 2>/dev/null\n")
    fake.chmod(0o755)
    result = run("estimate", DYNSTACK_PROBE_PYTHON=str(fake), DYNSTACK_PROBE_TIMEOUT="2")
    assert (result.returncode, result.stdout) == (code, "")
    assert about in result.stderr
    assert result.stderr.count("\n") == 1


def test_doctor_is_well_here() -> None:
    result = run("doctor", "--format", "json")
    document = json.loads(result.stdout)
    assert result.returncode == document["exit_code"] == 0
    checks = {check["name"]: check for check in document["checks"]}
    assert {
        "architecture",
        "kernel and BTF",
        "VMAP_STACK",
        "KSTACK_ERASE",
        "RANDOMIZE_KSTACK_OFFSET",
        "lockdown",
        "CAP_BPF",
        "CAP_PERFMON",
        "bcc",
        "PID namespace",
        "DEBUG_STACK_USAGE",
        "dynamic stacks",
        "THREAD_SIZE",
        "estimate",
        "record, report, top",
        "cost",
        "serve",
        "faults",
        "faults --flamegraph",
    } == set(checks)
    assert set(document["commands"].values()) == {0}
    assert checks["THREAD_SIZE"]["found"].startswith(("16384 bytes", "32768 bytes"))
    assert "missing" not in {check["status"] for check in checks.values()}


# As root without capabilities, so that files stay readable wherever this checkout lies.
CAPABILITIES = {
    "none": ("", ["CAP_BPF", "CAP_PERFMON"]),
    "bpf": ("+bpf", ["CAP_PERFMON"]),
    "perfmon": ("+perfmon", ["CAP_BPF"]),
    "both": ("+bpf,+perfmon", []),
}


@pytest.mark.parametrize("held", CAPABILITIES)
def test_capabilities(held: str) -> None:
    keep, missing = CAPABILITIES[held]
    command = ["setpriv", f"--bounding-set=-all{',' + keep if keep else ''}", "--inh-caps=-all"]
    tool = [sys.executable, "-m", "dynstack_probe"]
    results = [
        subprocess.run(
            [*command, *tool, name], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for name in ("estimate", "doctor")
    ]
    expected = 4 if missing else 0
    assert [result.returncode for result in results] == [expected, expected], results
    for name in missing:
        assert name in results[0].stderr
    if missing:
        assert results[0].stderr.count("\n") == 1
        for name in ("CAP_BPF", "CAP_PERFMON"):
            line = next(x for x in results[1].stdout.splitlines() if f" {name} " in x)
            assert line.startswith("missing") == (name in missing)


@pytest.fixture
def world_readable_copy() -> Iterator[Path]:
    """A copy of the tool that any user may read, whoever owns this checkout."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        for name in ("dynstack_probe", "probes"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        yield Path(folder)


def test_unprivileged_user(world_readable_copy: Path) -> None:
    """With Debian's own packages, the oldest versions that we support."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    tool = [SYSTEM_PYTHON, "-m", "dynstack_probe", "estimate"]
    denied = subprocess.run(
        [*command, *tool], cwd=world_readable_copy, capture_output=True, text=True, check=False
    )
    assert denied.returncode == 4
    assert "CAP_BPF and CAP_PERFMON missing" in denied.stderr
    caps = ["--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon"]
    granted = subprocess.run(
        [*command, *caps, *tool],
        cwd=world_readable_copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert granted.returncode == 0, granted.stderr
    assert "/proc/vmstat was not refreshed" in " ".join(granted.stdout.split())


def test_debians_own_packages() -> None:
    versions = "import typer, importlib.metadata as m;print(m.version('typer'), m.version('rich'))"
    subprocess.run([SYSTEM_PYTHON, "-c", versions], check=True)
    for arguments in (["--help"], ["estimate", "--format", "json"], ["doctor"], ["estimate"]):
        result = subprocess.run(
            [SYSTEM_PYTHON, "-m", "dynstack_probe", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_a_header_planted_in_the_current_folder_is_not_read(tmp_path: Path) -> None:
    for name in ("task.h", "records.h", "high_water.h"):
        (tmp_path / name).write_text('#error "planted"\n')
    result = subprocess.run(
        [sys.executable, "-m", "dynstack_probe", "estimate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_nothing_stays_behind() -> None:
    before = bpf_objects()
    assert run("estimate").returncode == 0
    assert wait_until_gone(before) == set()


def test_kill_9_at_any_moment_leaves_nothing_behind() -> None:
    started = time.monotonic()
    run("estimate")
    whole = time.monotonic() - started
    before = bpf_objects()
    seen_loaded = 0
    for n in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "dynstack_probe", "estimate"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(whole * (n + random.random()) / 20)
        seen_loaded += bool(bpf_objects() - before)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_until_gone(before) == set(), n
    assert seen_loaded, "no moment had our programs in the kernel: this test has shown nothing"


def test_without_a_cgroup_mount_the_note_says_why_groups_have_numbers() -> None:
    umount = "umount --lazy --recursive /sys/fs/cgroup; exec"
    command = f"{umount} {sys.executable} -m dynstack_probe estimate --by cgroup"
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "no cgroup file system is mounted here" in " ".join(result.stdout.split())
    groups = result.stdout.partition("By cgroup")[2]
    assert re.search(r"(?m)^/ ", groups)
    assert "cgroup:1 " not in groups
