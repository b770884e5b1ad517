# SPDX-License-Identifier: GPL-2.0-or-later
"""Each source file names its licence, and the tree holds the licence's text."""

from __future__ import annotations

import subprocess
import sys

from tests import ROOT


def test_every_source_file_has_an_spdx_line() -> None:
    script = ROOT / "packaging/spdx.py"
    result = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991" in text
    assert "END OF TERMS AND CONDITIONS" in text
