# SPDX-License-Identifier: GPL-2.0-or-later
"""The command as a user runs it, as far as no BPF is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dynstack_probe import ending
from tests import ROOT
from tests.live.commands import commands
from tests.live.machine import run
from tests.trouble import complains


def test_unknown_policy() -> None:
    complains(run("estimate", "--policy", "x"), 2, "unknown policy 'x': choose from rfc-v1")


def test_unknown_option() -> None:
    complains(run("estimate", "--nope"), 2, "No such option: --nope")


def test_unknown_command() -> None:
    complains(run("nope"), 2, "No such command")


def test_unknown_format() -> None:
    complains(run("estimate", "--format", "xml"), 2, "xml")


def test_existing_output(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    complains(run("estimate", "--output", str(tmp_path / "out")), 2, "exists.*--force")
    assert (tmp_path / "out").read_text() == "precious"


def test_unwritable_output(tmp_path: Path) -> None:
    complains(run("estimate", "--output", str(tmp_path / "no" / "out")), 2, "there is no directory")


def test_no_arguments_show_help() -> None:
    result = run()
    assert result.returncode == 0
    assert "estimate" in result.stdout
    assert "doctor" in result.stdout


@pytest.mark.parametrize("command", ["estimate", "doctor"])
def test_help_teaches(command: str) -> None:
    result = run(command, "--help")
    assert f"sudo dynstack-probe {command}" in result.stdout
    assert "Exit codes: 0" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_no_summary_of_a_command_is_cut(columns: int) -> None:
    listed = run("--help", COLUMNS=str(columns)).stdout.partition("Commands:")[2]
    assert len(listed.splitlines()) == 1 + len(commands())
    assert "..." not in listed


def test_version() -> None:
    assert run("--version").stdout == "dynstack-probe 0.1.0\n"


def test_only_the_loader_names_bcc() -> None:
    """The room's rule: bcc is imported in one place."""
    for source in (ROOT / "dynstack_probe").rglob("*.py"):
        imports = re.search(r"^\s*(import|from) bcc\b", source.read_text(), re.MULTILINE)
        assert bool(imports) == (source.name == "child.py"), source


def test_ctrl_c_in_code_given_to_exec(tmp_path: Path) -> None:
    """Python ends itself by the signal then, where it runs a module."""
    (tmp_path / "interrupted.py").write_text(
        "from dynstack_probe import ending, interrupts\n"
        "interrupts.leave(ending.run(lambda: exec('raise KeyboardInterrupt')))\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (130, "dynstack-probe: interrupted\n")


def test_ctrl_c_while_a_class_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    """Python 3.11 wraps what a descriptor's __set_name__ raises: met in the import of rich."""

    def command() -> int:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    assert ending.run(command) == 130
    assert capsys.readouterr().err == "dynstack-probe: interrupted\n"
