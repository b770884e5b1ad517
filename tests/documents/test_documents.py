# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents: made from the code where they can be, and no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import ROOT
from tests.documents.blocks import DOCUMENTS
from tests.documents.reference import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_what_is_made_from_code_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run `make documents`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        assert goal.exists(), target
        if anchor and goal.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", goal.read_text(), re.MULTILINE)
            assert anchor in {slug(head) for head in heads}, target


def slug(heading: str) -> str:
    """As GitHub and mkdocs make anchors."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_nothing_cites_what_is_not_here() -> None:
    """Facts that comments and documents lean on are in docs/facts.md, with public sources."""
    for path in [*DOCUMENTS, *ROOT.glob("dynstack_probe/**/*.py"), *ROOT.glob("probes/*")]:
        if path.is_file():
            assert "shared/" not in path.read_text(), path
