# SPDX-License-Identifier: GPL-2.0-or-later
"""prometheus_client without its own servers: the same metrics, and real modules afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dynstack_probe.serve.lean import UNUSED
from tests import ROOT

EXPOSE = """
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import choose_encoder
registry = CollectorRegistry()
Counter("shots", "Fired.", ["who"], registry=registry).labels("a\\"b\\n").inc(3)
Gauge("height", "How high.", registry=registry).set(1.5)
for accept in ("", "application/openmetrics-text; version=1.0.0"):
    encoder, content_type = choose_encoder(accept)
    lines = encoder(registry).decode().splitlines()
    print(content_type, *[line for line in lines if "_created" not in line], sep="\\n")
"""
LEAN = "from dynstack_probe.serve.lean import *\nimport_prometheus_client()\n"


def has_library(python: str) -> bool:
    return subprocess.run([python, "-c", "import prometheus_client"], check=False).returncode == 0


# The system's is the oldest that we run with.
PYTHONS = [p for p in (sys.executable, "/usr/bin/python3") if has_library(p)]


def out_of(python: str, code: str, **environment: str) -> str:
    command = [python, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("python", PYTHONS)
def test_metrics_read_as_those_of_the_whole_library(python: str) -> None:
    plain = out_of(python, EXPOSE)
    assert 'shots_total{who="a\\"b\\n"} 3.0' in plain
    assert out_of(python, LEAN + EXPOSE) == plain


@pytest.mark.parametrize("python", PYTHONS)
def test_whoever_needs_a_module_afterwards_gets_the_real_one(python: str) -> None:
    names = f"{{*{UNUSED!r}}}"
    absent = f"import sys\nassert not {names} & set(sys.modules)\n"
    use = "import ssl, http.server\nassert ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).session_stats"
    out_of(python, LEAN + absent + use)


def test_a_release_that_uses_more_of_them_is_imported_as_it_is(tmp_path: Path) -> None:
    library = tmp_path / "prometheus_client"
    library.mkdir()
    (library / "part.py").write_text("import ssl\nOPTIONS = int(ssl.OP_ALL)\n")
    (library / "__init__.py").write_text("from .part import OPTIONS\n")
    code = LEAN + "import prometheus_client\nprint(prometheus_client.OPTIONS + 0)"
    assert int(out_of(sys.executable, code, PYTHONPATH=f"{tmp_path}:{ROOT}"))
