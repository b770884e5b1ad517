# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on a terminal: live, replayed from a capture, or the last one only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from dynstack_probe.errors import UsageError
from dynstack_probe.model.frame import Frame
from dynstack_probe.output.tables import buffered
from dynstack_probe.top.replay import Replay
from dynstack_probe.top.screen import (
    DEFAULT_SIZE,
    LONGEST_LINE,
    Screen,
    Terminal,
    encode,
    speaks_utf8,
    terminal_size,
)
from dynstack_probe.top.view import (
    ASCII,
    BLOCKS,
    Action,
    History,
    Moment,
    Status,
    View,
    press,
    render,
)


class Source(Protocol):
    """Frames as they are taken: measure.recording.Watch."""

    def fileno(self) -> int:
        """Can be read when there is something to take()."""

    def take(self, *, wait: bool = False) -> Iterator[Frame]:
        """The frames since the last call; with `wait` one at least."""


def print_last(
    frames: Iterator[Frame], history: History, source: str, *, of_series: bool = False
) -> None:
    """The last frame, as wide as the terminal, with its colours; plain elsewhere.

    of_series: headed by the median of all.
    """
    moment = None
    for frame in frames:
        moment = history.add(frame)
    if moment is None:
        raise UsageError(f"{source} holds no frame")
    size, system = DEFAULT_SIZE, None
    if sys.stdout.isatty():
        size = terminal_size(sys.stdout.fileno())
        with contextlib.suppress(UsageError):  # a terminal that can print lines
            system = Terminal(os.environ.get("TERM", ""), sys.stdout.fileno()).color_system
    glyphs = BLOCKS if speaks_utf8(sys.stdout.encoding, os.environ) else ASCII
    status = Status(source, keys=False, of_series=of_series)
    lines = render(View(), history, moment, size, glyphs, status)
    console = buffered(LONGEST_LINE, system)
    sys.stdout.write("".join(f"{encode(console, line).rstrip()}\n" for line in lines))
    sys.stdout.flush()


class _Shown:
    def __init__(self, screen: Screen, history: History, moment: Moment) -> None:
        self.screen, self.history, self.moment = screen, history, moment
        self.view = View()
        self._glyphs = BLOCKS if screen.utf8 else ASCII

    def draw(self, status: Status) -> None:
        self.screen.draw(
            lambda size: render(self.view, self.history, self.moment, size, self._glyphs, status)
        )

    def press(self, typed: list[str], step: Callable[[Action], None]) -> bool:
        """Do what the keys say; False if that is to quit."""
        for key in typed:
            matching = self.moment.tasks(self.view, 1).matching
            self.view, action = press(self.view, key, matching)
            if action is Action.QUIT:
                return False
            if action is Action.REDRAW:
                self.screen.redraw()
            elif action is not Action.NONE:
                step(action)
        return self.screen.ended_by is None


def watch(screen: Screen, source: Source, history: History, pace: str) -> None:
    """The live host. The first frame is taken before the screen opens: errors are plain lines."""
    status = Status("this host", pace)
    for frame in source.take(wait=True):
        newest = history.add(frame)
    with screen:
        shown = _Shown(screen, history, newest)
        keep_running = True
        while keep_running and screen.ended_by is None:
            if not shown.view.paused:
                shown.moment = newest
            shown.draw(status)
            typed = screen.wait(None, source.fileno())
            for frame in source.take():
                newest = history.add(frame)
            keep_running = shown.press(typed, lambda _: None)


def replay(
    screen: Screen, frames: Iterator[Frame], history: History, seconds: float | None, name: str
) -> None:
    """A capture's frames, one after the other, and then the last until `q`.

    Raises UsageError: at once if there is no frame, in the end if some could not be read.
    """
    series = Replay(frames, history, seconds)
    first = series.forward()
    if first is None:
        raise UsageError(f"{name} holds no frame")
    shown_at = time.monotonic()
    with screen:
        shown = _Shown(screen, history, first)

        def step(action: Action) -> None:
            nonlocal shown_at
            moment = series.forward() if action is Action.FORWARD else series.back()
            if moment is not None:
                shown.moment, shown_at = moment, time.monotonic()

        keep_running = True
        while keep_running and screen.ended_by is None:
            last = ", then damage" if series.damage else ", the last"
            where = f"frame {shown.moment.number + 1}{last if series.at_end else ''}"
            shown.draw(Status(name, where, can_step=True, of_series=True))
            left = None
            if not (shown.view.paused or series.at_end):
                left = shown_at + series.seconds_to_next() - time.monotonic()
            if left is not None and left <= 0:
                step(Action.FORWARD)
                continue
            typed = screen.wait(left)
            keep_running = shown.press(typed, step)
    if series.damage is not None:
        raise series.damage
