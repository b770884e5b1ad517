# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports in a real browser: quiet, offline, and to be read at each width and in each scheme."""

from __future__ import annotations

import functools
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from dynstack_probe.report import as_html
from dynstack_probe.report.document import BarPlot
from tests.chromium import needs_chromium
from tests.contrast import contrast, luminance
from tests.factory import a_frame, a_host, some_stacks
from tests.report.test_report import REPORTS, plots_of, report_of, the_report

PHONE, DESKTOP = (390, 844), (1280, 900)
LOOKS = [(size, scheme) for size in (PHONE, DESKTOP) for scheme in ("light", "dark")]

pytestmark = needs_chromium

# What the page looks like to a person, asked of the browser.
SEEN = """
() => {
  const box = element => {
    const at = element.getBoundingClientRect();
    return {left: at.left, right: at.right, top: at.top, bottom: at.bottom,
            width: at.width, height: at.height};
  };
  const texts = svg => [...svg.querySelectorAll("text")].filter(text => text.textContent);
  const scale = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return {
    cut: [...document.querySelectorAll(".scroll")].map(part => part.scrollWidth - part.clientWidth),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    plots: [...document.querySelectorAll("svg[role=img]")].map(svg => ({
      ...box(svg),
      title: svg.getAttribute("aria-label"),
      letter: parseFloat(getComputedStyle(texts(svg)[0]).fontSize) * scale(svg),
      texts: texts(svg).map(text => ({...box(text), text: text.textContent})),
      across: [...svg.querySelectorAll(".axis.x text")].map(box),
      down: [...svg.querySelectorAll(".axis.y text")].map(box),
      shapes: [...svg.querySelectorAll(
        ".series path, .series rect, .series circle")].map(shape => ({
        ...box(shape),
        colour: getComputedStyle(shape)[shape.tagName === "rect" ? "fill" : "stroke"],
      })),
    })),
    paper: getComputedStyle(document.body).backgroundColor,
    inks: [...new Set([...document.querySelectorAll("body *")].map(element => {
      const style = getComputedStyle(element);
      return element instanceof SVGTextElement ? style.fill : style.color;
    }))],
    hacked: "hacked" in window,
  };
}
"""


@functools.cache
def page_of(name: str) -> str:
    return as_html.render(the_report(name))


