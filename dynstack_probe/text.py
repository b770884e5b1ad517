# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that is safe to show, whatever a task or cgroup calls itself."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys


def printable(name: str | bytes) -> str:
    r"""The name with all that is not printable escaped: \x1b, \u202e, \xff.

    Task names are up to 15 arbitrary bytes (prctl(2), PR_SET_NAME): they may hold
    terminal control sequences, line feeds, broken UTF-8.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii", "backslashreplace")
        for c in text
    )


def spreadsheet_safe(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: such names get a leading quote."""
    return f"'{cell}" if cell[:1] in tuple("=+-@") else cell


def counted(number: int, thing: str) -> str:
    """A number of things: 1 CPU, 2 CPUs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def percent(ratio: float) -> str:
    """A ratio as the RFC prints it: 0.74742 as 74.74%."""
    return f"{ratio * 100:.2f}%"


def small_percent(ratio: float) -> str:
    """A ratio of all memory: two digits, however far below a hundredth of a percent."""
    value = abs(ratio * 100)
    if value == 0 or value >= 0.1:
        return percent(ratio)
    return f"{ratio * 100:.{1 - math.floor(math.log10(value))}f}%"


def date(unix_time: float) -> str:
    """In UTC, to the minute; ? where it is unknown or beyond all calendars."""
    if not unix_time:
        return "?"
    try:
        when = datetime.datetime.fromtimestamp(unix_time, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{when:%Y-%m-%d %H:%M} UTC"


def say(message: str) -> None:
    """A line on standard error; that nobody can read it any more changes nothing."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
