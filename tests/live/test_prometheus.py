"""A real Prometheus scrapes the daemon while the machine is under stress."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live.machine import ROOT
from tests.live.test_serve import PROMISED, fast_config, free_port, serving

# The issue asks for two minutes; CI takes less, DYNSTACK_PROMETHEUS_SECONDS=120 the whole.
SECONDS = int(os.environ.get("DYNSTACK_PROMETHEUS_SECONDS", "20"))

needs = [name for name in ("prometheus", "promtool", "stress-ng") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(needs), reason=f"not installed: {', '.join(needs)}")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes `target` each second; gives its URL."""
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        f"  - {{job_name: dynstack, static_configs: [{{targets: [{target!r}]}}]}}\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder}/prometheus.yml",
         f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """An instant query's series."""
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
        with prometheus(tmp_path, daemon.url.removeprefix("http://")) as url:
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
            # the model never says more than what is there
            assert (
                value(
                    url, 'dynstack_policy_stack_bytes{policy="rfc-v1"} / on() dynstack_stack_bytes'
                )
                < 1
            )
            assert value(url, f"avg_over_time(scrape_duration_seconds{span})") < 0.5
            assert value(url, f"rate(process_cpu_seconds_total{span})") < 0.05
