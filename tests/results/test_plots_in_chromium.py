# SPDX-License-Identifier: GPL-2.0-or-later
"""The document's plots in a real browser, as an image's colours and letters: in each scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests import ROOT
from tests.chromium import LOOKING, needs_chromium
from tests.contrast import contrast, luminance
from tests.results.plots import HEIGHT, PLOTS, WIDTH

pytestmark = needs_chromium
FOLDER = ROOT / "docs/results"

SEEN = (
    f"() => {{{LOOKING}"
    """
  return {
    paper: getComputedStyle(document.documentElement).backgroundColor,
    size: ["width", "height"].map(side => document.documentElement[side].baseVal.value),
    texts: [...document.querySelectorAll("text")].filter(one => one.textContent)
           .map(one => ({...box(one), said: one.textContent, ink: fill(one)})),
    series: [...document.querySelectorAll(".legend rect")].map(fill),
  };
}
"""
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PLOTS)
def test_it_can_be_read(browser: Browser, name: str, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": 900, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    page.goto(Path(FOLDER / name).as_uri())
    seen = page.evaluate(SEEN)
    context.close()
    assert (luminance(seen["paper"]) < 0.1) == (scheme == "dark")
    assert seen["size"] == [WIDTH, HEIGHT]
    assert len(seen["texts"]) > 10
    for text in seen["texts"]:
        assert contrast(text["ink"], seen["paper"]) >= 4.5, text
        assert not text["said"].endswith("\u2026"), text
        assert text["left"] >= 0, text
        assert text["right"] <= WIDTH, text
        assert text["bottom"] <= HEIGHT, text
    assert len(set(seen["series"])) == len(seen["series"]) >= 6
    # bright colours on white: by their hue, and a dot is large
    assert min(contrast(colour, seen["paper"]) for colour in seen["series"]) >= 1.5
