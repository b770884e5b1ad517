# SPDX-License-Identifier: GPL-2.0-or-later
"""A custom policy: a model and its parameters, from a TOML file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from dynstack_probe.policy.base import MODELS, Policy


def policy_from(table: Mapping[str, Any]) -> Policy:
    """The policy that `name`, `model` and the model's parameters describe.

    Raises ValueError naming the key that is wrong.
    """
    model = table.get("model")
    if not isinstance(model, str) or model not in MODELS:
        raise ValueError(f"model: must be one of {', '.join(MODELS)}")
    name = table.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,40}", name):
        raise ValueError("name: must be 1 to 40 letters, digits, dots or dashes")
    values: dict[str, Any] = {"name": name, "summary": _summary(table)}
    parameters = {f.name: f for f in dataclasses.fields(MODELS[model])}
    for key, value in table.items():
        if key in ("model", "name", "summary"):
            continue
        if key not in parameters:
            known = ", ".join(p for p in parameters if p not in values) or "no parameters"
            raise ValueError(f"{key}: {model} has {known}")
        values[key] = _checked(key, value, parameters[key].metadata)
    for key, parameter in parameters.items():
        if key not in values and parameter.default is dataclasses.MISSING:
            raise ValueError(f"{key}: is missing")
    return MODELS[model](**values)


def _summary(table: Mapping[str, Any]) -> str:
    summary = table.get("summary", "one's own")
    if not isinstance(summary, str) or len(summary) > 200:
        raise ValueError("summary: must be a line of at most 200 characters")
    return summary


def _checked(key: str, value: Any, bounds: Mapping[str, int]) -> int:
    least, most = bounds["least"], bounds["most"]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{key}: must be a whole number from {least} to {most}")
    if key == "thread_kib" and value % 4:
        raise ValueError("thread_kib: must be a multiple of 4")
    return value
