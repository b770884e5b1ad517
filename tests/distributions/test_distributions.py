# SPDX-License-Identifier: GPL-2.0-or-later
"""README top to bottom, as typed, on fresh Debians and Ubuntu: `make distributions`.

On this machine's kernel and without systemd; `make vm-test` has their kernels, and systemd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.conftest import why_no_bpf
from tests.distributions.fresh import CHECKOUT, DISTRIBUTIONS, Machine, make
from tests.documents.test_typed import server  # noqa: F401
from tests.documents.typed import Desk, Line, lines

WANTED = os.environ.get("DYNSTACK_DISTRIBUTIONS", "").split(",")
OURS = [line for line in lines() if line.is_ours]
UNIT = ROOT / "packaging/dynstack-probe.service"

pytestmark = [
    pytest.mark.skipif(why_no_bpf() is not None, reason=f"needs BPF: {why_no_bpf()}"),
    pytest.mark.skipif(WANTED == [""], reason="needs DYNSTACK_DISTRIBUTIONS: make distributions"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap"),
]


@pytest.fixture(scope="module", params=DISTRIBUTIONS, ids=lambda distribution: distribution.name)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if not {"all", request.param.name} & set(WANTED):
        pytest.skip(f"DYNSTACK_DISTRIBUTIONS does not name {request.param.name}")
    with tempfile.TemporaryDirectory(prefix="dynstack-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield make(request.param, folder / "root")


def desk(machine: Machine, command: str, url: str) -> Desk:
    folder = machine.root / "desk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Desk(folder, command, url, machine)


def try_all(desk: Desk) -> None:
    """Try all lines, then report all failures."""
    trouble = []
    for line in OURS:
        try:
            desk.try_out(line)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            trouble.append(f"{line}: {error}")
    assert not trouble, "\n".join(trouble)


class TestInOrder:
    def test_make_estimate(self, machine: Machine) -> None:
        said = machine.type("make estimate")
        assert "This host: " in said
        assert "This host: " in machine.type("make estimate")  # not set up a second time

    def test_every_line_of_the_checkout(self, machine: Machine, server: str) -> None:  # noqa: F811
        try_all(desk(machine, f"{CHECKOUT}/.venv/bin/dynstack-probe", server))

    def test_make_deb(self, machine: Machine) -> None:
        machine.type("make deb")
        machine.type("apt install -y ./dist/dynstack-probe_*_all.deb")
        assert machine.type("dynstack-probe --version", "/").startswith("dynstack-probe ")

    def test_every_line_of_the_package(self, machine: Machine, server: str) -> None:  # noqa: F811
        try_all(desk(machine, "/usr/bin/dynstack-probe", server))

    def test_the_daemon_as_the_unit_starts_it(self, machine: Machine) -> None:
        (start,) = (
            line.removeprefix("ExecStart=").replace(" $DYNSTACK_PROBE_OPTIONS", "")
            for line in UNIT.read_text().splitlines()
            if line.startswith("ExecStart=")
        )
        desk(machine, "", "").try_out(Line("the unit", start))

    def test_pipx(self, machine: Machine, server: str) -> None:  # noqa: F811
        machine.type("apt-get install -y -qq pipx python3-pip")
        machine.type("pip wheel --no-deps --wheel-dir dist .")
        machine.type("pipx install dist/dynstack_probe-*.whl")
        assert "This host: " in machine.type("~/.local/bin/dynstack-probe estimate")
        try_all(desk(machine, "/root/.local/bin/dynstack-probe", server))

    def test_the_suite_without_bpf(self, machine: Machine) -> None:
        """With this distribution's Python, OpenSSL and tools; documents are tested above."""
        machine.type("apt-get install -y -qq openssl prometheus e2fsprogs man-db tmux")
        machine.type("make .venv/.installed-dev")
        machine.type(
            ".venv/bin/python -m pytest -m 'not (live or vm or browser)' --ignore tests/documents"
            " --deselect tests/packaging/test_wheel.py",
            minutes=60,
        )
