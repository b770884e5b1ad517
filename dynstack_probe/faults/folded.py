# SPDX-License-Identifier: GPL-2.0-or-later
"""Call paths as folded stacks, which every flame-graph tool reads.

One line a path: the task's name, the system call, the functions from the outermost in,
joined by semicolons; then a space and the number of samples.
"""

from __future__ import annotations

from dynstack_probe.measure.call_paths import CallPaths, PathTally
from dynstack_probe.text import printable


def frame_names(path: PathTally) -> list[str]:
    """What one path's line is made of: names that end neither a frame nor the line."""
    sample = path.deepest
    names: list[str | bytes] = [sample.comm, sample.call, *sample.functions]
    return [printable(name).replace(";", ":") for name in names]


def render(paths: CallPaths) -> str:
    """All paths in the order of their names. Empty if there are none."""
    lines = sorted(f"{';'.join(frame_names(path))} {path.samples}" for path in paths.paths.values())
    return "".join(f"{line}\n" for line in lines)
