# SPDX-License-Identifier: GPL-2.0-or-later
"""Call paths as a flame graph: one file, SVG or HTML, that needs nothing else to be seen.

The outermost function is on top, as stacks grow down. A frame is as wide as the share of
samples it was in, and coloured by how deep it reached. A click zooms. Places are shares of
the width, so that it fills whatever it is shown in, a phone too.
"""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from dynstack_probe.faults.folded import frame_names
from dynstack_probe.measure.call_paths import CallPaths, SampleCounters
from dynstack_probe.model.host import PAGE_BYTES

WIDTH = 1200  # where it is not told how wide it may be
ROW = 18
LINE = 17  # of text
MARGIN = 10
LETTER = 6.7  # width of a letter of 11 px, about
SECTION_GAP = 6  # between what is said, the colours, and the answer to a click
NARROWEST_RATIO = 0.00025  # frames below it are left out
# Of a frame that ended in the first KiB, the second, ...; past the last bound: the last.
COLOURS = ("#f7e9b5", "#f2d27a", "#f0b455", "#ee9345", "#b83227", "#98235f")
BOUNDS = (1024, 2048, 3072, PAGE_BYTES, 2 * PAGE_BYTES)
LEGEND = ("up to 1 KiB", "2 KiB", "3 KiB", "4 KiB, 1 page", "8 KiB, 2 pages", "deeper")
PLAIN_COLOUR = "#cdd3da"  # no function: the task's name, the call
DARK_INK, LIGHT_INK = "#1b1b1b", "#ffffff"
LIGHT_FROM = COLOURS[4:]  # whose names are written in light ink
PAPERS = {"light": ("#ffffff", "#1b1f24"), "dark": ("#101418", "#e6e9ec")}  # and their ink
LEGEND_COLUMN = 120  # px; three of them fit into a phone
LEGEND_GAP = 18  # px between two where all are in one line
LEGEND_TEXT = 17  # px from a colour's left edge
HINTS = (
    "Click or tap a frame to zoom in and to see its figures.",
    "The topmost one zooms out again.",
)
_WIDTHS = [round(LEGEND_TEXT + len(name) * LETTER + LEGEND_GAP) for name in LEGEND]
LEGEND_WIDTH = 2 * MARGIN + sum(_WIDTHS)
NOTHING = ("No sample was that deep: watch for longer,", "or lower --deeper-than.")


@dataclass
class Node:
    """A frame below a certain chain of callers."""

    name: str
    samples: int = 0
    deepest_bytes: int | None = None
    children: dict[str, Node] = field(default_factory=dict)

    def levels(self) -> int:
        """How many frames its longest chain has, itself included."""
        return 1 + max((child.levels() for child in self.children.values()), default=0)


def tree(paths: CallPaths) -> Node:
    """All paths merged, starting at their outermost frames."""
    root = Node("all")
    for path in paths.paths.values():
        depths = [None, None, *(frame.depth_bytes for frame in path.deepest.frames)]
        node = root
        node.samples += path.samples
        for name, depth in zip(frame_names(path), depths, strict=True):
            node = node.children.setdefault(name, Node(name))
            node.samples += path.samples
            if depth is not None:
                node.deepest_bytes = max(depth, node.deepest_bytes or 0)
    return root


def title_of(
    paths: CallPaths, samples: SampleCounters, *, deeper_than: int, rate_hz: int, host: str
) -> str:
    """What the picture shows: as many samples as its root frame has, and how many are missing."""
    drawn = sum(path.samples for path in paths.paths.values())
    missing = samples.deep - drawn
    lost = f"; {missing} more as deep are not drawn" if missing > 0 else ""
    return (
        f"Kernel stacks deeper than {deeper_than} bytes on {host}: {drawn} of {samples.in_kernel}"
        f" samples in the kernel at {rate_hz} Hz{lost}"
    )


def _colour(depth_bytes: int | None) -> str:
    if depth_bytes is None:
        return PLAIN_COLOUR
    return COLOURS[bisect_left(BOUNDS, depth_bytes)]


