# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's loop without a kernel: a stand-in takes the samples."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from dynstack_probe.errors import UsageError
from dynstack_probe.model.sample import Sample
from dynstack_probe.serve.config import Config, configure, read_config
from dynstack_probe.serve.daemon import Daemon
from dynstack_probe.serve.options import Options
from tests import ROOT
from tests.serve.test_collector import a_sample

# Scans once a second; the third scan hangs.
_HANGS = """
import sys, time
from dynstack_probe.serve import sd_notify
from dynstack_probe.serve.daemon import Daemon
from dynstack_probe.serve.options import Options
from pathlib import Path
daemon = Daemon(Options(config_file=Path(sys.argv[1]), listen="127.0.0.1:0"))
scans = 0
def scan(sampler):
    global scans
    scans += 1
    if scans == 3:
        sd_notify.status("hanging")
        time.sleep(60)
daemon._scan = scan
sd_notify.ready()
daemon._loop(None)
"""


def test_a_scan_that_hangs_is_not_reported_alive(tmp_path: Path) -> None:
    """systemd hears WATCHDOG=1 while scans end, and not once one hangs."""
    config = tmp_path / "c.toml"
    config.write_text("interval_seconds = 1\n")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(10)
        process = subprocess.Popen(
            [sys.executable, "-c", _HANGS, str(config)],
            cwd=ROOT,
            env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000", "PATH": "/usr/bin"},
        )
        try:
            heard: list[str] = []
            while not heard or "hanging" not in heard[-1]:
                heard.append(manager.recv(4096).decode())
            assert sum("WATCHDOG=1" in message for message in heard) >= 4
            manager.settimeout(1)
            with pytest.raises(TimeoutError):
                manager.recv(4096)
        finally:
            process.kill()
            process.wait()


def test_defaults() -> None:
    assert read_config(None) == Config()
    assert Config().listen == "127.0.0.1:10016"


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('listen = "127.0.0.1:1"\npage_faults = true\ntop_cgroups = 3\n')
    config = configure(Options(path, listen="[::1]:2", page_faults=False))
    assert (config.listen, config.page_faults, config.top_cgroups) == ("[::1]:2", False, 3)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(page_faults=True),
        Options(Path("a=b c"), Path("--page-faults"), Path("x\ny.prom"), "[::1]:2", False),
        Options(Path("\udcff.toml"), listen=""),
        Options(systemd_socket=True),
    ],
)
def test_the_daemons_process_is_asked_what_the_command_line_was(options: Options) -> None:
    assert Options.from_words(["--verbose", *options.words()]) == options


def test_scans_are_rare_where_they_are_dear() -> None:
    """A scan takes at most 0.05% of a CPU, no sample gets older than 5 minutes."""
    config = Config()
    assert config.scan_interval_seconds(0.001) == 15
    assert config.scan_interval_seconds(0.020) == 40
    assert config.scan_interval_seconds(1.0) == 300
    assert Config(interval_seconds=2).scan_interval_seconds(1.0) == 2


def test_the_shipped_configuration_shows_the_defaults(tmp_path: Path) -> None:
    shipped = (ROOT / "packaging" / "config.toml").read_text()
    lines = [line[1:] for line in shipped.splitlines() if line[:1] == "#" and " = " in line]
    path = tmp_path / "c.toml"
    path.write_text("\n".join(lines))
    # which is left to the daemon unless it is set
    assert read_config(path) == replace(Config(), interval_seconds=30)
    assert len(lines) == len(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    "text",
    [
        "listen = 1",
        'listen = "x"',
        "interval_seconds = true",
        "interval_seconds = 0.5",
        "interval_seconds = nan",
        "policies = []",
        'policies = "rfc-v1"',
        "policies = [1]",
        "top_cgroups = -1",
        "top_cgroups = 1.5",
        "page_faults = 1",
        "[section]",
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(
        UsageError, match=text.strip("[]").split(" ")[0] if "x" not in text else "x"
    ):
        read_config(path)


def test_of_equal_cgroups_the_named_are_those_that_are_shown() -> None:
    """Whatever the order in which the kernel's map has them."""

    class Sampler:
        def prove_by(self, exits: int) -> None:
            pass

        def take(self) -> Sample:
            equal = dict.fromkeys(reversed(range(1, 98)), (1, 0, 0, 0, 0, 0, 0, 0))
            return a_sample({(1, 1): 97}, cgroups=equal)

        def cgroup_paths(self, ids: Collection[int]) -> dict[int, str]:
            return {cgroup: f"/{cgroup}" for cgroup in ids}

    daemon = Daemon(Options(listen="127.0.0.1:0"))
    daemon._scan(cast("Any", Sampler()))
    page = generate_latest(daemon._registry).decode()
    named = re.findall(r'^dynstack_cgroup_stack_bytes{cgroup="/(\d+)"}', page, re.MULTILINE)
    assert [int(name) for name in named] == list(range(1, Config().top_cgroups + 1))


def test_a_broken_textfile_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.prom"):
        Daemon(Options(listen="127.0.0.1:0", textfile=tmp_path / "x.txt"))
