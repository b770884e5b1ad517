# SPDX-License-Identifier: GPL-2.0-or-later
"""Grafana's colours by name and theme, as far as our dashboards use them.

From grafana/grafana: packages/grafana-data/src/themes/createVisualizationColors.ts and
createColors.ts, packages/grafana-ui/src/utils/colors.ts.
"""

from __future__ import annotations

from collections.abc import Iterator

THEMES = {
    "light": {
        "canvas": "#f4f5f5", "panel": "#ffffff", "ink": "#24292e", "rule": "#e1e3e5",
        "green": "#56a64b", "semi-dark-green": "#37872d", "dark-green": "#19730e",
        "yellow": "#f2cc0c", "dark-yellow": "#cc9d00",
        "orange": "#ff780a", "dark-orange": "#e55400",
        "red": "#e02f44", "dark-red": "#ad0317",
        "blue": "#3274d9", "purple": "#a352cc",
    },
    "dark": {
        "canvas": "#111217", "panel": "#181b1f", "ink": "#ccccdc", "rule": "#2d2f37",
        "green": "#73bf69", "semi-dark-green": "#56a64b", "dark-green": "#37872d",
        "yellow": "#fade2a", "dark-yellow": "#e0b400",
        "orange": "#ff9830", "dark-orange": "#fa6400",
        "red": "#f2495c", "dark-red": "#c4162a",
        "blue": "#5794f2", "purple": "#b877d9",
    },
}  # fmt: skip
# the first of the classic palette
SERIES = ("green", "yellow", "blue", "orange", "red", "purple", "dark-green", "dark-yellow")
DARK_TEXT, LIGHT_TEXT = "#202226", "#f7f8fa"


def _parts(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def text_on(ground: str) -> str:
    """What Grafana writes with on a coloured panel, by its own measure of brightness."""
    red, green, blue = _parts(ground)
    return DARK_TEXT if (299 * red + 587 * green + 114 * blue) / 1000 > 180 else LIGHT_TEXT


def as_rgb(colour: str) -> str:
    """As a browser says it."""
    return f"rgb({', '.join(map(str, _parts(colour)))})"


def css(colour: str) -> str:
    """A name of Grafana's as the variable that theme_style() makes of it; #rrggbb as it is."""
    return colour if colour.startswith("#") else f"var(--{colour})"


def css_on(colour: str) -> str:
    """What is written with on it."""
    return text_on(colour) if colour.startswith("#") else f"var(--on-{colour})"


def theme_style() -> str:
    """All of them as CSS variables; `on-NAME` is the text's on NAME."""

    def variables(colours: dict[str, str]) -> Iterator[str]:
        for name, colour in colours.items():
            yield f"--{name}:{colour};--on-{name}:{text_on(colour)};"

    light, dark = ("".join(variables(THEMES[name])) for name in ("light", "dark"))
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )
