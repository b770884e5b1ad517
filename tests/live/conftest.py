# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that every command can run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.stub import Reply, Request, answering, vector
from tests.fleet.test_rows import HEALTH, host_series
from tests.live.commands import run


@pytest.fixture(scope="module")
def prometheus() -> Iterator[str]:
    def answer(request: Request) -> Reply:
        if '"answered"' in request.query:
            return vector(*HEALTH)
        return vector(*host_series(instance="a:1", job="d"))

    with answering(answer) as stub:
        yield stub.url


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real series of this host."""
    path = tmp_path_factory.mktemp("series") / "host.dsp"
    result = run(["record", str(path), "--duration", "0.5s", "--interval", "0.1s"])
    assert result.returncode == 0, result.stderr
    return path
