# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's configuration file: TOML, strictly validated."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynstack_probe.errors import UsageError
from dynstack_probe.httpd.server import parse_address
from dynstack_probe.measure.lifecycle import PROVING_EXITS
from dynstack_probe.policy import BUILT_IN, Policy
from dynstack_probe.serve.options import Options

SCAN_CPU_RATIO = 0.0005
MIN_INTERVAL_SECONDS = 15.0
MAX_INTERVAL_SECONDS = 300.0


@dataclass(frozen=True)
class Config:
    """Settings of `serve`. Changing `listen` or `page_faults` needs a restart.

    interval_seconds None: adaptive, 15 to 300 s, to keep scans within SCAN_CPU_RATIO of one CPU.
    """

    listen: str = "127.0.0.1:10016"
    interval_seconds: float | None = None
    policies: tuple[str, ...] = ("rfc-v1",)
    top_cgroups: int = 20
    page_faults: bool = True
    proving_exits: int = PROVING_EXITS

    def scan_interval_seconds(self, scan_cpu_seconds: float) -> float:
        """The scan interval, given the CPU time of one scan."""
        if self.interval_seconds is not None:
            return self.interval_seconds
        within_budget = scan_cpu_seconds / SCAN_CPU_RATIO
        return min(max(MIN_INTERVAL_SECONDS, within_budget), MAX_INTERVAL_SECONDS)

    def chosen_policies(self) -> list[Policy]:
        return [BUILT_IN[name] for name in dict.fromkeys(self.policies)]


def configure(options: Options) -> Config:
    """The file's settings, overridden by the command line. Raises UsageError."""
    asked = {"listen": options.listen, "page_faults": options.page_faults}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    return replace(read_config(options.config_file), **given)


def read_config(path: Path | None) -> Config:
    """The file's settings, with defaults for missing keys.

    Raises UsageError, one line with file and key, if the file is invalid.
    """
    if path is None:
        return Config()
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    for key, value in table.items():
        problem = _problem(key, value)
        if problem:
            raise UsageError(f"{path}: {key}: {problem}")
    if "policies" in table:
        table["policies"] = tuple(table["policies"])
    return Config(**table)


def _problem(key: str, value: Any) -> str | None:
    if key == "listen":
        if not isinstance(value, str):
            return "must be a string, HOST:PORT"
        parse_address(value)
        return None
    if key == "interval_seconds":
        good = isinstance(value, int | float) and not isinstance(value, bool)
        return None if good and 1 <= value <= 3600 else "must be a number from 1 to 3600"
    if key == "policies":
        if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            return "must be a list of names"
        served = [name for name, policy in BUILT_IN.items() if policy.marks_suffice]
        unknown = [name for name in value if name not in served]
        if not unknown:
            return None
        if unknown[0] in BUILT_IN:
            return f"{unknown[0]} needs each task's current depth: use `record` or `policies`"
        return f"unknown policy {unknown[0]!r}: {', '.join(served)}"
    if key == "top_cgroups":
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1000
        return None if good else "must be an integer from 0 to 1000"
    if key == "page_faults":
        return None if isinstance(value, bool) else "must be true or false"
    if key == "proving_exits":
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32
        return None if good else "must be an integer from 0 (never trust windows) to 4294967295"
    known = ", ".join(Config.__dataclass_fields__)
    return f"unknown key; valid keys: {known}"
