# SPDX-License-Identifier: GPL-2.0-or-later
"""A flame graph in a real browser: at each width, in each scheme, zoomed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from dynstack_probe.faults import flamegraph
from dynstack_probe.measure.call_paths import CallPaths, Frame, Sample
from tests.chromium import LOOKING, needs_chromium
from tests.contrast import contrast
from tests.report.test_report_in_chromium import LOOKS

pytestmark = needs_chromium
WIDE = ((1900, 900), "light")
TITLE = "Kernel stacks deeper than 4096 bytes on a-host-with-a-long-name: 40 of 9000 samples"

SEEN = (
    f"() => {{{LOOKING}"
    """
  const drawn = one => getComputedStyle(one).display !== "none";
  return {
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    letter: parseFloat(getComputedStyle(document.querySelector("svg text")).fontSize)
            * document.querySelector("svg").getCTM().a,
    paper: fill(document.querySelector(".paper")),
    around: getComputedStyle(document.documentElement).backgroundColor,
    heads: [...document.querySelectorAll(".said")].map(one => ({
      ...box(one), said: one.textContent, lines: one.querySelectorAll("tspan").length,
    })),
    keys: [...document.querySelectorAll(".key")].map(box),
    texts: [...document.querySelectorAll("text.ink")].map(one => ({...box(one), ink: fill(one)})),
    frames: [...document.querySelectorAll(".f")].filter(drawn).map(one => ({
      name: one.getAttribute("data-n"), shown: one.querySelector("text").textContent,
      ...box(one.querySelector("rect")), letters: box(one.querySelector("text")),
      colour: fill(one.querySelector("rect")), ink: fill(one.querySelector("text")),
    })),
    told: [...document.querySelectorAll(".told")].map(one => one.textContent),
  };
}
"""
)


def many_paths() -> CallPaths:
    paths = CallPaths()
    for n in range(40):
        names = ["entry_SYSCALL_64_after_hwframe", "do_syscall_64", f"call_{n % 7}", f"leaf_{n}"]
        depths = [168, 984, 2500 + 600 * (n % 7), 4200 + 150 * n]
        frames = tuple(Frame(name, depth) for name, depth in zip(names, depths, strict=True))
        paths.add(Sample(n, b"task", "read", depths[-1], frames))
    return paths


@pytest.mark.parametrize("suffix", ["svg", "html"])
@pytest.mark.parametrize(("size", "scheme"), [*LOOKS, WIDE])
def test_it_can_be_read(
    browser: Browser, tmp_path: Path, size: tuple[int, int], scheme: Any, suffix: str
) -> None:
    render = flamegraph.render_svg if suffix == "svg" else flamegraph.render_html
    path = tmp_path / f"p.{suffix}"
    path.write_text(render(many_paths(), TITLE))
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(path.as_uri())
    seen = page.evaluate(SEEN)
    assert seen["overflow"] <= 0
    assert seen["letter"] >= 11
    assert (seen["paper"] == "rgb(255, 255, 255)") == (scheme == "light")
    for text in seen["texts"]:
        assert text["right"] <= size[0], text
        assert contrast(text["ink"], seen["paper"]) >= 4.5
    for frame in seen["frames"]:
        assert contrast(frame["ink"], frame["colour"]) >= 4.5, frame
        assert frame["letters"]["right"] <= frame["right"] + 1, frame
    (whole,) = [frame for frame in seen["frames"] if frame["name"] == "all"]
    assert (whole["left"], whole["right"]) == (0, pytest.approx(size[0], abs=16))
    assert len(seen["frames"]) == 1 + 1 + 1 + 2 + 7 + 40
    assert seen["around"] == seen["paper"]
    (title, _) = seen["heads"]
    assert title["said"].replace(" ", "") == TITLE.replace(" ", "")
    assert (title["lines"] == 1) == (size[0] > len(TITLE) * flamegraph.LETTER + 20)
    rows = {round(key["top"]) for key in seen["keys"]}
    assert len(rows) == (1 if size[0] >= flamegraph.LEGEND_WIDTH else 2)
    parts = [*seen["heads"], *seen["keys"]]
    assert max(part["bottom"] for part in parts) <= whole["top"]
    context.close()


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_nothing_found_says_what_to_do(
    browser: Browser, tmp_path: Path, size: tuple[int, int], scheme: Any
) -> None:
    path = tmp_path / "p.svg"
    path.write_text(flamegraph.render_svg(CallPaths(), TITLE))
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(path.as_uri())
    seen = page.evaluate(SEEN)
    assert seen["frames"] == []
    assert seen["told"] == list(flamegraph.NOTHING)
    for text in seen["texts"]:
        assert text["right"] <= size[0], text
    context.close()


def test_a_click_zooms_and_tells(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "p.html"
    path.write_text(flamegraph.render_html(many_paths(), TITLE))
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(path.as_uri())
    page.locator("[data-n=call_3] rect").click()
    seen = page.evaluate(SEEN)
    by_name = {frame["name"]: frame for frame in seen["frames"]}
    leaves = {f"leaf_{n}" for n in range(3, 40, 7)}
    assert set(by_name) - leaves == {
        "all", "task", "read", "entry_SYSCALL_64_after_hwframe", "do_syscall_64", "call_3",
    }  # fmt: skip
    assert set(by_name) >= leaves
    assert by_name["call_3"]["right"] - by_name["call_3"]["left"] >= 370
    assert by_name["call_3"]["shown"] == "call_3"
    assert seen["told"] == ["call_3", "6 samples (15.0%), down to 4300 bytes"]
    page.locator("[data-n=all] rect").click()
    assert len(page.evaluate(SEEN)["frames"]) == 52
    page.close()
