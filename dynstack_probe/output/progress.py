# SPDX-License-Identifier: GPL-2.0-or-later
"""How far long work has come, on standard error; silent where that is no terminal."""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """A bar over a time that is known, or a moving one where it is not."""

    def __init__(self, what: str, seconds: float) -> None:
        """`seconds` that the work will take; 0 if that is not known."""
        self._seconds = seconds
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
            console=console,
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=seconds or None, said="")

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        # rich 13.3, Debian 12's, ends a bar with a line feed even where it is disabled
        if not self._bar.disable:
            self._bar.stop()

    def show(self, said: str) -> None:
        """Say where it stands; the bar moves with time."""
        elapsed = self._bar.tasks[self._task].elapsed or 0.0
        self._bar.update(self._task, completed=min(elapsed, self._seconds or elapsed), said=said)
