# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that some tests run and that not every machine has."""

from __future__ import annotations

import shutil

import pytest


def needs(tool: str, package: str) -> pytest.MarkDecorator:
    """Skip, saying what to install, where `tool` is missing."""
    missing = shutil.which(tool) is None
    return pytest.mark.skipif(missing, reason=f"needs {tool}: apt install {package}")
