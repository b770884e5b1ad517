# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTRIBUTING's policy, typed into a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests import ROOT
from tests.documents.blocks import blocks
from tests.documents.typed import SERIES


def test_the_policy_as_typed(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(ROOT / "CONTRIBUTING.md") if b.language == "python")
    for name in ("dynstack_probe", "probes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    file = tmp_path / "dynstack_probe/policy/quarter.py"
    file.write_text(f"{block.text}\n")
    for arguments in (["check"], ["format", "--check"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *arguments,
            "--config",
            str(ROOT / "pyproject.toml"),
        ]
        subprocess.run([*command, str(file)], check=True)
    said = subprocess.run(
        [sys.executable, "-m", "dynstack_probe", "policies", SERIES, "--policy", "quarter"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "\nquarter " in said
