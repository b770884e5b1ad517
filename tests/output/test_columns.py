# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a column holds wherever a column of that name is declared."""

from __future__ import annotations

import gc
from typing import Any

import dynstack_probe.faults.report
import dynstack_probe.fleet.table
import dynstack_probe.output.cost
import dynstack_probe.output.estimate
import dynstack_probe.output.policies  # noqa: F401
from dynstack_probe.output.columns import Column


def declared() -> list[Column[Any]]:
    """Of the modules imported here."""
    return [one for one in gc.get_objects() if isinstance(one, Column)]


def test_measured_and_modelled_never_share_a_name() -> None:
    modelled = {one.key for one in declared() if one.modelled}
    measured = {one.key for one in declared() if not one.modelled}
    assert {"saving_ratio", "dynamic_kib", "net_cpu_ratio"} <= modelled
    assert {"stacks", "base_kib", "worst_mark_bytes"} <= measured
    assert modelled & measured == set()