def _narrow(node: Node, whole: int) -> int:
    """How many of the frames below are too narrow to be drawn, what is below them aside."""
    return sum(
        1 if child.samples < NARROWEST_RATIO * whole else _narrow(child, whole)
        for child in node.children.values()
    )


def _frames(node: Node, left: int, y: int, whole: int) -> Iterator[str]:
    """The frame and those below it; `left`: samples that are left of it."""
    if node.samples < NARROWEST_RATIO * whole:
        return
    deepest = "" if node.deepest_bytes is None else f", down to {node.deepest_bytes} bytes"
    told = f"{node.name}: {node.samples} samples ({node.samples / whole:.1%}){deepest}"
    colour = _colour(node.deepest_bytes)
    ink = LIGHT_INK if colour in LIGHT_FROM else DARK_INK
    yield (
        f'<svg class="f" x="{left / whole:.4%}" y="{y}" width="{node.samples / whole:.4%}"'
        f' height="{ROW - 1}" data-x="{left}" data-w="{node.samples}"'
        f' data-n="{html.escape(node.name)}"><title>{html.escape(told)}</title>'
        f'<rect width="100%" height="100%" fill="{colour}"/>'
        f'<text x="3" y="13" fill="{ink}">{html.escape(node.name)}</text></svg>'
    )
    for child in sorted(node.children.values(), key=lambda child: child.name):
        yield from _frames(child, left, y + ROW, whole)
        left += child.samples


# Takes all the width there is: what is said above the frames is broken into as many lines as
# it needs. Zooms to a clicked frame: its callers fill the width, what is not below it goes
# away. Names are cut where they don't fit.
_SCRIPT = (
    f"""
(function () {{
  var MARGIN = {MARGIN}, LINE = {LINE}, LETTER = {LETTER}, KEY = {LEGEND_COLUMN};
  var GAP = {SECTION_GAP}, LEGEND = {LEGEND_WIDTH};
"""
    + """\
  var root = document.currentScript.ownerSVGElement;
  function all(part) { return Array.prototype.slice.call(root.querySelectorAll(part)); }
  var said = all(".said"), keys = all(".key"), told = all(".told"), frames = all(".f");
  root.setAttribute("width", "100%");
  said.forEach(function (one) { one.setAttribute("data-t", one.textContent); });
  function of(f, name) { return parseFloat(f.getAttribute("data-" + name)); }
  var shown = frames[0], stack = root.querySelector(".stack");
  function fit(pixels) {
    var letters = Math.max(20, Math.floor((pixels - 2 * MARGIN) / LETTER));
    var words = new RegExp(".{1," + letters + "}(?: |$)|.{" + letters + "}", "g");
    var columns = pixels < LEGEND ? 3 : keys.length;
    var y = MARGIN + LINE;
    said.forEach(function (one) {
      one.textContent = "";
      (one.getAttribute("data-t").match(words) || []).forEach(function (line) {
        var part = document.createElementNS(root.namespaceURI, "tspan");
        part.setAttribute("x", MARGIN);
        part.setAttribute("y", y);
        part.textContent = line.trim();
        one.appendChild(part);
        y += LINE;
      });
    });
    y += GAP;
    keys.forEach(function (one, n) {
      var x = columns < keys.length ? MARGIN + n % columns * KEY : of(one, "x");
      var line = y + Math.floor(n / columns) * LINE;
      one.setAttribute("transform", "translate(" + x + "," + line + ")");
    });
    y += Math.ceil(keys.length / columns) * LINE + GAP;
    told.forEach(function (one) { one.setAttribute("y", y); y += LINE; });
    stack.setAttribute("transform", "translate(0," + y + ")");
    root.setAttribute("height", y + of(stack, "h"));
  }
  function draw() {
    var pixels = root.getBoundingClientRect().width;
    fit(pixels);
    if (!shown) return;
    var left = of(shown, "x"), wide = of(shown, "w"), y = +shown.getAttribute("y");
    frames.forEach(function (f) {
      var x = of(f, "x"), w = of(f, "w");
      var above = +f.getAttribute("y") < y && x <= left && x + w >= left + wide;
      var below = +f.getAttribute("y") >= y && x >= left && x + w <= left + wide;
      f.style.display = above || below ? "" : "none";
      if (above) { x = left; w = wide; }
      f.setAttribute("x", (x - left) / wide * 100 + "%");
      f.setAttribute("width", w / wide * 100 + "%");
      var name = f.getAttribute("data-n");
      var letters = Math.floor((w / wide * pixels - 6) / LETTER);
      f.querySelector("text").textContent = letters >= name.length ? name
        : letters > 3 ? name.slice(0, letters - 2) + ".." : "";
    });
  }
  frames.forEach(function (f) {
    f.addEventListener("click", function () {
      shown = f;
      draw();
      var words = f.querySelector("title").textContent, name = f.getAttribute("data-n");
      told[0].textContent = name;
      told[1].textContent = words.slice(name.length + 2);
    });
  });
  window.addEventListener("resize", draw);
  draw();
})();
"""
)


