# SPDX-License-Identifier: GPL-2.0-or-later
"""The committed dashboards: what the SDK makes of the code, and what Grafana asks of them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT

FOLDER = ROOT / "grafana/dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
EXPECTED = {"host", "fleet", "policies"}
# Those used here of Grafana's core; everything else would be a plugin to install.
CORE_PANELS = {"row", "stat", "gauge", "bargauge", "timeseries", "heatmap", "table"}
CORE_TRANSFORMATIONS = {"merge", "organize"}
# Grafana's ids of what STYLE calls ratio, bytes, seconds, count, per second
UNITS = {"percentunit", "bytes", "s", "locale", "cps"}
GRAFANAS_OWN = {"__rate_interval", "__value", "__data", "__all"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, dashboard in sorted(DASHBOARDS.items())
    for panel in panels(dashboard)
]


def test_regenerating_makes_no_difference(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "grafana.generate", str(tmp_path)], cwd=ROOT, check=True, timeout=60
    )
    fresh = {path.stem: path.read_text() for path in tmp_path.glob("*.json")}
    assert set(fresh) == set(DASHBOARDS) == EXPECTED
    for name, text in fresh.items():
        assert (FOLDER / f"{name}.json").read_text() == text, f"{name}: run `make dashboards`"


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_sdk_reads_what_it_wrote(name: str) -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read = Dashboard.from_json(DASHBOARDS[name])
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == DASHBOARDS[name]


def test_ids_are_unique() -> None:
    uids = [dashboard["uid"] for dashboard in DASHBOARDS.values()]
    assert len(set(uids)) == len(uids)
    for dashboard in DASHBOARDS.values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in dashboard["panels"]]
        assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_panels_do_not_overlap(name: str) -> None:
    places = [panel["gridPos"] for panel in DASHBOARDS[name]["panels"]]
    for place in places:
        assert place["w"] > 0
        assert place["h"] > 0
        assert 0 <= place["x"] <= 24 - place["w"]
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (a, b)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_is_whole(panel: dict[str, Any]) -> None:
    assert panel["type"] in CORE_PANELS
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert "\n" not in panel["description"]
    assert 20 < len(panel["description"]) < 200
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
    letters = [target["refId"] for target in panel["targets"]]
    assert len(set(letters)) == len(letters)
    for transformation in panel.get("transformations", []):
        assert transformation["id"] in CORE_TRANSFORMATIONS


@pytest.mark.parametrize("panel", PANELS)
def test_measured_and_modelled_are_never_mixed_up(panel: dict[str, Any]) -> None:
    """What asks a model says so in its own name or its panel's; the rest is called measured."""
    title = panel["title"].lower()
    assert "measured" in title or "modelled" in title
    for target, name in named(panel):
        told = name.lower() if "measured" in title and "modelled" in title else f"{title} {name}"
        if asks_a_model(target["expr"]):
            assert "modelled" in told, name
        else:
            assert "measured" in told or name in ("Hosts", "CPUs"), name


def asks_a_model(expr: str) -> bool:
    """Whether a model has a part in it; whose stack is too deep is measured against a limit."""
    rest = expr.replace("dynstack_policy_over_limit_tasks", "")
    return "_policy_" in rest or "modelled" in rest


def named(panel: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """A panel's targets with the names of their series."""
    if panel["type"] != "table":
        return [(target, target["legendFormat"]) for target in panel["targets"]]
    organize = panel["transformations"][-1]["options"]["renameByName"]
    return [(target, organize[f"Value #{target['refId']}"]) for target in panel["targets"]]


@pytest.mark.parametrize("panel", [p for p in PANELS if p.values[0]["type"] == "table"])  # type: ignore[index]
def test_a_tables_columns_have_units_of_their_own(panel: dict[str, Any]) -> None:
    titles = {name for _, name in named(panel)}
    units = {
        override["matcher"]["options"]: prop["value"]
        for override in panel["fieldConfig"]["overrides"]
        for prop in override["properties"]
        if prop["id"] == "unit"
    }
    assert set(units) == titles
    assert set(units.values()) <= UNITS
    assert panel["options"]["sortBy"][0]["displayName"] in titles
    assert all(target["instant"] and target["format"] == "table" for target in panel["targets"])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_variables_exist_and_are_used(name: str) -> None:
    variables = [variable["name"] for variable in DASHBOARDS[name]["templating"]["list"]]
    assert sorted(variables) == ["datasource", "instance", "job", "policy"]
    text = json.dumps(DASHBOARDS[name]["panels"])
    used = set(re.findall(r"\$\{?(\w+)", text)) - GRAFANAS_OWN
    assert used == set(variables)
    # each asks only for what was chosen above it
    known: set[str] = set()
    for variable in DASHBOARDS[name]["templating"]["list"]:
        asked = set(re.findall(r"\$\{?(\w+)", json.dumps(variable))) - GRAFANAS_OWN
        assert asked <= known
        known.add(variable["name"])


def test_dashboards_lead_to_dashboards_that_exist() -> None:
    uids = {dashboard["uid"] for dashboard in DASHBOARDS.values()}
    for dashboard in DASHBOARDS.values():
        assert dashboard["links"][0]["tags"] == dashboard["tags"] == ["dynstack"]
        assert set(re.findall(r"/d/([\w-]+)", json.dumps(dashboard))) <= uids


def test_provisioning_and_compose_name_what_is_there() -> None:
    grafana = ROOT / "grafana"
    compose = yaml.safe_load((grafana / "compose.yml").read_text())
    mounts = {}
    for name, service in compose["services"].items():
        image, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), image
        assert service["network_mode"] == "host"
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (grafana / source).exists(), source
                mounts[name, target] = grafana / source
            else:
                assert source in compose["volumes"]
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    listen = "--web.listen-address=127.0.0.1:9090"
    assert listen in compose["services"]["prometheus"]["command"]

    (provider,) = yaml.safe_load((grafana / "provisioning/dashboards/dynstack.yml").read_text())[
        "providers"
    ]
    assert mounts["grafana", provider["options"]["path"]].resolve() == FOLDER
    (source,) = yaml.safe_load((grafana / "provisioning/datasources/dynstack.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
    config = yaml.safe_load((grafana / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    for pattern in config["rule_files"]:
        assert list(grafana.glob(pattern))
    assert mounts["prometheus", "/etc/prometheus/rules"].resolve() == grafana / "rules"
