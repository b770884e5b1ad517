# SPDX-License-Identifier: GPL-2.0-or-later
"""Every panel's and every rule's query, run by a real Prometheus with the shipped configuration.

It scrapes the real daemon and simulated hosts. Of the shipped files only what would not fit a
test is replaced: the targets, the ports, and the 15 s between scrapes.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT
from tests.conftest import why_no_bpf
from tests.grafana.simulated import HOSTS, STARTED, SimulatedHost, served
from tests.grafana.test_dashboards import DASHBOARDS, named, panels
from tests.grafana.test_rules import all_rules
from tests.live.machine import free_port
from tests.live.test_serve import Serving, fast_config, serving
from tests.prometheus_server import prometheus

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="not installed: prometheus (Debian's)"
)

STEP_SECONDS = 1
# what Grafana would put there for a data source with this interval: four of them
RATE_INTERVAL = f"{4 * STEP_SECONDS}s"
ALL = ".+"


@dataclass(frozen=True)
class World:
    """A running Prometheus and what it scrapes."""

    url: str
    addresses: Mapping[str, str]  # by name; `real` is the daemon, `gone` answers nothing
    pages: Mapping[str, str]

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as answer:
            document = json.load(answer)
        assert document["status"] == "success"
        assert not document.get("warnings")
        return document["data"]

    def instant(self, expr: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return result

    def values(self, expr: str, *, instant: bool) -> list[list[float]]:
        """The values of each series, now or over the last seconds as a graph would."""
        if instant:
            return [[float(series["value"][1])] for series in self.instant(expr)]
        now = time.time()
        data = self.get(
            "query_range", query=expr, start=str(now - 6), end=str(now), step=str(STEP_SECONDS)
        )
        return [[float(value) for _, value in series["values"]] for series in data["result"]]

    @property
    def hosts(self) -> list[str]:
        """Names of those that answer."""
        return [name for name in self.addresses if name != "gone"]


def shipped_configuration(folder: Path, targets: list[str]) -> dict[str, Any]:
    """With the shipped rules, but other targets and shorter intervals."""
    shutil.copytree(ROOT / "grafana/rules", folder / "rules")
    config: dict[str, Any] = yaml.safe_load((ROOT / "grafana/prometheus.yml").read_text())
    for interval in ("scrape_interval", "evaluation_interval"):
        config["global"][interval] = f"{STEP_SECONDS}s"
    config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
    return config


@contextlib.contextmanager
def real_daemon(folder: Path) -> Iterator[Serving | None]:
    """This machine's, where there is BPF."""
    if why_no_bpf() is not None:
        yield None
        return
    config = fast_config(folder / "c.toml", policies='["rfc-v1", "static-8k"]')
    with serving("--config", str(config)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("prometheus")
    with served(HOSTS) as simulated, real_daemon(folder) as daemon:
        addresses = {**simulated, "gone": f"127.0.0.1:{free_port()}"}
        if daemon is not None:
            addresses["real"] = daemon.url.removeprefix("http://")
        pages = {
            name: urllib.request.urlopen(f"http://{address}/metrics").read().decode()
            for name, address in addresses.items()
            if name != "gone"
        }
        config = shipped_configuration(folder, list(addresses.values()))
        with prometheus(folder, config) as server:
            world = World(server.url, addresses, pages)
            wait_until_it_has_data(world)
            yield world


def wait_until_it_has_data(world: World) -> None:
    """Two scrapes of every host make rates, two evaluations the last rules of the files."""
    deadline = time.monotonic() + 60
    wanted = f"count(rate(dynstack_created_tasks_total[{RATE_INTERVAL}])) == {len(world.hosts)}"
    last = "job_policy:dynstack_modelled_saving:max"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if world.instant(wanted) and world.instant(last):
                time.sleep(6 * STEP_SECONDS)
                return
        time.sleep(0.3)
    pytest.fail(f"not all hosts have data: {world.instant('up')}")


def options(world: World, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> list[str]:
    """What Grafana would offer for a variable, by the query in the dashboard."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert match, variable["query"]
    selector, label = substituted(match[1], chosen), match[2]
    values: list[str] = world.get(f"label/{label}/values", **{"match[]": selector})
    return values


def substituted(expr: str, chosen: Mapping[str, str]) -> str:
    """With variables as Grafana's Prometheus data source puts them in."""
    expr = expr.replace("$__rate_interval", RATE_INTERVAL)
    for name, value in chosen.items():
        expr = expr.replace(f"${name}", value)
    assert "$" not in expr, expr
    return expr


def escaped(value: str) -> str:
    """A value among several, as a regular expression within PromQL's double quotes."""
    return re.sub(r"[$^*{}\[\]\\+?.()|]", r"\\\\\g<0>", value)


def choices(world: World, name: str) -> Iterator[dict[str, str]]:
    """All ways to choose that matter: each host where one is chosen; all, and one, where many."""
    partial: list[dict[str, str]] = [{}]
    for variable in DASHBOARDS[name]["templating"].get("list", []):
        if variable["type"] == "datasource":
            continue
        extended = []
        for chosen in partial:
            if variable["name"] == "cgroup" and chosen["instance"] == world.addresses.get("real"):
                continue  # whose cgroups come and go
            values = options(world, variable, chosen)
            assert values, (variable["name"], chosen)
            if variable["multi"]:
                taken = [variable["allValue"], f"({'|'.join(map(escaped, values))})"]
            elif "current" in variable:  # only rfc-v1 has all the metrics
                assert variable["current"]["value"] in values
                taken = [variable["current"]["value"]]
            else:
                taken = values
            extended += [{**chosen, variable["name"]: value} for value in taken]
        partial = extended
    yield from partial


# For each panel how many series each of its queries gives, in the order of its queries. `+`: as
# many or more. For words see counts().
SERIES: dict[str, dict[str, list[str]]] = {
    "host": {
        "How much would $policy save? (modelled)": ["1"],
        "What would it cost? (modelled)": ["1"],
        "Is it safe? Tasks too deep (measured)": ["1"],
        "So much: worth it? (modelled)": ["1"],
        "At that price? (modelled)": ["1"],
        "Safe enough? (modelled)": ["1"],
        "Saving (modelled)": ["1"],
        "Of all memory (modelled)": ["1"],
        "Stack faults a second (modelled)": ["1"],
        "A page fault may take more (measured)": ["0+"],  # none counted yet
        "Deepest stack (measured)": ["1"],
        "Coverage (measured)": ["1"],
        "Saving with the reserve (modelled)": ["1"],
        "A stack fault may take (modelled)": ["0+"],  # none yet
        "Least free memory (measured)": ["1"],
        "Free memory in reserves (modelled)": ["1"],
        "Memory in kernel stacks: measured, and modelled under $policy": ["1", "1", "1"],
        "Depth of living stacks (measured)": ["4"],
        "Stack faults a second under $policy (modelled)": ["1", "1", "1"],
        "Page faults a second (measured)": ["2"],
        "Tasks created a second (measured)": ["1", "1"],
        "Exits a second by final depth (measured)": ["4"],
        "Late growth a second by age (measured)": ["2+"],
        "Top cgroups: measured, and modelled under $policy": ["1+", "1+", "1+"],
        "The probe's CPU (measured)": ["1", "1"],
        "The probe's memory (measured)": ["1", "1"],
        "Time of a scan and a scrape (measured)": ["1", "1"],
        "Stacks read again in a scan (measured)": ["1", "1"],
        "What the probe could not count (measured)": ["3", "1", "1", "1"],
    },
    "fleet": {
        "How much would $policy save? (modelled)": ["1"],
        "What would it cost? (modelled)": ["1"],
        "Is it safe? Tasks too deep (measured)": ["1"],
        "So much: worth it? (modelled)": ["1"],
        "At that price? (modelled)": ["1"],
        "Safe enough? (modelled)": ["1"],
        "Hosts (measured)": ["1"],
        "Saving with the reserve (modelled)": ["1"],
        "Of all memory (modelled)": ["1"],
        "Stack faults a second (modelled)": ["1"],
        "Deepest stack (measured)": ["1"],
        "Least coverage (measured)": ["1"],
        "Deepest stacks (measured)": ["hosts"],
        "Most tasks too deep for $policy (measured)": ["hosts"],
        "Least covered (measured)": ["hosts"],
        "Most stack faults a second under $policy (modelled)": ["hosts"],
        "Least free memory (measured)": ["hosts"],
        "Slowest scans (measured)": ["hosts"],
        "By host: measured, and modelled under $policy": ["hosts"] * 9,
        "By CPU model: measured, and modelled under $policy": [
            *["cpu_models"] * 8,
            "3+",
            "cpu_models",
        ],
        "By kernel release: measured, and modelled under $policy": [
            *["kernel_releases"] * 8,
            "2+",
            "kernel_releases",
        ],
        "Memory of all stacks: measured, and modelled under $policy": ["1", "1", "1"],
        "Spread of the saving among hosts under $policy (modelled)": ["1", "1", "1"],
        "Saving by CPU model under $policy (modelled)": ["cpu_models"],
        "Saving by kernel release under $policy (modelled)": ["kernel_releases"],
        "Saving by host under $policy (modelled)": ["hosts"],
        "Probes that answer (measured)": ["1", "1"],
    },
    "cgroup": {
        "Whole stacks (measured)": ["1"],
        "Stacks (measured)": ["1"],
        "Saved under $policy (modelled)": ["1"],
        "Saving (modelled)": ["1"],
        "Memory in kernel stacks: measured, and modelled under each policy": ["1", "policies"],
        "Share of the host's stacks (measured)": ["1"],
    },
    "runbooks": {},
    "policies": {
        "Policies now: modelled, and measured where it says so": [
            *["policies"] * 5,
            "growing_policies",
            "policies",
            "growing_policies",
        ],
        "Saving with the reserve (modelled)": ["policies"],
        "Saving without the reserve (modelled)": ["policies"],
        "Memory held with the reserve: modelled, beside whole stacks as measured": [
            "policies",
            "1",
        ],
        "Reserve (modelled)": ["policies"],
        "Stack faults a second (modelled)": ["growing_policies"],
        "Net CPU cost (modelled)": ["policies"],
        "Least free memory in reserves (modelled)": ["growing_policies"],
        "Pages mapped in faults a second (modelled)": ["growing_policies"],
        "Pages that came with a cached stack, a second (modelled)": ["growing_policies"],
        "Living tasks too deep for the policy (measured marks)": ["policies"],
    },
}
# The kernel's own count is taken at another moment than the scan, so that a ratio to it can
# have any size while tasks are forked by the thousand, as other tests do.
UNSTEADY = ("coverage", "covered", "missed")


def counts(world: World) -> dict[str, int]:
    info = world.instant("dynstack_host_info")
    return {
        "hosts": len(world.hosts),
        "cpu_models": len({series["metric"]["cpu_model"] for series in info}),
        "kernel_releases": len({series["metric"]["kernel_release"] for series in info}),
        "policies": 2,
        "growing_policies": 1,
    }


def asked(
    world: World, expr: str, expected: int, *, instant: bool = True, or_more: bool = False
) -> list[list[float]]:
    """The values of so many series; asks again for a while, as a busy machine misses scrapes."""
    for _ in range(8):
        found = world.values(expr, instant=instant)
        if len(found) == expected or (or_more and len(found) > expected):
            return found
        time.sleep(STEP_SECONDS)
    pytest.fail(f"{len(found)} series, not {expected}: {expr}")


def assert_size(unit: str, values: list[float], about: str) -> None:
    """Whether they can be meant in that unit."""
    assert values, about
    for value in values:
        assert math.isfinite(value), about
        steady = not any(word in about.lower() for word in UNSTEADY)
        match unit:
            case "percentunit":
                # cheaper forks may save more CPU time than faults take
                net = "net_cost" in about
                assert value >= (-1 if net else 0), (about, value)
                assert value <= 1 or not steady, (about, value)
            case "bytes":
                assert 0 <= value < 1 << 44, (about, value)
            case "s":
                assert 0 <= value < 60, (about, value)
            case "cps":
                assert 0 <= value < 10_000_000, (about, value)
            case "locale":
                assert 0 <= value < 10_000_000, (about, value)
            case _:
                pytest.fail(f"unknown unit {unit}")


def test_the_list_has_every_panel() -> None:
    assert {
        name: [panel["title"] for panel in panels(dashboard)]
        for name, dashboard in DASHBOARDS.items()
    } == {name: list(titles) for name, titles in SERIES.items()}


PANELS = [
    pytest.param(name, panel, id=f"{name}-{panel['title']}")
    for name, dashboard in sorted(DASHBOARDS.items())
    for panel in panels(dashboard)
]


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_a_panel_has_data(world: World, name: str, panel: dict[str, Any]) -> None:
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    expected = SERIES[name][panel["title"]]
    for chosen in choices(world, name):
        for (target, series), count in zip(named(panel), expected, strict=True):
            expr = substituted(target["expr"], chosen)
            about = f"{panel['title']}, {series}: {expr}"
            number, or_more = count.rstrip("+"), count.endswith("+")
            wanted = int(number) if number.isdigit() else counts(world)[number]
            found = asked(world, expr, wanted, instant=target["instant"], or_more=or_more)
            unit = units.get(series, panel["fieldConfig"]["defaults"]["unit"])
            for values in found:
                assert_size(unit, values, about)


def test_fleet_and_hosts_agree_with_the_simulated_figures(world: World) -> None:
    """The RFC's table for a CPU model of which all figures are known."""
    genoa = [host for host in HOSTS.values() if host.cpu_model == "AMD Genoa"]
    base = sum(host.stacks for host in genoa) * 16384
    held = sum(host.held_pages()["rfc-v1"] for host in genoa) * 4096
    reserve = sum(3 * host.cpus for host in genoa) * 4096
    (table,) = [p for p in panels(DASHBOARDS["fleet"]) if p["title"].startswith("By CPU model")]
    chosen = {"job": ALL, "policy": "rfc-v1", "instance": ALL}
    row = {}
    for target, title in named(table):
        for series in world.instant(substituted(target["expr"], chosen)):
            if series["metric"] == {"cpu_model": "AMD Genoa"}:
                row[title] = float(series["value"][1])
    # of the few seconds that there are, which rate() spreads over five minutes
    assert 0 < row.pop("A kernel page fault may take more (measured)") < 1
    assert row == {
        "Hosts": 2,
        "CPUs": 768,
        "Stacks (measured)": sum(host.stacks for host in genoa),
        "Base (measured)": base,
        "Dynamic (modelled)": held,
        "Saving (modelled)": pytest.approx(1 - held / base),
        "Saving with reserve (modelled)": pytest.approx(1 - (held + reserve) / base),
        "Net CPU cost (modelled)": pytest.approx(0.0, abs=1e-6),
        "Least free memory (measured)": 3e9,
    }


RECORDING = [rule for rule in all_rules() if "record" in rule]
ALERTS = [rule for rule in all_rules() if "alert" in rule]


# Only one of the two policies grows on faults, and keeps a reserve for them.
OF_ONE_POLICY = {
    "instance_policy:dynstack_modelled_faults:rate5m",
    "instance_policy:dynstack_modelled_fault_break_even_seconds:ratio5m",
    "instance_policy:dynstack_modelled_reserve_headroom:ratio",
}


def series_at(world: World, level: str) -> int:
    """How many series a recording rule of that level gives."""
    sizes = counts(world)
    base, policies = level.removesuffix("_policy"), 2 if level.endswith("_policy") else 1
    groups = {
        "instance": sizes["hosts"],
        "instance_mode": 2 * sizes["hosts"],
        "job": 1,
        "job_cpu_model": sizes["cpu_models"],
        "job_kernel_release": sizes["kernel_releases"],
    }[base]
    # static-8k is set on every host, so each group has both policies
    return groups * policies


def unit_of(record: str) -> str:
    """The unit that a recording rule's name says."""
    _, metric, operation = record.split(":")
    if metric.endswith("_seconds"):
        return "s"
    if metric.endswith("_headroom"):
        return "locale"
    if metric.endswith("_bytes"):
        return "bytes"
    if operation in ("ratio", "min", "median", "max"):
        return "percentunit"
    return "percentunit" if operation == "ratio5m" else "locale"


# By level: the group of a simulated host, a pair of its name and itself.
SIMULATED_GROUP: dict[str, Callable[[tuple[str, SimulatedHost]], str]] = {
    "instance": lambda pair: pair[0],
    "instance_policy": lambda pair: pair[0],
    "job_cpu_model": lambda pair: pair[1].cpu_model,
    "job_cpu_model_policy": lambda pair: pair[1].cpu_model,
    "job_kernel_release": lambda pair: pair[1].kernel_release,
    "job_kernel_release_policy": lambda pair: pair[1].kernel_release,
}


@pytest.mark.parametrize("rule", RECORDING, ids=lambda rule: rule["record"])
def test_a_recording_rule_has_data(world: World, rule: dict[str, Any]) -> None:
    record = rule["record"]
    expected = series_at(world, record.partition(":")[0])
    if record in OF_ONE_POLICY:
        expected //= 2
    for expr in (record, rule["expr"]):
        if "break_even" in record:  # of this machine there may be no fault yet
            expected = len({SIMULATED_GROUP[record.partition(":")[0]](h) for h in HOSTS.items()})
        for values in asked(world, expr, expected, or_more="break_even" in record):
            if record != "instance:dynstack_missed_stacks:diff":  # below 0 as often as above
                assert_size(unit_of(record), values, record)


# The hosts that an alert's expression finds. Those it may also find: the machine under test.
FOUND = {
    "DynstackStackNearOverflow": {"deep"},
    "DynstackPolicyOverflowRisk": {"plain", "deep"},
    "DynstackFaultsRise": set(),  # needs half an hour: see the unit tests
    "DynstackProbeDown": {"gone"},
    "DynstackNoProbes": set(),
    "DynstackScanStale": {"stuck"},
    "DynstackCoverageLow": {"missing"},
    "DynstackEventsLost": {"losing"},
}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_finds_its_hosts(world: World, rule: dict[str, Any]) -> None:
    names = {address: name for name, address in world.addresses.items()}
    found = {names[series["metric"]["instance"]] for series in world.instant(rule["expr"])}
    assert found - {"real"} == FOUND[rule["alert"]]


def test_no_rule_had_an_error(world: World) -> None:
    groups = world.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(all_rules())
    for rule in rules:
        assert rule["health"] == "ok", rule
        assert not rule.get("lastError"), rule


def names_and_labels(page: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name = re.match(r"\w+", line)
            assert name
            found.setdefault(name[0], set()).update(re.findall(r'(\w+)="', line))
    return found


def test_simulated_hosts_speak_as_the_daemon_does(world: World) -> None:
    if "real" not in world.pages:
        pytest.skip(f"needs BPF: {why_no_bpf()}")
    real = names_and_labels(world.pages["real"])
    for name, labels in names_and_labels(world.pages["plain"]).items():
        assert name in real, name
        assert labels <= real[name], name


def test_a_host_has_at_most_200_series(world: World) -> None:
    for name in world.hosts:
        (series,) = world.instant(f'count({{instance="{world.addresses[name]}", job="dynstack"}})')
        # the host's own, what is recorded of it, and Prometheus' five of each target
        assert float(series["value"][1]) <= 200 + 20, name


def test_events_are_found(world: World) -> None:
    """Each host's boot, and no kernel that was new."""
    chosen = {"job": ALL, "instance": ALL}
    boots, changes = (
        substituted(one["expr"], chosen) for one in DASHBOARDS["fleet"]["annotations"]["list"]
    )
    found = {s["metric"]["instance"]: float(s["value"][1]) for s in world.instant(boots)}
    assert set(found) == {world.addresses[name] for name in world.hosts}
    for name in HOSTS:
        assert found[world.addresses[name]] == 1000 * (int(STARTED) - 3600)
    assert world.instant(changes) == []