class Visit:
    """A page that is shown, and what the browser said and asked for meanwhile."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def seen(self) -> dict[str, Any]:
        result: dict[str, Any] = self.page.evaluate(SEEN)
        return result


def visit(browser: Browser, folder: Path, text: str, size: tuple[int, int], scheme: Any) -> Visit:
    path = folder / "report.html"
    path.write_text(text)
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    visited = Visit(context.new_page())
    visited.page.goto(path.as_uri())
    visited.page.wait_for_load_state("networkidle")
    return visited


def touching(boxes: list[dict[str, float]], low: str, high: str) -> bool:
    """Whether some overlap, from left to right or from top to bottom."""
    ordered = sorted(boxes, key=lambda box: box[low])
    return any(a[high] > b[low] for a, b in pairwise(ordered))


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
@pytest.mark.parametrize("name", REPORTS)
def test_it_can_be_read(
    browser: Browser, tmp_path: Path, name: str, size: tuple[int, int], scheme: str
) -> None:
    visited = visit(browser, tmp_path, page_of(name), size, scheme)
    seen = visited.seen()
    assert visited.said == []
    assert visited.asked == [(tmp_path / "report.html").as_uri()]
    assert seen["overflow"] <= 0
    assert size == PHONE or max(seen["cut"]) <= 0, "a table that must be scrolled on a desktop"
    assert len(seen["plots"]) == len(plots_of(the_report(name)))
    assert (luminance(seen["paper"]) < 0.1) == (scheme == "dark")
    for ink in seen["inks"]:
        assert contrast(ink, seen["paper"]) >= 4.5, ink
    for plot in seen["plots"]:
        check_plot(plot, size[0], seen["paper"])
    visited.page.context.close()


def test_labels_of_bars_left_of_zero_cover_nothing(browser: Browser, tmp_path: Path) -> None:
    frame = a_frame(some_stacks([5000] * 40), a_host(cpus=64))
    document = report_of([frame])
    [plot] = [one for one in plots_of(document) if one.title.startswith("Saving by policy")]
    assert isinstance(plot, BarPlot)
    assert min(bar.value for bar in plot.bars) < 0
    visited = visit(browser, tmp_path, as_html.render(document), PHONE, "light")
    [seen] = [one for one in visited.seen()["plots"] if one["title"].startswith(plot.title)]
    bars = [shape for shape in seen["shapes"] if shape["width"] > 1]
    assert len(bars) == sum(bar.value != 0 for bar in plot.bars)
    labels = [text for text in seen["texts"] if text["text"].endswith("%")]
    assert len(labels) == len(plot.bars)
    for label in labels:
        middle = (label["top"] + label["bottom"]) / 2
        beside = [bar for bar in bars if bar["top"] < middle < bar["bottom"]]
        assert all(label["left"] >= bar["right"] for bar in beside), label


def check_plot(plot: dict[str, Any], width: int, paper: str) -> None:
    title = plot["title"]
    assert plot["width"] >= 300, title
    assert plot["height"] >= 60, title
    assert plot["left"] >= 0, title
    assert plot["right"] <= width, title
    assert plot["letter"] >= 10, title
    for text in plot["texts"]:
        assert text["right"] <= width, (title, text)
        assert text["left"] >= 0, (title, text)
        assert "\u2026" not in text["text"], (title, text)
    assert not touching(plot["across"], "left", "right"), title
    # the boxes of letters are higher than their ink
    down = [{**box, "bottom": box["bottom"] - box["height"] / 3} for box in plot["down"]]
    assert not touching(down, "top", "bottom"), title
    assert plot["shapes"], title
    assert any(shape["width"] > 0 or shape["height"] > 0 for shape in plot["shapes"]), title
    for shape in plot["shapes"]:
        assert contrast(shape["colour"], paper) >= 3, (title, shape)
        assert shape["left"] >= plot["left"] - 1, (title, shape)
        assert shape["right"] <= plot["right"] + 1, (title, shape)
        assert shape["top"] >= plot["top"] - 1, (title, shape)
        assert shape["bottom"] <= plot["bottom"] + 1, (title, shape)


def test_the_checks_see_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """A page that asks for a picture and runs a script is noticed, and its policy stops both."""
    bad = (
        '<img src="http://127.0.0.1:9/x.png"><script>window.hacked = 1</script>'
        '<p style="width: 2000px">wide</p>'
    )
    text = page_of("single").replace("<main>", f"<main>{bad}")
    visited = visit(browser, tmp_path, text, PHONE, "light")
    seen = visited.seen()
    assert any("Content Security Policy" in said for said in visited.said)
    assert seen["overflow"] > 0
    assert not seen["hacked"]
    free = text.replace("http-equiv", "x-not")
    visited = visit(browser, tmp_path, free, PHONE, "light")
    assert visited.seen()["hacked"]
    assert len(visited.asked) == 2


# How far each table's Saving column lies beyond what is shown; places of figures in rows of two.
ROWS = """
() => ({
  savings: [...document.querySelectorAll("thead th")]
           .filter(one => one.textContent === "Saving")
           .map(one => one.getBoundingClientRect().right
                - one.closest(".scroll").getBoundingClientRect().right),
  tables: document.querySelectorAll("table").length,
  halves: [...document.querySelectorAll(".parts")].map(parts =>
    [...parts.querySelectorAll(":scope > .half")].map(one => {
      const at = one.getBoundingClientRect();
      return [Math.round(at.top), Math.round(at.left)];
    })),
})
"""


@pytest.mark.parametrize("name", ["single", "series", "several", "large"])
def test_a_phone_shows_the_saving(browser: Browser, tmp_path: Path, name: str) -> None:
    visited = visit(browser, tmp_path, page_of(name), PHONE, "light")
    seen = visited.page.evaluate(ROWS)
    assert len(seen["savings"]) >= 2
    assert max(seen["savings"]) <= 0.5
    visited.page.context.close()


@pytest.mark.parametrize("name", REPORTS)
def test_no_half_of_a_row_is_empty(browser: Browser, tmp_path: Path, name: str) -> None:
    visited = visit(browser, tmp_path, page_of(name), DESKTOP, "light")
    for places in visited.page.evaluate(ROWS)["halves"]:
        by_row = Counter(top for top, _ in places)
        assert set(by_row.values()) <= {2}, places
        assert len(set(map(tuple, places))) == len(places)
    visited.page.context.close()


# Figures that stick out of their place, and places that overlap.
CROWDED = """
() => {
  const figures = [...document.querySelectorAll("figure")].map(figure => {
    const parts = [figure, ...figure.querySelectorAll(":not(wbr)")]
                  .map(one => one.getBoundingClientRect());
    return {name: figure.textContent.slice(0, 60),
            left: Math.min(...parts.map(one => one.left)),
            right: Math.max(...parts.map(one => one.right)),
            top: Math.min(...parts.map(one => one.top)),
            bottom: Math.max(...parts.map(one => one.bottom))};
  });
  const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                       && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return [
    ...figures.filter(one => one.right > window.innerWidth + 1).map(one => one.name),
    ...figures.filter((one, at) => figures.slice(at + 1).some(other => touch(one, other)))
              .map(one => one.name),
  ];
}
"""


@pytest.mark.parametrize("name", ["series", "several", "large"])
def test_it_prints(browser: Browser, tmp_path: Path, name: str) -> None:
    """In dark ink, whatever the screen's scheme is, and with nothing cut or covered."""
    paper = (688, 1000)  # A4 less its margins
    visited = visit(browser, tmp_path, page_of(name), paper, "dark")
    visited.page.emulate_media(media="print")
    seen = visited.seen()
    assert luminance(seen["paper"]) == 1
    for ink in seen["inks"]:
        assert contrast(ink, seen["paper"]) >= 4.5
    assert visited.page.evaluate(CROWDED) == []
    pdf = visited.page.pdf(format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    hosts = 3 if name == "several" else 1
    pages = len(re.findall(rb"/Type /Page\b", pdf))
    assert 3 * hosts <= pages <= 9 * hosts
