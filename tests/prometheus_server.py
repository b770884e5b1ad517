# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus, for tests to ask."""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.live.machine import free_port

READY_SECONDS = 30.0


@dataclass(frozen=True)
class PrometheusServer:
    """Where it listens, and its process."""

    url: str
    pid: int


@contextlib.contextmanager
def prometheus(
    folder: Path, config: Mapping[str, Any], *arguments: str, address: str | None = None
) -> Iterator[PrometheusServer]:
    """Prometheus with this configuration, ready. Its data and log are in `folder`."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(config)))
    address = address or f"127.0.0.1:{free_port()}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
             f"--web.listen-address={address}", *arguments],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_until_ready(f"http://{address}", folder)
        yield PrometheusServer(f"http://{address}", process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(url: str, folder: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/-/ready", timeout=1).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"prometheus did not start: {(folder / 'log').read_text()[-2000:]}")
