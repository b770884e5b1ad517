# SPDX-License-Identifier: GPL-2.0-or-later
"""How well one colour is seen on another, as WCAG defines it."""

from __future__ import annotations


def luminance(colour: str) -> float:
    """Of rgb(r, g, b): 0 to 1."""
    parts = colour.removeprefix("rgb(").removesuffix(")").split(",")
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(part) / 255 for part in parts)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """1 to 21; small text wants 4.5, large text and shapes 3."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
