# SPDX-License-Identifier: GPL-2.0-or-later
"""A progress bar on standard error; silent unless that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def progress(what: str, seconds: float) -> Iterator[Callable[[str], None]]:
    """A bar over `seconds`, indeterminate if 0. Yields a function that sets its status text."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    task = bar.add_task(what, total=seconds or None, said="")

    def show(said: str) -> None:
        elapsed = bar.tasks[task].elapsed or 0.0
        bar.update(task, completed=min(elapsed, seconds or elapsed), said=said)

    # rich 13.3, Debian 12's, ends a bar with a line feed even where it is disabled
    with contextlib.nullcontext() if bar.disable else bar:
        yield show
