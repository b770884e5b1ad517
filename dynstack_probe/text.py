# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that is safe to print, whatever a task or cgroup is called."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
from collections.abc import Sequence


def printable(name: str | bytes) -> str:
    r"""The name with non-printable characters escaped: \x1b, \u202e, \xff.

    Task names are up to 15 arbitrary bytes (prctl(2), PR_SET_NAME): they may hold
    terminal control sequences, line feeds, invalid UTF-8.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii", "backslashreplace")
        for c in text
    )


def spreadsheet_safe(cell: str) -> str:
    """The cell, with a leading quote if a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell[:1] in tuple("=+-@") else cell


def counted(number: int, thing: str) -> str:
    """Number and noun, with a plural s: 1 CPU, 2 CPUs."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def percent(ratio: float) -> str:
    """A ratio as the RFC prints it: 0.74742 as 74.74%."""
    return f"{ratio * 100:.2f}%"


def small_percent(ratio: float) -> str:
    """As percent(), but with two significant digits below 0.1%, however small."""
    value = abs(ratio * 100)
    if value == 0 or value >= 0.1:
        return percent(ratio)
    return f"{ratio * 100:.{1 - math.floor(math.log10(value))}f}%"


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """In the largest unit with 2 or more, d to min rounded down: 3 d, 12 min, 4.53 s, 1.5 ms."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds * 1000:.3g} ms" if 0 < seconds < 1 else f"{seconds:.3g} s"


def short_duration(seconds: float) -> str:
    """The same for a narrow column: 3d, 5h, 12m, 45s."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit[0]}"
    return f"{int(seconds)}s"


def clock(seconds: float) -> str:
    """Elapsed time: 2:30, 1:02:30."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def names_in_words(counts: Sequence[tuple[str | bytes, int]], most: int) -> str:
    """At most `most` names with their counts: `a 3, b 2, 4 more names`."""
    shown = [f"{printable(name)} {count}" for name, count in counts[:most]]
    rest = len(counts) - most
    return ", ".join([*shown, f"{rest} more names"] if rest > 0 else shown)


def date(unix_time: float) -> str:
    """In UTC, to the minute; ? if unknown (0) or out of range."""
    if not unix_time:
        return "?"
    try:
        when = datetime.datetime.fromtimestamp(unix_time, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{when:%Y-%m-%d %H:%M} UTC"


def say(message: str) -> None:
    """Print a line on stderr; errors, such as a closed pipe, are ignored."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def tell(message: str) -> None:
    """The same, prefixed with the program's name."""
    say(f"dynstack-probe: {message}")
