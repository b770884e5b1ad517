# SPDX-License-Identifier: GPL-2.0-or-later
"""What to do about each alert: the sections of grafana/README.md, where alerts lead to."""

from __future__ import annotations

import re
from pathlib import Path

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.generate.panels import assembled, prose

README = Path(__file__).parent.parent / "README.md"
UID = "dynstack-runbooks"


def sections() -> dict[str, str]:
    """What README says of each alert, by its name."""
    found = {}
    for part in re.split(r"^### ", README.read_text(), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        if re.fullmatch(r"Dynstack\w+", name):
            found[name] = re.split(r"^## ", rest, flags=re.MULTILINE)[0].strip()
    return found


def runbooks() -> Dashboard:
    """The dashboard: a panel an alert, in README's order, whose ids alerts have in their links."""
    return assembled(
        UID,
        "Dynamic kernel stacks: Runbooks",
        "What each alert means, and what to do.",
        "6h",
        [],
        {"Alerts": [prose(name, text) for name, text in sections().items()]},
    )
