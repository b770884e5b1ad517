# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of this host that can be iterated more than once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynstack_probe.analysis.evidence import Frames
from dynstack_probe.capture import Capture, CaptureWriter
from dynstack_probe.ending import ended_by_signal
from dynstack_probe.measure.recording import record
from dynstack_probe.output.progress import progress


@contextlib.contextmanager
def watched(seconds: float, interval_seconds: float, btf: Path) -> Iterator[Frames]:
    """A series of this host, in a temporary capture."""
    with tempfile.TemporaryDirectory(prefix="dynstack-probe-") as folder:
        path = Path(folder) / "host.dsp"
        with (
            ended_by_signal() as stop,
            progress("watching", seconds) as show,
            CaptureWriter(path, scratch=True) as writer,
        ):
            for count, frame in enumerate(record(stop, seconds, interval_seconds, btf), 1):
                writer.add(frame)
                stop.worthwhile = True
                show(f"{count} frames, {len(frame.stacks)} stacks")
        yield Capture(path)
