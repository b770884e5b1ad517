# SPDX-License-Identifier: GPL-2.0-or-later
"""The committed dashboards: what the SDK makes of the code, and what Grafana asks of them."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.generate.panels import (
    BAD,
    BAD_PANEL,
    DOUBTFUL,
    DOUBTFUL_PANEL,
    GOOD,
    GOOD_PANEL,
    HOW_MUCH,
    HOW_SAFE,
    WHAT_PRICE,
    Query,
    Text,
    Verdict,
    verdict,
)
from tests import ROOT
from tests.contrast import contrast
from tests.grafana.colours import THEMES, as_rgb, text_on

FOLDER = ROOT / "grafana/dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
EXPECTED = {"host", "fleet", "cgroup", "policies", "runbooks"}
CHOICES: dict[str, list[str]] = {"runbooks": []}  # all others let one choose
# Those used here of Grafana's core; everything else would be a plugin to install.
CORE_PANELS = {"row", "stat", "gauge", "bargauge", "timeseries", "heatmap", "table", "text"}
CORE_TRANSFORMATIONS = {"merge", "organize"}
# Grafana's ids of what STYLE calls ratio, bytes, seconds, count, per second
UNITS = {"percentunit", "bytes", "s", "locale", "cps"}
GRAFANAS_OWN = {"__rate_interval", "__value", "__data", "__all", "__field", "__url_time_range"}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show figures."""
    return [panel for panel in dashboard["panels"] if panel["type"] not in ("row", "text")]


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
    variables = [variable["name"] for variable in DASHBOARDS[name]["templating"].get("list", [])]
    more = ["cgroup"] if name == "cgroup" else []
    assert sorted(variables) == CHOICES.get(
        name, sorted([*more, "datasource", "instance", "job", "policy"])
    )
    text = json.dumps(panels(DASHBOARDS[name]))
    used = set(re.findall(r"\$\{?(\w+)", text)) - GRAFANAS_OWN
    assert used == set(variables)
    # each asks only for what was chosen above it
    known: set[str] = set()
    for variable in DASHBOARDS[name]["templating"].get("list", []):
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


ANSWERS = [name for name in sorted(EXPECTED) if name in ("host", "fleet")]


