# SPDX-License-Identifier: GPL-2.0-or-later
"""A minute of tests/capture/fuzz.py, in a process of its own whose memory is watched.

DYNSTACK_FUZZ_SECONDS says how long, DYNSTACK_FUZZ_SEED with which seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests import ROOT
from tests.capture.fuzz import KINDS

SECONDS = float(os.environ.get("DYNSTACK_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("DYNSTACK_FUZZ_SEED") or time.time())


def test_no_mutation_breaks_a_promise(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.capture.fuzz", str(SECONDS), str(SEED), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = json.loads(result.stdout)
    assert told["failure"] is None, f"seed {SEED}, {told['input']}:\n{told['failure']}"
    # it must have tried, and not only have made files that are refused at their first line
    assert set(told["inputs"]) == set(KINDS)
    assert told["outcomes"]["read"] > sum(told["inputs"].values()) / 50
    assert told["outcomes"]["refused"] > sum(told["inputs"].values()) / 4
