# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus, a real daemon and synthetic hosts: the table is the sum of all hosts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dynstack_probe.analysis.estimate import Estimate
from tests import ROOT
from tests.conftest import why_no_bpf
from tests.live.machine import estimate_json, run
from tests.live.test_serve import fast_config, serving
from tests.prometheus_server import prometheus
from tests.scale.document import yaml_blocks
from tests.scale.hosts import SyntheticHost, host

HOSTS = 40
REAL = 2  # jobs which scrape the real daemon
REASON = f"needs BPF: {why_no_bpf()}" if why_no_bpf() else "prometheus is not installed"

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(why_no_bpf()) or shutil.which("prometheus") is None, reason=REASON),
]


@dataclass(frozen=True)
class Scene:
    """What runs: `url` is the Prometheus, `real` the daemon's address."""

    url: str
    real: str
    dead: str

    def fleet(self, *arguments: str) -> dict[str, Any]:
        result = run("fleet", "--prometheus", self.url, "--format", "json", *arguments)
        assert result.returncode == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document


def configuration(real: str, dead: str, port: int, folder: Path) -> dict[str, Any]:
    """Synthetic hosts 0 and 1 are namesakes in two clusters; slim is as in docs/scale.md."""
    groups = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {
                "__metrics_path__": f"/host/{number}/metrics",
                "instance": host(max(number, 1)).name,
                "cluster": f"c{min(number, 1)}",
            },
        }
        for number in range(HOSTS)
    ]
    (folder / "targets.json").write_text(json.dumps(groups))
    (slim,) = (block for block in yaml_blocks() if "keep" in str(block.get("scrape_configs")))
    (slim_job,) = slim["scrape_configs"]
    return {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": "real", "static_configs": [{"targets": [real, dead]}]},
            {**slim_job, "job_name": "slim", "scrape_interval": "1s",
             "static_configs": [{"targets": [real]}]},
            {"job_name": "synthetic",
             "file_sd_configs": [{"files": [f"{folder}/targets.json"]}]},
        ],
    }  # fmt: skip


@contextlib.contextmanager
def synthetic_hosts(page: Path) -> Iterator[int]:
    """Serves them on one port, each at its own path."""
    process = subprocess.Popen(
        (sys.executable, "tests/scale/hosts.py", page, str(HOSTS)), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().removeprefix(b"ready "))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("fleet")
    config = fast_config(folder / "c.toml", policies='["rfc-v1", "static-8k"]')
    page = folder / "page"
    with serving("--config", str(config)) as daemon:
        lines = daemon.get("/metrics").splitlines(keepends=True)
        page.write_text("".join(line for line in lines if "static-8k" not in line))
        real, dead = daemon.url.removeprefix("http://"), "127.0.0.1:1"
        with (
            synthetic_hosts(page) as port,
            prometheus(folder, configuration(real, dead, port, folder)) as server,
        ):
            scene = Scene(server.url, real, dead)
            wait_for_all(scene)
            yield scene


def wait_for_all(scene: Scene) -> None:
    for _ in range(60):
        result = run("fleet", "--prometheus", scene.url, "--format", "json")
        if result.returncode == 0:
            hosts = json.loads(result.stdout)["hosts"]
            if (hosts["asked"], hosts["answered"]) == (HOSTS + REAL + 1, HOSTS + REAL):
                return
        time.sleep(0.3)
    raise AssertionError(f"not all hosts were scraped: {result.stdout} {result.stderr}")


def synthetic() -> list[tuple[SyntheticHost, Estimate]]:
    return [(host(number), host(number).estimate()) for number in range(HOSTS)]


def figures(estimates: list[tuple[SyntheticHost, Estimate]]) -> dict[str, int]:
    """The sum of what each host's own estimate says."""
    return {
        "hosts": len(estimates),
        "cpus": sum(this.cpus for this, _ in estimates),
        "stacks": sum(result.stacks for _, result in estimates),
        "base_kib": sum(result.base_kib for _, result in estimates),
        "dynamic_kib": sum(result.dynamic_kib for _, result in estimates),
        "reserve_kib": sum(result.reserve_kib for _, result in estimates),
        "mem_total_kib": sum(result.mem_total_kib for _, result in estimates),
    }


def part_of(row: dict[str, Any], wanted: dict[str, int]) -> dict[str, Any]:
    return {name: row[name] for name in wanted}


