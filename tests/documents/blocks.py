# SPDX-License-Identifier: GPL-2.0-or-later
"""The blocks of code in a document, as GitHub and mkdocs agree on them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[!.]*/README.md")])


@dataclass(frozen=True)
class Block:
    """Code at a line of a document; fenced code has a language, if only an empty one."""

    document: str
    line: int
    language: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """Fenced code, and code that is indented by four: none of ours is inside a list."""
    name = str(path.relative_to(ROOT))
    lines = path.read_text().splitlines()
    at = 0
    while at < len(lines):
        begin = at
        if lines[at].startswith("```"):
            at = lines.index("```", at + 1)
            yield Block(name, begin + 1, lines[begin][3:], "\n".join(lines[begin + 1 : at]))
        elif lines[at].startswith("    "):
            while at + 1 < len(lines) and (not lines[at + 1] or lines[at + 1].startswith("    ")):
                at += 1
            code = textwrap.dedent("\n".join(lines[begin : at + 1]))
            yield Block(name, begin + 1, None, code.rstrip())
        at += 1