@pytest.mark.parametrize("name", ANSWERS)
def test_the_first_screen_answers_three_questions(name: str) -> None:
    """Each with one number, a sentence below it, and both with colours that mean something."""
    shown = panels(DASHBOARDS[name])
    numbers, verdicts, details = shown[:3], shown[3:6], shown[6:12]
    for question, number, sentence in zip(
        ("How much", "What would it cost", "Is it safe"), numbers, verdicts, strict=True
    ):
        assert number["title"].startswith(question)
        assert number["type"] == sentence["type"] == "stat"
        assert number["gridPos"]["x"] == sentence["gridPos"]["x"]
        assert number["gridPos"]["y"] < sentence["gridPos"]["y"]
        assert len(number["targets"]) == len(sentence["targets"]) == 1
        for mapping in sentence["fieldConfig"]["defaults"]["mappings"]:
            assert mapping["options"]["result"]["text"].endswith(".")
            ground = mapping["options"]["result"]["color"]
            assert ground in (GOOD_PANEL, DOUBTFUL_PANEL, BAD_PANEL)
    for number in numbers[1:]:
        assert len(number["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1
    # Grafana draws a row of the grid 38 px high, and has about 150 px of its own above
    lowest = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in (*numbers, *verdicts))
    assert 150 + 38 * lowest < 700
    titles = " ".join(one["title"] for one in details)
    for detail in ("faults a second", "eepest", "overage"):
        assert detail in titles


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", [GOOD_PANEL, DOUBTFUL_PANEL, BAD_PANEL])
def test_sentences_can_be_read_in_both_themes(ground: str, theme: str) -> None:
    colour = THEMES[theme].get(ground, ground)
    assert contrast(as_rgb(text_on(colour)), as_rgb(colour)) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("colour", [GOOD, DOUBTFUL, BAD])
def test_coloured_figures_can_be_read_in_both_themes(colour: str, theme: str) -> None:
    """As large text: of Grafana's colours between green and red, none does better in both."""
    colours = THEMES[theme]
    assert contrast(as_rgb(colours[colour]), as_rgb(colours["panel"])) >= 3


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_figures_have_only_colours_that_can_be_read(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        config = panel.get("fieldConfig", {})
        properties = [p for one in config.get("overrides", []) for p in one["properties"]]
        found = [p["value"] for p in properties if p["id"] == "thresholds"]
        found.append(config.get("defaults", {}).get("thresholds") or {"steps": []})
        used = {step["color"] for one in found for step in one["steps"]}
        assert used <= {GOOD, DOUBTFUL, BAD}, panel["title"]


def mapped(verdicts: Sequence[Verdict], value: float) -> str:
    """As Grafana maps it: the first range that holds the value, both ends included."""
    built = verdict(Text("", ""), Query(""), verdicts).build()
    panel = json.loads(json.dumps(built, cls=JSONEncoder))
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        options = mapping["options"]
        if options["from"] <= value <= options["to"]:
            return str(options["result"]["text"])
    return ""


@pytest.mark.parametrize(
    ("verdicts", "value", "said"),
    [
        (HOW_MUCH, -0.2, "It would cost memory"),
        (HOW_MUCH, 0.0, "Hardly worth it"),
        (HOW_MUCH, 0.0009, "Hardly worth it"),
        (HOW_MUCH, 0.001, "Worth it where memory is short"),
        (HOW_MUCH, 0.5, "Worth it: over 1%"),
        (WHAT_PRICE, -3e-6, "None: cheaper forks save"),
        (WHAT_PRICE, 2e-6, "Nobody would notice"),
        (WHAT_PRICE, 0.005, "To be weighed"),
        (WHAT_PRICE, 0.3, "Expensive"),
        (HOW_SAFE, 0, "Nothing speaks against it"),
        (HOW_SAFE, 1, "Free memory is short"),
        (HOW_SAFE, 2, "A task has used over 90%"),
        (HOW_SAFE, 3, "A task has used over 90%"),
        *((HOW_SAFE, score, "Rule it out") for score in (4, 5, 6, 7)),
    ],
)
def test_verdicts(verdicts: Sequence[Verdict], value: float, said: str) -> None:
    assert mapped(verdicts, value).startswith(said)


@pytest.mark.parametrize("name", sorted(EXPECTED - {"runbooks"}))
def test_reboots_and_kernel_changes_are_marked(name: str) -> None:
    annotations = DASHBOARDS[name]["annotations"]["list"]
    assert [one["name"] for one in annotations] == ["Reboots", "Kernel changes"]
    assert all(one["enable"] and "{{kernel_release}}" in one["textFormat"] for one in annotations)
    assert annotations[0]["useValueForTime"]


def test_each_level_leads_to_the_next() -> None:
    def links(name: str) -> set[str]:
        return set(re.findall(r"/d/([\w-]+)", json.dumps(DASHBOARDS[name])))

    assert links("fleet") == {"dynstack-host"}
    assert links("host") == {"dynstack-cgroup"}
    bars = [panel for panel in panels(DASHBOARDS["fleet"]) if panel["type"] == "bargauge"]
    assert len(bars) >= 5
    for bar in bars:
        (link,) = bar["fieldConfig"]["defaults"]["links"]
        for kept in ("datasource", "policy", "__url_time_range", "__field.labels.job"):
            assert kept in link["url"]


def test_too_deep_is_red_wherever_it_stands() -> None:
    found = 0
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            config = panel["fieldConfig"]
            if panel["type"] == "timeseries":
                continue
            steps = [
                prop["value"]["steps"]
                for override in config["overrides"]
                for prop in override["properties"]
                if "too deep" in override["matcher"]["options"] and prop["id"] == "thresholds"
            ]
            if "too deep" in panel["title"]:
                steps.append(config["defaults"]["thresholds"]["steps"])
            for one in steps:
                assert [(step["value"], step["color"]) for step in one] == [
                    (None, GOOD), (1, BAD),
                ]  # fmt: skip
                found += 1
    assert found == 5  # numbers of Host and Fleet, a ranking, two tables


def test_runbooks_are_readmes_sections() -> None:
    shown = {p["title"]: p for p in DASHBOARDS["runbooks"]["panels"] if p["type"] == "text"}
    alerts = yaml.safe_load((ROOT / "grafana/rules/dynstack-alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert set(shown) == {rule["alert"] for rule in rules}
    readme = (ROOT / "grafana/README.md").read_text()
    for panel in shown.values():
        assert panel["options"]["content"] in readme


def in_one_line(value: Any) -> Any:
    """Jsonnet folds indented lines of YAML where others keep them."""
    if isinstance(value, dict):
        return {key: in_one_line(one) for key, one in value.items()}
    if isinstance(value, list):
        return [in_one_line(one) for one in value]
    return " ".join(value.split()) if isinstance(value, str) else value


@pytest.mark.skipif(shutil.which("jsonnet") is None, reason="not installed: jsonnet (Debian's)")
def test_the_mixin_is_one_set() -> None:
    """What jsonnet makes of it is what is committed, with one's own Grafana in the links."""
    program = (
        "local m = (import 'mixin.libsonnet') + {_config+:: {grafanaURL: 'https://g.example'}};"
        "{dashboards: m.grafanaDashboards, rules: m.prometheusRules, alerts: m.prometheusAlerts}"
    )
    made = json.loads(
        subprocess.run(
            ["jsonnet", "-e", program],
            cwd=ROOT / "grafana", check=True, capture_output=True, text=True, timeout=60,
        ).stdout
    )  # fmt: skip
    assert made["dashboards"] == {f"dynstack-{name}.json": d for name, d in DASHBOARDS.items()}
    folder = ROOT / "grafana/rules"
    recording = yaml.safe_load((folder / "dynstack-recording.yml").read_text())
    assert in_one_line(made["rules"]) == in_one_line(recording)
    alerts = (folder / "dynstack-alerts.yml").read_text()
    own = alerts.replace("http://127.0.0.1:3000", "https://g.example")
    assert in_one_line(made["alerts"]) == in_one_line(yaml.safe_load(own))
    assert "127.0.0.1" not in json.dumps(made["alerts"])
