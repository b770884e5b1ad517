# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that a task, a cgroup or a host may have and that no output may take for more."""

from __future__ import annotations

# a separator of folded stacks, a line's end, quotes and brackets of HTML, a formula of CSV
MARKUP = b"\x1b[31m;\n\t<&\"'=x"
NAMES: tuple[bytes, ...] = (
    b"\x1b[2J\x1b[31mred",
    b"two\nlines\r\tx",
    "日本語の名前".encode(),
    ("e\u0301\u0302" * 5).encode(),
    b"\xff\xfe\x80",
    "\u202egnp.exe".encode(),
    b"",
    "\U0001f468\u200d\U0001f469".encode(),
    b"[bold]markup[/]",
    b"%s%n\x07\x08",
)
