# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus scrapes the daemon while the machine is under stress."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_serve import PROMISED, fast_config, serving
from tests.prometheus_server import prometheus

# The issue asks for two minutes, DYNSTACK_PROMETHEUS_SECONDS=120; CI runs for less.
SECONDS = int(os.environ.get("DYNSTACK_PROMETHEUS_SECONDS", "20"))

needs = [name for name in ("prometheus", "promtool", "stress-ng") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(needs), reason=f"not installed: {', '.join(needs)}")


def scraping(target: str) -> dict[str, Any]:
    """A server that scrapes `target` each second."""
    job = {"job_name": "dynstack", "static_configs": [{"targets": [target]}]}
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """The series that an instant query returns."""
    parameters = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=10) as answer:
        document = json.load(answer)
    assert document["status"] == "success"
    result: list[dict[str, Any]] = document["data"]["result"]
    return result


def value(url: str, expression: str) -> float:
    (series,) = query(url, expression)
    return float(series["value"][1])


def test_scraped_under_stress(tmp_path: Path) -> None:
    config = fast_config(tmp_path / "c.toml", policies='["rfc-v1", "static-8k"]')
    with serving("--config", str(config)) as daemon:
        page = daemon.get("/metrics")
        lint = subprocess.run(
            ["promtool", "check", "metrics"],
            input=page,
            text=True,
            capture_output=True,
            check=False,
        )
        assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")
        target = daemon.url.removeprefix("http://")
        with prometheus(tmp_path, scraping(target)) as server:
            url = server.url
            subprocess.run(
                ["stress-ng", "--fork", "1", "--fault", "1", "-t", str(SECONDS)],
                check=True,
                capture_output=True,
            )
            time.sleep(2.5)
            span = f"[{max(5, SECONDS - 5)}s]"
            for name in PROMISED:
                assert query(url, name), name
            assert value(url, f"min_over_time(up{span})") == 1
            for counter in (
                "dynstack_created_tasks_total",
                "dynstack_reused_stacks_total",
                'dynstack_exited_tasks_total{pages="1"}',
                'dynstack_page_faults_total{mode="user"}',
                "dynstack_bpf_runs_total",
            ):
                assert value(url, f"increase({counter}{span})") > 0, counter
                assert value(url, f"resets({counter}{span})") == 0, counter
            assert value(url, f'resets(dynstack_policy_faults_total{{policy="rfc-v1"}}{span})') == 0
            assert value(url, "sum(dynstack_lost_events_total)") == 0
            # the model never exceeds what is allocated
            assert (
                value(
                    url, 'dynstack_policy_stack_bytes{policy="rfc-v1"} / on() dynstack_stack_bytes'
                )
                < 1
            )
            assert value(url, f"avg_over_time(scrape_duration_seconds{span})") < 0.5
            assert value(url, f"rate(process_cpu_seconds_total{span})") < 0.05
