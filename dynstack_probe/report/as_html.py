# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one HTML page that needs no network and runs no script.

The page is built as a tree of elements, so that whatever a task calls itself is escaped
where it is written, and nowhere can that be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from dynstack_probe.report import plots
from dynstack_probe.report.document import (
    MOST_CURVES,
    BarPlot,
    Commands,
    Document,
    Facts,
    LinePlot,
    Paragraph,
    Part,
    Section,
    Table,
)
from dynstack_probe.text import printable

# A table of more columns needs the whole width: of a printed page, of a screen.
WIDE, WIDE_ON_SCREEN = 5, 6
STYLE = Path(__file__).with_name("report.css")
# Nothing is fetched and nothing runs, even if an escape were missing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(document: Document) -> str:
    """The page. Raises ProbeError where pygal is missing."""
    page = Element("html", lang="en")
    page.append(_head(document.title))
    body = SubElement(page, "body")
    _header(SubElement(body, "header"), document)
    main = SubElement(body, "main")
    for number, section in enumerate(document.sections, start=1):
        _section(main, section, f"{number}", 2)
    _text(SubElement(body, "footer"), "p", document.made)
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _head(title: str) -> Element:
    head = Element("head")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": POLICY})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    SubElement(head, "meta", name="color-scheme", content="light dark")
    SubElement(head, "meta", name="referrer", content="no-referrer")
    SubElement(head, "title").text = printable(title)
    SubElement(head, "style").text = f"\n{STYLE.read_text()}"
    return head


def _header(header: Element, document: Document) -> None:
    _text(header, "h1", document.title)
    _text(header, "p", document.summary).set("class", "summary")
    contents = SubElement(SubElement(header, "nav", {"aria-label": "Contents"}), "ol")
    for number, section in enumerate(document.sections, start=1):
        link = SubElement(SubElement(contents, "li"), "a", href=f"#s{number}")
        link.text = printable(section.title)


def _text(parent: Element, tag: str, text: str | bytes) -> Element:
    element = SubElement(parent, tag)
    element.text = printable(text)
    return element


def _section(parent: Element, section: Section, number: str, level: int) -> None:
    place = SubElement(parent, "section", id=f"s{number.replace('.', '-')}")
    heading = SubElement(place, f"h{min(level, 6)}")
    mark = _text(heading, "span", f"{number}.")
    mark.set("class", "number")
    mark.tail = f" {printable(section.title)}"
    parts = SubElement(place, "div", {"class": "parts"})
    for part, share in zip(section.parts, shares(section.parts), strict=True):
        element = _part(part)
        element.set("class", f"{element.get('class', '')} {share}".strip())
        parts.append(element)
    for at, inner in enumerate(section.sections, start=1):
        _section(place, inner, f"{number}.{at}", level + 1)


def shares(parts: Sequence[Part]) -> list[str]:
    """How much of a row each takes, "half" or "whole", so that no half stays empty.

    Figures stand two in a row. One that is left over stands beside the facts before it, else
    beside those after it; else it takes a row.
    """
    found = ["half" if _is_figure(part) else "whole" for part in parts]
    begin = 0
    while begin < len(found):
        if found[begin] == "whole":
            begin += 1
            continue
        end = next((at for at in range(begin, len(found)) if found[at] == "whole"), len(found))
        if (end - begin) % 2:
            beside = [at for at in (begin - 1, end) if _is_free(parts, found, at)]
            found[beside[0] if beside else end - 1] = "half" if beside else "whole"
        begin = end + 1 if end < len(found) and found[end] == "half" else end
    return found


def _is_figure(part: Part) -> bool:
    if isinstance(part, Table):
        return len(part.columns) <= WIDE_ON_SCREEN
    return isinstance(part, LinePlot | BarPlot)


def _is_free(parts: Sequence[Part], found: Sequence[str], at: int) -> bool:
    return 0 <= at < len(parts) and isinstance(parts[at], Facts) and found[at] == "whole"


def _part(part: Part) -> Element:
    match part:
        case Paragraph(text):
            element = Element("p")
            element.text = printable(text)
            return element
        case Facts(rows):
            return _facts(rows)
        case Commands(lines):
            return _commands(lines)
        case Table():
            return _table(part)
        case LinePlot() | BarPlot():
            return _figure(part)


def _facts(rows: Sequence[tuple[str, str]]) -> Element:
    element = Element("dl")
    for name, text in rows:
        pair = SubElement(element, "div")
        _text(pair, "dt", name)
        _text(pair, "dd", text)
    return element


def _commands(lines: Iterable[str]) -> Element:
    element = Element("pre", tabindex="0")
    SubElement(element, "code").text = "\n".join(map(printable, lines))
    return element


def _table(table: Table) -> Element:
    """In a box of its own, which scrolls where the page is too narrow."""
    figure = Element("figure", {"class": "table wide" if len(table.columns) > WIDE else "table"})
    if table.title:
        _text(figure, "h4", table.title)
    box = SubElement(figure, "div", {"class": "scroll", "tabindex": "0", "role": "region"})
    box.set("aria-label", table.title or table.columns[0])
    element = SubElement(box, "table")
    heads = SubElement(SubElement(element, "thead"), "tr")
    for name in table.columns:
        before, bracket, unit = name.partition("(")
        head = _text(heads, "th", before)
        head.set("scope", "col")
        if bracket:  # where there is little room the unit goes into a line of its own
            SubElement(head, "wbr").tail = bracket + unit
    body = SubElement(element, "tbody")
    for row in table.rows:
        line = SubElement(body, "tr")
        _text(line, "th", row[0]).set("scope", "row")
        for cell in row[1:]:
            _text(line, "td", cell)
    if table.note:
        _text(figure, "figcaption", table.note)
    return figure


def _figure(plot: LinePlot | BarPlot) -> Element:
    figure = Element("figure", {"class": "plot"})
    _text(figure, "h4", plot.title)
    if isinstance(plot, LinePlot) and len(plot.curves) > 1:
        figure.append(_legend(plot))
    figure.append(plots.svg(plot))
    _text(figure, "figcaption", plot.note)
    return figure


def _legend(plot: LinePlot) -> Element:
    legend = Element("ul", {"class": "legend"})
    for at, curve in enumerate(plot.curves[:MOST_CURVES]):
        item = SubElement(legend, "li")
        key = SubElement(item, "svg", viewBox="0 0 28 8")
        key.set("class", "key")
        key.set("aria-hidden", "true")
        group = SubElement(key, "g", {"class": f"series serie-{at} color-{at}"})
        if curve.dots:
            SubElement(group, "circle", cx="14", cy="4", r=f"{curve.dots}").set("class", "dot")
        else:
            SubElement(group, "path", {"d": "M0 4 h28", "class": "line"})
        key.tail = printable(curve.name)
    return legend
