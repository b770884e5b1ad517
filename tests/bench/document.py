# SPDX-License-Identifier: GPL-2.0-or-later
"""Where benchmarks write their figures: between two markers of docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def publish(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the part of that name, and print it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path} has no part between {begin} and {end}")
    text = "\n".join(lines)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    print(text)
