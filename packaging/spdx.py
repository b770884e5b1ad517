# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts an SPDX line at the head of each source file that has none: packaging/spdx.py [--check]."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LINE = "SPDX-License-Identifier: GPL-2.0-or-later"
# what opens and closes a comment, by the name's end
COMMENTS = {
    ".py": ("# ", ""),
    ".sh": ("# ", ""),
    ".c": ("// ", ""),
    ".h": ("/* ", " */"),
    ".css": ("/* ", " */"),
    ".service": ("# ", ""),
    "Makefile": ("# ", ""),
    "Containerfile": ("# ", ""),
}


def comment_of(path: Path) -> tuple[str, str] | None:
    """How this file writes a comment; None for a file that needs no line."""
    return COMMENTS.get(path.suffix or path.name)


def missing(root: Path) -> list[Path]:
    """The tracked source files without the line, but empty ones."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "ls-files", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [root / name for name in listing.split("\0") if name]
    return [
        path
        for path in paths
        if comment_of(path) and path.is_file() and path.stat().st_size and not has_line(path)
    ]


def has_line(path: Path) -> bool:
    """Whether one of the first two lines, as #! may be the first, is it."""
    return any(LINE in line for line in path.read_text().splitlines()[:2])


def add(path: Path) -> None:
    """Put it first, or after #!."""
    comment = comment_of(path)
    assert comment
    text = path.read_text()
    head, rest = "", text
    if text.startswith("#!"):
        head, _, rest = text.partition("\n")
        head += "\n"
    path.write_text(f"{head}{comment[0]}{LINE}{comment[1]}\n{rest}")


def main() -> int:
    """1 if --check found some."""
    found = missing(Path(__file__).parent.parent)
    if "--check" in sys.argv[1:]:
        for path in found:
            print(f"{path}: no {LINE}")
        return 1 if found else 0
    for path in found:
        add(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
