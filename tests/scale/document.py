# SPDX-License-Identifier: GPL-2.0-or-later
"""The configurations that docs/scale.md recommends, so that tests can try them."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests import ROOT


def yaml_blocks() -> list[dict[str, Any]]:
    """Each YAML block of the document."""
    text = (ROOT / "docs" / "scale.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
