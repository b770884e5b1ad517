# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules, by Prometheus' own checker and unit tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT

RULES = sorted((ROOT / "grafana/rules").glob("*.yml"))
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="not installed: promtool (Debian's prometheus)"
)


def all_rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def promtool(*arguments: str | Path) -> None:
    result = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_rules_are_clean() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)


@needs_promtool
def test_the_configuration_is_clean_and_finds_the_rules() -> None:
    promtool("check", "config", ROOT / "grafana/prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_unit_tests(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_rule_has_a_unit_test() -> None:
    tested: set[str] = set()
    fired: set[str] = set()
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            tested |= {t["expr"] for t in test.get("promql_expr_test", []) if t["exp_samples"]}
            fired |= {t["alertname"] for t in test.get("alert_rule_test", []) if t["exp_alerts"]}
    assert {rule["record"] for rule in all_rules() if "record" in rule} == tested
    assert {rule["alert"] for rule in all_rules() if "alert" in rule} == fired


def test_names_say_the_level_and_whether_it_is_modelled() -> None:
    for rule in all_rules():
        if "record" not in rule:
            continue
        level, metric, operation = rule["record"].split(":")
        assert level.startswith(("job", "instance")), rule["record"]
        assert metric.startswith("dynstack_"), rule["record"]
        assert operation, rule["record"]
        asks_a_model = "dynstack_policy_" in rule["expr"] or "_modelled_" in rule["expr"]
        assert metric.startswith("dynstack_modelled_") == asks_a_model, rule["record"]


@pytest.mark.parametrize(
    "rule", [rule for rule in all_rules() if "alert" in rule], ids=lambda rule: rule["alert"]
)
def test_an_alert_can_be_acted_upon(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(rule["annotations"]["summary"]) < 120
    url = urllib.parse.urlsplit(rule["annotations"]["runbook_url"])
    compose = yaml.safe_load((ROOT / "grafana/compose.yml").read_text())
    assert url.netloc == compose["services"]["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] + (
        ":3000"
    )
    runbooks = json.loads((ROOT / "grafana/dashboards/runbooks.json").read_text())
    assert url.path == f"/d/{runbooks['uid']}"
    (panel,) = urllib.parse.parse_qs(url.query)["viewPanel"]
    titles = {str(one["id"]): one["title"] for one in runbooks["panels"]}
    assert titles[panel] == rule["alert"]


@needs_promtool
def test_a_kernel_change_is_marked_when_it_comes(tmp_path: Path) -> None:
    """A host with another kernel after ten minutes down; one that stays, one that is new."""
    fleet = json.loads((ROOT / "grafana/dashboards/fleet.json").read_text())
    (expr,) = [
        one["expr"] for one in fleet["annotations"]["list"] if one["name"] == "Kernel changes"
    ]
    for variable in ("$job", "$instance"):
        expr = expr.replace(variable, ".+")
    rule = {"groups": [{"name": "g", "rules": [{"record": "changed", "expr": expr}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule))

    def info(host: str, release: str, values: str) -> dict[str, str]:
        labels = f'job="dynstack", instance="{host}", kernel_release="{release}"'
        return {"series": f"dynstack_host_info{{{labels}}}", "values": values}

    def expected(at: str, *found: str) -> dict[str, Any]:
        samples = [
            {
                "labels": f'changed{{job="dynstack", instance="{host}", kernel_release="6.18"}}',
                "value": 1,
            }
            for host in found
        ]
        return {"expr": "changed", "eval_time": at, "exp_samples": samples}

    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    info("changed", "6.12", "1x30 stale"),
                    info("changed", "6.18", "_x40 1x60"),
                    info("same", "6.12", "1x100"),
                    info("new", "6.18", "_x40 1x60"),
                ],
                "promql_expr_test": [
                    expected("29m"),
                    expected("35m"),
                    expected("41m", "changed"),
                    expected("50m"),
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "test.yml")