@pytest.mark.parametrize(
    ("by", "attribute"), [("cpu", "cpu_model"), ("kernel", "kernel_release"), ("host", "name")]
)
def test_each_row_is_the_sum_of_its_hosts(scene: Scene, by: str, attribute: str) -> None:
    document = scene.fleet("--by", by, "--job", "synthetic")
    rows = {row["name"]: row for row in document["groups"]}
    expected: dict[str, list[tuple[SyntheticHost, Estimate]]] = {}
    for this, result in synthetic():
        name = getattr(this, attribute)
        if by == "host" and this.number < 2:
            name = f"host-1 {{cluster=c{this.number},job=synthetic}}"
        expected.setdefault(name, []).append((this, result))
    assert set(rows) == set(expected)
    for name, estimates in expected.items():
        wanted = figures(estimates)
        assert part_of(rows[name], wanted) == wanted, name
    everything = figures(synthetic())
    assert part_of(document["total"], everything) == everything
    saving = 1 - everything["dynamic_kib"] / everything["base_kib"]
    assert document["total"]["saving_ratio"] == pytest.approx(saving, abs=1e-12)
    assert document["hosts"]["asked"] == document["hosts"]["answered"] == HOSTS
    assert 0 <= document["sample_age_seconds"]["median"] <= 30


def test_the_real_host_says_the_same_as_its_own_estimate(scene: Scene) -> None:
    """Tasks come and go between the two looks, so there are several tries."""
    for _ in range(8):
        own = estimate_json()
        (row,) = scene.fleet("--by", "host", "--job", "real")["groups"]
        policy = own["policies"][0]
        measured = own["measured"]
        assert row["cpus"] == own["host"]["cpus"]
        assert row["mem_total_kib"] == own["host"]["mem_total_kib"]
        assert row["cpu_model"] == own["host"]["cpu_model"]
        assert row["kernel_release"] == own["host"]["kernel_release"]
        assert row["reserve_kib"] == policy["reserve_kib"]
        assert row["base_kib"] == 16 * row["stacks"]
        close = pytest.approx(measured["stacks"], rel=0.1, abs=8)
        # reuse, which one scan can't see, makes the daemon's dynamic larger
        ratio = pytest.approx(policy["saving_ratio"], abs=0.1)
        if row["stacks"] == close and row["saving_ratio"] == ratio:
            return
        time.sleep(1)
    raise AssertionError(f"{row} is far from {measured} and {policy}")


def test_the_whole_table(scene: Scene) -> None:
    result = run("fleet", "--prometheus", scene.url, "--verbose")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "CPU", "#Hosts", "#Cores", "#Stacks", "BASE(kb)", "Dynamic(kb)", "Saving",
    ]  # fmt: skip
    total = next(line.split() for line in lines if line.startswith("Total"))
    assert int(total[1]) == HOSTS + REAL
    asked = f"{HOSTS + REAL + 1} asked, {HOSTS + REAL} answered; down: {scene.dead}"
    assert asked in result.stdout
    assert max(map(len, lines)) <= 80
    assert result.stderr.count(" series: ") == 3
    headings = "CPU net CPU stack fault kernel #PF free KiB deepest too deep"
    assert headings in [" ".join(line.split()) for line in lines]


def test_sums_of_the_csv_are_the_total(scene: Scene) -> None:
    result = run("fleet", "--prometheus", scene.url, "--by", "host", "--job", "synthetic",
                 "--format", "csv")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    for name, wanted in figures(synthetic()).items():
        assert sum(int(row[name]) for row in rows) == wanted, name


def test_hosts_without_the_policy_are_left_out(scene: Scene) -> None:
    document = scene.fleet("--policy", "static-8k")
    assert document["hosts"]["left_out"] == HOSTS
    (row,) = document["groups"]
    assert (row["hosts"], row["reserve_kib"]) == (REAL, 0)
    assert row["dynamic_kib"] * 2 == row["base_kib"]
    everything = scene.fleet("--policy", "static-8k", "--by", "host")
    assert everything["hosts"]["left_out"] == HOSTS


def test_no_such_job(scene: Scene) -> None:
    result = run("fleet", "--prometheus", scene.url, "--job", "moon")
    assert result.returncode == 1
    assert "has no dynstack metrics of job 'moon'" in result.stderr


def test_the_slim_configuration_has_all_that_fleet_asks_for(scene: Scene) -> None:
    for by in ("cpu", "kernel", "host"):
        document = scene.fleet("--job", "slim", "--by", by)
        (row,) = document["groups"]
        assert row["stacks"] > 0
        assert row["kernel_stacks"] > 0
        assert document["hosts"]["left_out"] == 0
        assert document["sample_age_seconds"]["median"] is not None
