# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by writer and reader: names and limits of a capture's lines."""

from __future__ import annotations

FORMAT = "dynstack-capture"
VERSION = 1

# A line holds at most this many values of a column: what a cut may cost.
CHUNK = 4096

# No line is longer, bytes: it is parsed as a whole.
LONGEST_LINE = 1 << 20

# The kernel's own bound for tasks (PID_MAX_LIMIT, linux/threads.h), and idle tasks.
MOST_STACKS = (1 << 22) + (1 << 16)

# Samples of headroom in one snapshot.
MOST_SAMPLES = 4096

# Column, code of the array module, and the largest value that makes sense.
COLUMNS: dict[str, tuple[str, int]] = {
    "mark_bytes": ("I", 1 << 16),
    "touched_pages": ("H", (1 << 16) - 1),
    "resident_pages": ("H", (1 << 16) - 1),
    "depth_bytes": ("I", 1 << 16),
    "kinds": ("B", 3),
    "comms": ("I", (1 << 32) - 1),  # which of the snapshot's names
    "tids": ("I", (1 << 32) - 1),
    "tgids": ("I", (1 << 32) - 1),
    "cgroups": ("I", (1 << 32) - 1),  # which of the snapshot's cgroups
    "switches": ("Q", (1 << 64) - 1),
    "start_boot_ns": ("Q", (1 << 64) - 1),
    "asleep_seconds": ("I", (1 << 32) - 1),
}
