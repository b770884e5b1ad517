# SPDX-License-Identifier: GPL-2.0-or-later
"""What the landing page says, of scans made by hand."""

from __future__ import annotations

import dataclasses

import pytest

from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Coverage
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.serve.collector import Scan, ScanCounter
from dynstack_probe.serve.landing import landing_facts
from tests.factory import COSTS
from tests.serve.test_collector import a_sample

POLICY = BUILT_IN["rfc-v1"]


def scans(*, calibration: Calibration | None = COSTS.calibration) -> tuple[Scan, Scan]:
    """100 s apart, meanwhile 1000 tasks were created, 50 exited with two pages."""
    counter = ScanCounter()
    one = a_sample({(1, 1): 90, (2, 1): 10})
    other = a_sample({(1, 1): 85, (2, 1): 15}, {(2, 1): 50})
    lifecycle = dataclasses.replace(other.lifecycle, created=1007)
    later = dataclasses.replace(other, lifecycle=lifecycle, taken_at=101.0)
    return counter.add(one, [POLICY], calibration), counter.add(later, [POLICY], calibration)


def told(first: Scan, newest: Scan) -> dict[str, str]:
    return dict(landing_facts(first, newest, POLICY, COSTS.headroom, now=105.0))


def test_the_three_questions_are_answered_with_coverage_and_the_probes_own_cost() -> None:
    first, newest = scans()
    facts = told(first, newest)
    assert list(facts) == [
        "Host", "How much", "At what price", "How safe", "Coverage", "The probe",
    ]  # fmt: skip
    # 85 stacks of one page and 15 of two; two CPUs keep three pages each
    assert "460 KiB would be left, and 24 KiB of reserve" in facts["How much"]
    assert facts["How much"].startswith(f"{1 - 484 / 1600:.2%} saved under rfc-v1, modelled")
    assert f"the RFC counts, {1 - 460 / 1600:.2%}" in facts["How much"]
    assert "99.01%: 100 of 101 stacks" in facts["Coverage"]
    assert "took 1.0 ms, 4 s ago" in facts["The probe"]


def test_the_price_is_that_of_what_came_since_the_first_scan() -> None:
    first, newest = scans()
    spent = newest.cpu_seconds["rfc-v1"][0] - first.cpu_seconds["rfc-v1"][0]
    spared = newest.cpu_seconds["rfc-v1"][1] - first.cpu_seconds["rfc-v1"][1]
    assert 0 < spent < newest.cpu_seconds["rfc-v1"][0]
    assert spared > spent
    price = told(first, newest)["At what price"]
    net = 100 * (spent - spared) / (2 * 100.0)
    assert float(price.partition("%")[0]) == pytest.approx(net, rel=0.05)
    assert price.endswith("It saves time too.")


def test_no_price_before_there_is_one() -> None:
    first, newest = scans()
    assert told(first, first)["At what price"] == "Known after a few more scans."
    first, newest = scans(calibration=None)
    assert told(first, newest)["At what price"] == "Unknown: not calibrated."


def test_coverage_is_no_more_than_all() -> None:
    first, newest = scans()
    ahead = dataclasses.replace(newest.sample, coverage=Coverage(103, 0, 101, 1600, False))
    facts = told(first, dataclasses.replace(newest, sample=ahead))
    assert facts["Coverage"].startswith("100.00%: 103 of 101")
