# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor's findings, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dynstack_probe.model.check import Check
from dynstack_probe.text import printable

WIDTH = 80


def document(
    checks: Sequence[Check], exit_code: int, commands: Mapping[str, int]
) -> dict[str, Any]:
    """The same as plain dictionaries; `commands` are what each would end with."""
    return {
        "schema_version": 1,
        "measurable": exit_code == 0,
        "exit_code": exit_code,
        "commands": dict(commands),
        "checks": [
            {
                "name": check.name,
                "status": check.status.value,
                "found": check.found,
                "hint": check.hint,
                "mend": check.hint,  # its name before 0.2
            }
            for check in checks
        ],
    }


def render(checks: Sequence[Check]) -> str:
    """One check a line, wrapped at 80 columns, each hint below its finding."""
    name_width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lead = f"{check.status.value:<8}{check.name:<{name_width}}  "
        indent = " " * len(lead)
        lines += textwrap.wrap(lead + printable(check.found), WIDTH, subsequent_indent=indent)
        if check.hint:
            lines += textwrap.wrap(
                f"hint: {check.hint}", WIDTH, initial_indent=indent, subsequent_indent=indent
            )
    return "\n".join(lines)
