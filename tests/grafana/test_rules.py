# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules, by Prometheus' own checker and unit tests."""

from __future__ import annotations

import shutil
import subprocess
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
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert len(rule["annotations"]["summary"]) < 120
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = {
        line.strip("# ").lower()
        for line in (ROOT / page).read_text().splitlines()
        if line.startswith("#")
    }
    assert anchor == rule["alert"].lower()
    assert anchor in headings
