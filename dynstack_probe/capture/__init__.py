# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames in a file: the seam between measuring and all that follows.

docs/capture-format.md describes the file, docs/capture.schema.json each of its lines.
"""

from __future__ import annotations

from dynstack_probe.capture.reader import Capture, read_frames
from dynstack_probe.capture.writer import CaptureWriter

__all__ = ["Capture", "CaptureWriter", "read_frames"]
