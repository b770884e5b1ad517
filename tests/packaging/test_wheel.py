# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel, installed into an environment of its own, as pipx does."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests import ROOT
from tests.conftest import why_no_bpf
from tests.trouble import complains

Ended = subprocess.CompletedProcess[str]


class Installed:
    """An environment with the wheel and what it depends on, and nothing of the system's."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "env/bin/python"
        self._pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
        (self.wheel,) = folder.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        self._pip(self.python, "install", self.wheel)

    @staticmethod
    def _pip(python: str | Path, *arguments: str | Path) -> None:
        command = [python, "-m", "pip", "--quiet", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr

    def run(self, *arguments: str | Path, **environment: str) -> Ended:
        return subprocess.run(
            [self.python.with_name("dynstack-probe"), *arguments],
            capture_output=True,
            text=True,
            cwd="/",
            env={**os.environ, **environment},
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_it_brings_the_probes(installed: Installed) -> None:
    code = "from dynstack_probe import loader; print(loader.probes_dir())"
    command = [str(installed.python), "-Ic", code]
    where = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(where).is_relative_to(installed.python.parent.parent)
    for source in (ROOT / "probes").rglob("*.[ch]"):
        assert (Path(where) / source.relative_to(ROOT / "probes")).read_bytes() == (
            source.read_bytes()
        )


def test_a_report_needs_nothing_more(installed: Installed, tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    capture = ROOT / "tests/data/linux-6.12.dsp"
    result = installed.run("report", "--output", page, capture)
    assert result.returncode == 0, result.stderr
    assert "<svg" in page.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, or privileges are missed first")
def test_without_bcc_one_line_says_what_to_install(installed: Installed) -> None:
    # this environment's own Python: it can't see the system's packages
    result = installed.run("estimate", DYNSTACK_PROBE_PYTHON=str(installed.python))
    complains(result, 3, "bcc.*apt install python3-bpfcc")


@pytest.mark.live
@pytest.mark.skipif(why_no_bpf() is not None, reason=f"needs BPF: {why_no_bpf()}")
def test_estimate_with_the_systems_bcc(installed: Installed) -> None:
    result = installed.run("estimate")
    assert result.returncode == 0, result.stderr
    assert "This host" in result.stdout
