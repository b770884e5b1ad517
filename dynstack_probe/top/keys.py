# SPDX-License-Identifier: GPL-2.0-or-later
"""Decode a terminal's bytes into keys.

A key is a printable character, or one of the names in NAMED. What a terminal sends besides
(function keys, reports, pasted control characters) is not a key and is left out.
"""

from __future__ import annotations

import codecs

ESCAPE = "escape"
ENTER = "enter"
BACKSPACE = "backspace"
CLEAR = "clear"  # Ctrl-U: what was typed so far
REDRAW = "redraw"  # Ctrl-L
UP, DOWN, LEFT, RIGHT = "up", "down", "left", "right"
PAGE_UP, PAGE_DOWN, HOME, END = "page up", "page down", "home", "end"

_CONTROL = {
    "\r": ENTER,
    "\n": ENTER,
    "\b": BACKSPACE,
    "\x7f": BACKSPACE,
    "\x15": CLEAR,
    "\x0c": REDRAW,
}
# What follows ESC [ or ESC O: ECMA-48 CSI and SS3, as xterm, the Linux console, screen send.
_SEQUENCES = {
    "A": UP,
    "B": DOWN,
    "C": RIGHT,
    "D": LEFT,
    "H": HOME,
    "F": END,
    "1~": HOME,
    "7~": HOME,
    "4~": END,
    "8~": END,
    "5~": PAGE_UP,
    "6~": PAGE_DOWN,
}
NAMED = frozenset({ESCAPE, *_CONTROL.values(), *_SEQUENCES.values()})
_LONGEST_SEQUENCE = 64


class KeyDecoder:
    """Accepts bytes in chunks of any size."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sequence: str | None = None  # since ESC; None outside

    @property
    def is_open(self) -> bool:
        """Whether an escape sequence has begun: more may come, or it was the Esc key."""
        return self._sequence is not None

    def feed(self, raw: bytes) -> list[str]:
        """The keys that these bytes complete."""
        keys = []
        for character in self._decoder.decode(raw):
            key = self._next(character)
            if key is not None:
                keys.append(key)
        return keys

    def flush(self) -> list[str]:
        """Nothing followed for a while: a lone ESC was the key, half a sequence was noise."""
        sequence, self._sequence = self._sequence, None
        return [ESCAPE] if sequence == "" else []

    def _next(self, character: str) -> str | None:
        if character == "\x1b":
            was_escape = self._sequence == ""
            self._sequence = ""
            return ESCAPE if was_escape else None
        if self._sequence is None:
            key = _CONTROL.get(character)
            return key or (character if character.isprintable() else None)
        self._sequence += character
        if not _is_complete(self._sequence):
            return None
        sequence, self._sequence = self._sequence, None
        return _SEQUENCES.get(sequence[1:]) if sequence[0] in "[O" else None


def _is_complete(sequence: str) -> bool:
    """ESC [ parameters final, ESC O final, or ESC with one character (Alt)."""
    if sequence[0] not in "[O" or len(sequence) > _LONGEST_SEQUENCE:
        return True
    return len(sequence) > 1 and "@" <= sequence[-1] <= "~"
