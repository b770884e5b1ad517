# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTRIBUTING's policy and probe, typed into a copy of the package."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.conftest import why_no_bpf
from tests.documents.blocks import blocks
from tests.documents.typed import SERIES

PRIME = 499
CODE = [b for b in blocks(ROOT / "CONTRIBUTING.md") if b.language in ("c", "python")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("dynstack_probe", "probes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / ".clang-format", tmp_path)
    return tmp_path


def typed(file: Path, text: str) -> None:
    """Written as it stands, and as our style wants it."""
    file.write_text(text)
    if file.suffix == ".py":
        config = ("--config", str(ROOT / "pyproject.toml"), str(file))
        commands = [["ruff", "check", *config], ["ruff", "format", "--check", *config]]
    else:
        commands = [["clang-format", "--dry-run", "-Werror", str(file)]]
    for command in commands:
        tool = Path(sys.executable).with_name(command[0])
        subprocess.run([tool, *command[1:]], check=True)


def said_by(copy: Path, *arguments: str | Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, capture_output=True, text=True, check=True
    ).stdout


def test_the_policy_as_typed(copy: Path) -> None:
    policy, *_ = CODE
    typed(copy / "dynstack_probe/policy/quarter.py", f"{policy.text}\n")
    said = said_by(copy, "-m", "dynstack_probe", "policies", SERIES, "--policy", "quarter")
    assert "\nquarter " in said


@pytest.mark.live
@pytest.mark.skipif(bool(why_no_bpf()), reason=f"needs BPF: {why_no_bpf()}")
def test_the_probe_as_typed(copy: Path) -> None:
    _, program, record, reader = CODE
    typed(copy / "probes/task_switches.c", f"{program.text}\n")
    header = copy / "probes/records.h"
    before, end, after = header.read_text().rpartition("#endif")
    typed(header, f"{before}{record.text}\n\n{end}{after}")
    typed(copy / "dynstack_probe/measure/task_switches.py", f"{reader.text}\n")
    code = "from dynstack_probe.measure.task_switches import *; print(task_switches())"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        assert cat.stdout
        for _ in range(PRIME):
            cat.stdin.write(b"x")
            cat.stdin.flush()
            cat.stdout.read(1)
        found = ast.literal_eval(said_by(copy, "-c", code))
        status = Path(f"/proc/{cat.pid}/status").read_text()
        cat.kill()
    counts = re.findall(r"voluntary_ctxt_switches:\t(\d+)", status)
    assert found[cat.pid] == sum(map(int, counts)) >= PRIME
    assert len(found) > 1
