# SPDX-License-Identifier: GPL-2.0-or-later
"""Call paths as a flame graph: one file, SVG or HTML, that needs nothing else to be seen.

The outermost function is on top, as stacks grow down. A frame is as wide as the share of
samples it was in, and coloured by how deep it reached. A click zooms.
"""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from dynstack_probe.faults.folded import frame_names
from dynstack_probe.measure.call_paths import CallPaths
from dynstack_probe.model.host import PAGE_BYTES

WIDTH = 1200
ROW = 18
TOP = 62
LETTER = 6.6  # width of a letter of 11 px, about
NARROWEST = 0.3  # frames below it are left out
# Of a frame that ended in the first KiB, the second, ...; past the last bound: the last.
COLOURS = ("#f7e9b5", "#f2d27a", "#f0b455", "#ee9345", "#d9483b", "#8f2345")
BOUNDS = (1024, 2048, 3072, PAGE_BYTES, 2 * PAGE_BYTES)
LEGEND = ("1 KiB", "2 KiB", "3 KiB", "1 page", "2 pages", "deeper")
PLAIN_COLOUR = "#cdd3da"  # no function: the task's name, the call


@dataclass
class Node:
    """A frame below a certain chain of callers."""

    name: str
    samples: int = 0
    deepest_bytes: int | None = None
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        """The frame of that name below this one, made if it is new."""
        return self.children.setdefault(name, Node(name))

    def levels(self) -> int:
        """How many frames its longest chain has, itself included."""
        return 1 + max((child.levels() for child in self.children.values()), default=0)


def tree(paths: CallPaths) -> Node:
    """All paths merged from their outermost frames on."""
    root = Node("all")
    for path in paths.paths.values():
        depths = [None, None, *(frame.depth_bytes for frame in path.deepest.frames)]
        node = root
        node.samples += path.samples
        for name, depth in zip(frame_names(path), depths, strict=True):
            node = node.child(name)
            node.samples += path.samples
            if depth is not None:
                node.deepest_bytes = max(depth, node.deepest_bytes or 0)
    return root


def _colour(depth_bytes: int | None) -> str:
    if depth_bytes is None:
        return PLAIN_COLOUR
    return COLOURS[bisect_left(BOUNDS, depth_bytes)]


def _shortened(text: str, width: float) -> str:
    letters = int((width - 6) / LETTER)
    if letters >= len(text):
        return text
    return f"{text[: letters - 2]}.." if letters > 3 else ""


def _frames(node: Node, x: float, level: int, scale: float, whole: int) -> Iterator[str]:
    width = node.samples * scale
    if width < NARROWEST:
        return
    deepest = "" if node.deepest_bytes is None else f", down to {node.deepest_bytes} bytes"
    told = f"{node.name}: {node.samples} samples ({node.samples / whole:.1%}){deepest}"
    y = TOP + level * ROW
    yield (
        f'<g class="f" data-x="{x:.2f}" data-w="{width:.2f}" data-l="{level}"'
        f' data-n="{html.escape(node.name)}"><title>{html.escape(told)}</title>'
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW - 1}"'
        f' fill="{_colour(node.deepest_bytes)}"/>'
        f'<text x="{x + 3:.2f}" y="{y + 13}">{html.escape(_shortened(node.name, width))}</text></g>'
    )
    for child in sorted(node.children.values(), key=lambda child: child.name):
        yield from _frames(child, x, level + 1, scale, whole)
        x += child.samples * scale


# Zooms to a clicked frame: its callers fill the width, what is not below it goes away.
_SCRIPT = """
(function () {
  var root = document.currentScript.ownerSVGElement || document;
  var frames = Array.prototype.slice.call(root.querySelectorAll("g.f"));
  function of(g, name) { return parseFloat(g.getAttribute("data-" + name)); }
  function zoom(to) {
    var left = of(to, "x"), wide = of(to, "w"), level = of(to, "l");
    frames.forEach(function (g) {
      var x = of(g, "x"), w = of(g, "w"), slack = 0.02;
      var above = of(g, "l") < level && x <= left + slack && x + w >= left + wide - slack;
      var below = of(g, "l") >= level && x >= left - slack && x + w <= left + wide + slack;
      g.style.display = above || below ? "" : "none";
      if (above) { x = 0; w = WIDTH; } else { x = (x - left) * WIDTH / wide; w = w * WIDTH / wide; }
      var box = g.querySelector("rect"), text = g.querySelector("text");
      box.setAttribute("x", x); box.setAttribute("width", Math.max(w, 0.3));
      text.setAttribute("x", x + 3);
      var name = g.getAttribute("data-n"), letters = Math.floor((w - 6) / LETTER);
      text.textContent = letters >= name.length ? name
        : letters > 3 ? name.slice(0, letters - 2) + ".." : "";
    });
  }
  frames.forEach(function (g) { g.addEventListener("click", function () { zoom(g); }); });
})();
""".replace("WIDTH", str(WIDTH)).replace("LETTER", str(LETTER))


def _legend(y: int) -> Iterator[str]:
    for at, (name, colour) in enumerate(zip(LEGEND, COLOURS, strict=True)):
        x = WIDTH - 500 + at * 83
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 17}" y="{y}">{name}</text>'


def render_svg(paths: CallPaths, title: str) -> str:
    """The whole picture."""
    root = tree(paths)
    height = TOP + root.levels() * ROW + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
        "<style>.f{cursor:pointer}.f:hover rect{stroke:#222;stroke-width:1}"
        "text{fill:#1b1b1b;pointer-events:none}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="24" font-size="15">{html.escape(title)}</text>',
        '<text x="10" y="46">Wider: more samples. Colour: the page of the stack that a function'
        " reached. A click zooms.</text>",
        *_legend(46),
        *(_frames(root, 0.0, 0, WIDTH / root.samples, root.samples) if root.samples else ()),
        f"<script>//<![CDATA[\n{_SCRIPT}//]]></script>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def render_html(paths: CallPaths, title: str) -> str:
    """The same in a page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{margin:12px;background:#fff}svg{max-width:100%;height:auto}</style></head>\n"
        f"<body>\n{render_svg(paths, title)}</body></html>\n"
    )