def _style() -> str:
    def scheme(name: str) -> str:
        paper, ink = PAPERS[name]
        return f":root{{background:{paper}}}.paper{{fill:{paper}}}.ink{{fill:{ink}}}"

    return (
        f"<style>.f{{cursor:pointer}}.f:hover rect{{stroke:#222;stroke-width:2}}"
        f"text{{pointer-events:none}}{scheme('light')}"
        "@media (prefers-color-scheme:dark){"
        f"{scheme('dark')}.f:hover rect{{stroke:#fff}}}}</style>"
    )


def _text(text: str, kind: str, y: int, extra: str = "") -> str:
    return f'<text class="ink {kind}" x="{MARGIN}" y="{y}"{extra}>{html.escape(text)}</text>'


def _key(place: int, y: int) -> str:
    """What a colour stands for, all in one line."""
    x = MARGIN + sum(_WIDTHS[:place])
    return (
        f'<g class="key" data-x="{x}" transform="translate({x},{y})">'
        f'<rect y="-10" width="12" height="12" fill="{COLOURS[place]}"/>'
        f'<text class="ink" x="{LEGEND_TEXT}">{LEGEND[place]}</text></g>'
    )


def render_svg(paths: CallPaths, title: str) -> str:
    root = tree(paths)
    narrow = _narrow(root, root.samples)
    notes = "Wider: more samples. Colour: how deep on the stack a function reached."
    if narrow:
        notes += f" {narrow} frames of less than {NARROWEST_RATIO:.3%} of samples are not drawn."
    y = MARGIN + LINE
    parts = [
        _text(title, "said", y, ' font-weight="bold"'),
        _text(notes, "said", y + LINE),
    ]
    y += 2 * LINE + SECTION_GAP
    parts += [_key(place, y) for place in range(len(COLOURS))]
    y += LINE + SECTION_GAP
    for hint in HINTS if root.samples else NOTHING:
        parts.append(_text(hint, "told", y))
        y += LINE
    depth = root.levels() * ROW + MARGIN
    frames = _frames(root, 0, 0, root.samples) if root.samples else ()
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + depth}"'
            ' font-family="monospace" font-size="11">',
            _style(),
            '<rect class="paper" width="100%" height="100%"/>',
            *parts,
            f'<g class="stack" data-h="{depth}" transform="translate(0,{y})">',
            *frames,
            "</g>",
            f"<script>//<![CDATA[\n{_SCRIPT}//]]></script>",
            "</svg>\n",
        ]
    )


def render_html(paths: CallPaths, title: str) -> str:
    (light, _), (dark, _) = PAPERS["light"], PAPERS["dark"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title>"
        f"<style>body{{margin:0;background:{light}}}svg{{display:block}}"
        f"@media (prefers-color-scheme:dark){{body{{background:{dark}}}}}</style></head>\n"
        f"<body>\n{render_svg(paths, title)}</body></html>\n"
    )
