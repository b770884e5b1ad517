# SPDX-License-Identifier: GPL-2.0-or-later
"""`record` on this machine, and the commands that read captures."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dynstack_probe.capture import Capture, read_frames
from dynstack_probe.measure.recording import record
from tests import ROOT
from tests.live.machine import estimate_json, forks_so_far, run, sleepers

SECRET = b"secret-project"


def succeed(*arguments: str) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def start_recording(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """A `record` of a series whose first frame is already on disk."""
    recorder = subprocess.Popen(
        [sys.executable, "-m", "dynstack_probe", "record", str(path), *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(part.stat().st_size for part in path.parent.glob("*.part")):
        assert recorder.poll() is None
        time.sleep(0.05)
    return recorder


@pytest.fixture(scope="module")
def forks() -> list[int]:
    """Forks on the whole machine during the series, by the kernel's own count."""
    return []


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory, forks: list[int]) -> Path:
    """Six seconds in which 503 processes are forked and exit."""
    before = forks_so_far()
    path = tmp_path_factory.mktemp("capture") / "series.dsp"
    recorder = start_recording(path, "--duration", "6s", "--interval", "1s")
    for _ in range(503):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    _, errors = recorder.communicate(timeout=60)
    assert recorder.returncode == 0, errors
    forks.append(forks_so_far() - before)
    return path


def test_a_series_counts_what_came_and_went(series: Path, forks: list[int]) -> None:
    frames = list(read_frames(series))
    assert 5 <= len(frames) <= 7
    first, last = frames[0].lifecycle, frames[-1].lifecycle
    assert first is not None
    assert last is not None
    assert 503 <= last.created - first.created <= forks[0]
    assert sum(last.exited.values()) - sum(first.exited.values()) >= 503
    assert {path.name for path in series.parent.iterdir()} == {series.name}


def test_a_short_series_needs_no_interval(tmp_path: Path) -> None:
    path = tmp_path / "short.dsp"
    assert run("record", str(path), "--duration", "2s").returncode == 0
    assert len([*Capture(path)]) >= 2


def test_a_busy_host_gets_its_second_frame() -> None:
    frames = []
    for frame in record(threading.Event(), duration_seconds=0.5, interval_seconds=0.2):
        frames.append(frame)
        time.sleep(1)
    first, second = frames
    assert second.taken_at >= first.taken_at + 1


def test_policies_of_a_series(series: Path) -> None:
    document = json.loads(succeed("policies", str(series), "--format", "json"))
    rows = {row["name"]: row for row in document["policies"]}
    assert document["series"]["seconds"] == pytest.approx(5.5, abs=1)
    assert rows["accessed-bit"]["rate"]["what"] == "refills"
    assert rows["accessed-bit"]["rate"]["events_per_second"] > 0
    # whether /bin/true uses a second page varies: always, never, or in about one run of five
    assert 0 <= rows["rfc-v1"]["rate"]["events_per_second"] < 2000
    assert rows["static-8k"]["rate"] is None


def test_a_capture_says_what_the_host_said(tmp_path: Path) -> None:
    path = tmp_path / "one.dsp"
    with sleepers(997, SECRET):
        succeed("record", str(path))
        live = estimate_json("--by", "comm")
    stored = json.loads(succeed("estimate", str(path), "--by", "comm", "--format", "json"))
    assert stored["host"] == live["host"]
    assert stored["source"] == "one.dsp"

    def sleeping(document: dict[str, list[dict[str, object]]]) -> list[dict[str, object]]:
        return [g for g in document["groups"] if g["name"] == SECRET.decode()]

    assert sleeping(stored)[0]["stacks"] == 997
    assert sleeping(stored)[0]["dynamic_kib"] == sleeping(live)[0]["dynamic_kib"]
    size = path.stat().st_size
    assert size / stored["measured"]["stacks"] <= 40


def test_an_anonymous_capture_names_nobody(tmp_path: Path) -> None:
    plain, shared, again = (tmp_path / name for name in ("plain", "shared", "again"))
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    with sleepers(97, SECRET):
        succeed("record", str(plain))
        succeed("record", str(shared), "--anonymize", "--anonymize-key", str(key))
        succeed("record", str(again), "--anonymize-key", str(key))
    assert SECRET in gzip.decompress(plain.read_bytes())
    text = gzip.decompress(shared.read_bytes())
    assert SECRET not in text
    assert b"kthreadd" not in text
    names = [set([*Capture(path)][-1].stacks.comms) for path in (shared, again)]
    assert len(names[0] & names[1]) > len(names[0]) / 2
    roles = json.loads(succeed("estimate", str(shared), "--depths", "--format", "json"))
    assert "kworker" in {row["role"] for row in roles["depths"]["by_role"]}


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "cut.dsp"
    recorder = start_recording(path, "--duration", "1h", "--interval", "0.2s")
    time.sleep(0.5)
    recorder.send_signal(signal.SIGINT)
    _, errors = recorder.communicate(timeout=20)
    assert recorder.returncode == 0, errors
    assert len([*Capture(path)]) >= 2


def test_what_was_recorded_is_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "kept.dsp"
    path.write_text("precious")
    result = run("record", str(path))
    assert result.returncode == 2
    assert "--force" in result.stderr
    assert path.read_text() == "precious"
    assert run("record", str(path), "--force").returncode == 0
    assert len([*Capture(path)]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kept.dsp"]


def test_killed_it_leaves_a_part_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "killed.dsp"
    recorder = start_recording(path, "--duration", "1h", "--interval", "0.2s")
    time.sleep(0.5)
    recorder.kill()
    recorder.communicate()
    (part,) = tmp_path.glob("*.part")
    strict = run("estimate", str(part))
    assert strict.returncode == 2
    assert "--partial" in strict.stderr
    succeed("estimate", str(part), "--partial")


def test_captures_need_no_privileges(series: Path, tmp_path: Path) -> None:
    """And several make a table with a total."""
    copy = Path("/tmp") / f"dynstack-test-{os.getpid()}.dsp"
    copy.write_bytes(series.read_bytes())
    copy.chmod(0o644)
    try:
        result = subprocess.run(
            [
                *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *(sys.executable, "-m", "dynstack_probe", "estimate", str(copy), str(copy)),
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=60,
            check=False,
        )
    finally:
        copy.unlink()
    assert result.returncode == 0, result.stderr
    assert "Total of 2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["record", "/nonexistent/x"], "no directory /nonexistent"),
        (["record", "x", "--duration", "soon"], "must be a time"),
        (["record", "x", "--duration", "99999d"], "30 days"),
        (["record", "x", "--duration", "3s", "--interval", "5s"], "is longer than --duration 3s"),
        (["record", "x", "--anonymize-key", "/dev/null"], "16 bytes"),
        (["estimate", "/etc/passwd"], "no gzip data"),
        (["estimate", "/nonexistent"], "can't read"),
        (["policies", "/etc/hostname"], "no gzip data"),
        (["policies", "--policy", "nonsense"], "unknown policy"),
        (["policies", "--policy", "/nonexistent.toml"], "can't read"),
        (["policies", "--explain", "nonsense"], "unknown policy"),
    ],
)
def test_mistakes_are_one_line_and_code_2(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
