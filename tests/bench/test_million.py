# SPDX-License-Identifier: GPL-2.0-or-later
"""That the bench of a million tasks works, on a few: nothing else runs it."""

from __future__ import annotations

from pathlib import Path

from dynstack_probe.capture import CaptureWriter
from tests.bench.million import made_up, measured


def test_a_made_up_host_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "few.dsp"
    with CaptureWriter(path) as writer:
        writer.add(made_up(2003))
    told = measured(path)
    assert told["stacks"] == 2003
    assert 1 < told["shapes"] < 2003
    assert 0 < told["start"] < told["total"]
