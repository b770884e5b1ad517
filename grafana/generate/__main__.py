# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m grafana.generate [FOLDER]` writes the dashboards' JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.generate.cgroup import cgroup
from grafana.generate.fleet import fleet
from grafana.generate.host import host
from grafana.generate.policies import policies
from grafana.generate.runbooks import runbooks

DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "host": host,
    "fleet": fleet,
    "cgroup": cgroup,
    "policies": policies,
    "runbooks": runbooks,
}
FOLDER = Path(__file__).parent.parent / "dashboards"


def rendered(dashboard: Dashboard) -> str:
    """A dashboard as Grafana's JSON, the same bytes each time."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(folder: Path = FOLDER) -> None:
    """Write one file a dashboard."""
    for name, build in DASHBOARDS.items():
        (folder / f"{name}.json").write_text(rendered(build()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
