# SPDX-License-Identifier: GPL-2.0-or-later
"""`cost`, the recording rules and `fleet` tell the same, asked of one moment of a real Prometheus.

Two hosts whose counters rise evenly: a capture holds the first and the last frame, and the
daemon's own pages of both, joined by straight lines, are what Prometheus scrapes. Samples
carry their own time, a grid of ten seconds of which the last minutes come in at once, so that
a rate over five minutes is the counters' slope, but for rounding.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from dynstack_probe.cli import app
from dynstack_probe.fleet.access import parse_access
from dynstack_probe.fleet.ask import ask
from dynstack_probe.fleet.client import Answer, Server, _series
from dynstack_probe.fleet.model import By
from dynstack_probe.fleet.table import document
from dynstack_probe.model.frame import Coverage, Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.interval import PageFaults
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.serve.collector import CostInputs, HostCollector, Scan, ScanCounter
from tests import ROOT
from tests.analysis.test_cost import CALIBRATION
from tests.capture.files import written
from tests.factory import a_frame, a_host, some_stacks
from tests.prometheus_server import prometheus

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="not installed: prometheus"
)

STEP_SECONDS, STEPS = 10, 40
SECONDS = 100  # from the first frame to the last
POLICY = BUILT_IN["rfc-v1"]


@dataclass(frozen=True)
class Case:
    """A host by its counts in SECONDS, and its free pages above the watermarks."""

    cpus: int
    cpu_model: str
    created: int
    reused: int
    grown: int  # exits that had used a second page and inherited none
    inherited: int  # exits whose stack came with two pages
    kernel_page_faults: int
    free_pages: int

    def lifecycle(self, share: int) -> Lifecycle:
        exited = {(1, 1): 7, (2, 1): self.grown * share + 3, (2, 2): self.inherited * share + 5}
        return Lifecycle(
            self.created * share + 50, self.reused * share + 20, exited, (0,) * 8, (0,) * 6,
            {}, 0, 0.0,
        )  # fmt: skip

    def page_faults(self, share: int) -> PageFaults:
        return PageFaults(1000, self.kernel_page_faults * share + 90)

    def frame(self, share: int) -> Frame:
        return a_frame(
            some_stacks([500] * 20),
            replace(a_host(self.cpus), cpu_model=self.cpu_model),
            lifecycle=self.lifecycle(share),
            page_faults=self.page_faults(share),
            headroom=Headroom((self.free_pages,), 0, 0, 0, 0),
            calibration=None if share else CALIBRATION,
            boot_ns=(1 + SECONDS * share) * 10**9,
        )

    def sample(self, share: int) -> Sample:
        frame = self.frame(share)
        return Sample(
            host=frame.host,
            living=Living({Kind.USER: {(1, 1): 20}}, (0,) * 8, (0,) * 6, 0, deepest_mark_bytes=500),
            lifecycle=self.lifecycle(share),
            coverage=Coverage(20, 0, 20, 320, False),
            cgroups={},
            scan_seconds=0.001,
            taken_at=time.time(),
            kernel_counters={},
            bpf_memory_bytes=4096,
        )


HOSTS = {
    "a": Case(2, "X", 3000, 2000, 307, 411, 20_011, 70_000),
    "b": Case(16, "X", 90_001, 70_003, 1009, 5003, 300_007, 9_001),
    "c": Case(4, "Y", 101, 7, 3001, 0, 999_983, 500_009),
}


def pages_of(case: Case) -> list[dict[str, float]]:
    """What the daemon serves at the first frame and at the last, line by line."""
    scans, newest = ScanCounter(), list[Scan | None]([None])
    inputs = [CostInputs()]
    registry = CollectorRegistry()
    registry.register(
        HostCollector(lambda: newest[0], lambda: [POLICY], lambda: 2, dict, lambda: inputs[0])
    )
    pages = []
    for share in (0, 1):
        newest[0] = scans.add(case.sample(share), [POLICY], CALIBRATION)
        headroom = Headroom((case.free_pages,), 0, 0, 0, 0)
        inputs[0] = CostInputs(case.page_faults(share), "counted", headroom, CALIBRATION)
        page = {}
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for one in family.samples:
                labels = ",".join(f"{name}={json.dumps(v)}" for name, v in one.labels.items())
                page[f"{one.name}{{{labels}}}"] = one.value
        pages.append(page)
    return pages


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has scraped all steps and evaluates the rules."""
    folder = tmp_path_factory.mktemp("same")
    pages = {f"/{name}": pages_of(case) for name, case in HOSTS.items()}
    last = int(time.time()) // STEP_SECONDS * STEP_SECONDS
    steps = dict.fromkeys(pages, 0)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path
            step = min(STEPS + int(time.time() - last) // STEP_SECONDS, steps[path])
            first, end = pages[path]
            at = 1000 * (last + (step - STEPS) * STEP_SECONDS)
            share = step * STEP_SECONDS / SECONDS
            # a counter far from 0: rate() goes no further back than where a line meets 0
            body = "".join(
                f"{line} {value + (end[line] - value) * (100 + share)!r} {at}\n"
                for line, value in first.items()
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # too late for this scrape: the next gets it
                self.wfile.write(body)
                steps[path] = step + 1

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        targets = [
            {"targets": [f"127.0.0.1:{server.server_port}"],
             "labels": {"__metrics_path__": path, "instance": path[1:]}}
            for path in pages
        ]  # fmt: skip
        config = {
            "global": {"scrape_interval": "250ms", "evaluation_interval": "500ms"},
            "rule_files": [str(ROOT / "grafana/rules/dynstack-recording.yml")],
            "scrape_configs": [{"job_name": "dynstack", "static_configs": targets}],
        }
        with prometheus(folder, config) as running:
            deadline = time.monotonic() + 60
            while min(steps.values()) < STEPS and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(2)  # an evaluation that saw it all
            yield running.url
        server.shutdown()


class AtOneMoment(Server):
    """A server that is asked as of the rules' last evaluation."""

    def __init__(self, url: str) -> None:
        super().__init__(parse_access(url), 10.0)
        answer = super().query("timestamp(job_policy:dynstack_modelled_net_cost:ratio5m)")
        (self.moment,) = {series.value for series in answer.series}

    def query(self, expression: str) -> Answer:
        parameters = {"query": expression, "time": f"{self.moment:.3f}"}
        series, warnings, _ = self._ask(parameters, "vector", _series)
        return Answer(series, warnings, 0, 0.0)

    def recorded(self, rule: str, **labels: str) -> float:
        matchers = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
        (one,) = self.query(f"{rule}{{{matchers}}}").series
        return one.value


@pytest.fixture(scope="module")
def server(scene: str) -> AtOneMoment:
    return AtOneMoment(scene)


def cost_of(case: Case, folder: Path) -> dict[str, Any]:
    path = written(folder / "host.dsp", [case.frame(0), case.frame(1)])
    told = CliRunner().invoke(app, ["cost", str(path), "--format", "json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(told.output)
    return found


def same(figure: float) -> Any:
    """To the last digit of what any of them prints, but for a float's rounding."""
    return pytest.approx(figure, rel=1e-9)


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_costs_the_same_wherever_it_is_told(
    server: AtOneMoment, name: str, tmp_path: Path
) -> None:
    cost = cost_of(HOSTS[name], tmp_path)
    rows = {row["name"]: row for row in document(ask(server, By.host, POLICY.name))["groups"]}
    row = rows[name]
    for key in ("faults_cpu_ratio", "fork_saving_cpu_ratio", "net_cpu_ratio"):
        assert row[key] == same(cost["cost"][key]), key
    even = cost["break_even"]
    assert row["stack_fault_break_even_ns"] == same(even["stack_fault_ns"])
    assert row["kernel_page_fault_break_even_ns"] == same(even["kernel_page_fault_ns"])
    assert row["least_headroom_kib"] == cost["safety"]["headroom_kib"]["least"]
    assert row["deepest_bytes"] == cost["safety"]["deepest_bytes"]

    def recorded(rule: str, **labels: str) -> float:
        return server.recorded(rule, instance=name, **labels)

    policy = {"policy": POLICY.name}
    prefix = "instance_policy:dynstack_modelled"
    assert recorded(f"{prefix}_net_cost:ratio5m", **policy) == same(row["net_cpu_ratio"])
    assert recorded(f"{prefix}_fault_cost:ratio5m", **policy) == same(row["faults_cpu_ratio"])
    spared = recorded(f"{prefix}_fork_saving:ratio5m", **policy)
    assert spared == same(row["fork_saving_cpu_ratio"])
    even_s = recorded(f"{prefix}_fault_break_even_seconds:ratio5m", **policy)
    assert even_s * 1e9 == same(even["stack_fault_ns"])
    kernel_s = recorded("instance:dynstack_kernel_page_fault_break_even_seconds:ratio5m")
    assert kernel_s * 1e9 == same(even["kernel_page_fault_ns"])
    reserves = recorded(f"{prefix}_reserve_headroom:ratio", **policy)
    assert reserves == same(cost["safety"]["headroom_reserves"])


def test_groups_cost_what_their_hosts_do(server: AtOneMoment, tmp_path: Path) -> None:
    found = document(ask(server, By.cpu, POLICY.name))
    rows = {**{row["name"]: row for row in found["groups"]}, "": found["total"]}
    costs = {name: cost_of(case, tmp_path) for name, case in HOSTS.items()}
    for model, row in rows.items():
        hosts = {name: case for name, case in HOSTS.items() if model in ("", case.cpu_model)}
        cpus = sum(case.cpus for case in hosts.values())
        for key in ("faults_cpu_ratio", "fork_saving_cpu_ratio", "net_cpu_ratio"):
            whole = sum(costs[name]["cost"][key] * case.cpus for name, case in hosts.items())
            assert row[key] == same(whole / cpus), (model, key)
        kernel = sum(case.kernel_page_faults for case in hosts.values()) / SECONDS
        assert row["kernel_page_fault_break_even_ns"] == same(0.001 * cpus * 1e9 / kernel)
        assert row["cost_hosts"] == len(hosts)
        assert row["least_headroom_kib"] == 4 * min(case.free_pages for case in hosts.values())
        assert row["too_deep_tasks"] == 0
        if not model:
            continue
        label = {"cpu_model": model}
        prefix = "job_cpu_model_policy:dynstack_modelled"
        net = server.recorded(f"{prefix}_net_cost:ratio5m", policy=POLICY.name, **label)
        assert net == same(row["net_cpu_ratio"])
        even = server.recorded(
            f"{prefix}_fault_break_even_seconds:ratio5m", policy=POLICY.name, **label
        )
        assert even * 1e9 == same(row["stack_fault_break_even_ns"])
        rule = "job_cpu_model:dynstack_kernel_page_fault_break_even_seconds:ratio5m"
        kernel_s = server.recorded(rule, **label)
        assert kernel_s * 1e9 == same(row["kernel_page_fault_break_even_ns"])
    total = server.recorded(
        "job_policy:dynstack_modelled_net_cost:ratio5m", policy=POLICY.name, job="dynstack"
    )
    assert total == same(found["total"]["net_cpu_ratio"])
