# SPDX-License-Identifier: GPL-2.0-or-later
"""The RPM, built by Debian's rpmbuild; no Fedora is at hand to install it on."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from dynstack_probe import __version__
from tests import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("rpmbuild") is None, reason="needs rpmbuild: apt install rpm"
)


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("rpm")
    defined = [f"--define=_topdir {top}", f"--define=checkout {ROOT}"]
    command = ["rpmbuild", "-bb", "--quiet", *defined, str(ROOT / "packaging/dynstack-probe.spec")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    (built,) = (top / "RPMS").rglob("*.rpm")
    return built


def query(rpm: Path, what: str) -> list[str]:
    command = ["rpm", "--query", "--package", what, str(rpm)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_name(rpm: Path) -> None:
    assert rpm.name == f"dynstack-probe-{__version__}-1.noarch.rpm"


def test_it_brings_modules_and_probes(rpm: Path) -> None:
    files = "\n".join(query(rpm, "--list"))
    for folder, where in (("dynstack_probe", ""), ("probes", "dynstack_probe/")):
        for source in (ROOT / folder).rglob("*.[pch]*"):
            if "__pycache__" not in source.parts:
                assert f"site-packages/{where}{source.relative_to(ROOT)}" in files
    assert "__pycache__" not in files


def test_it_requires_what_pyproject_does(rpm: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requires = query(rpm, "--requires")
    assert "python3-bcc" in requires
    for dependency in project["dependencies"]:
        found = re.match(r"([\w-]+)>=([\d.]+)", dependency)
        assert found, dependency
        name = found[1].replace("prometheus-client", "prometheus_client").lower()
        assert f"python3-{name} >= {found[2]}" in requires
