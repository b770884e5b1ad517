# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe top`."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import choose_policies, interval_of, refuse_unused_common
from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from dynstack_probe.model.frame import Frame
    from dynstack_probe.top.screen import Screen
    from dynstack_probe.top.view import Action, History, Moment, Status, View

HELP = """Watch kernel stacks live, and what growth on demand would save.

Shows the saving and its trend, tasks by pages used, faults a second, the deepest tasks
and the largest groups. Reads as `record` does: tracepoints count tasks created and
exited, and an iterator reads the stacks.

\b
  sudo dynstack-probe top
  sudo dynstack-probe top --interval 10s --policy static-8k
  sudo dynstack-probe top --once
  dynstack-probe top --replay host.dsp

\b
Keys:  q        quit
       p space  pause, go on
       s r      sort tasks by mark, depth now, age, name; reverse
       c        groups by cgroup, container, comm, kind
       /        only tasks whose name contains ...; Enter; Esc shows all again
       arrows   scroll (also j, k, Page Up, Page Down, g, G)
       < >      left, right: a frame back, on (with --replay)
       ?        help

--once prints a frame and ends; with --interval it takes two, that far apart, to tell
what happens a second. --replay needs no privileges. Exit codes: 0 good, 1 failed,
2 usage, or no terminal, 3 this kernel can't be measured, 4 not permitted.
"""

DEFAULT_SECONDS = 2.0


def command(
    context: typer.Context,
    interval: Optional[str] = typer.Option(  # noqa: UP045
        None, "--interval", metavar="TIME", help="Refresh interval.  [2s]"
    ),
    policy: str = typer.Option(
        "rfc-v1", "--policy", metavar="NAME", help="Allocator model, or a .toml file."
    ),
    once: bool = typer.Option(False, "--once", help="Print one frame and end."),
    replay: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--replay", metavar="CAPTURE", help="Show a file made by `record`, not this host."
    ),
    partial: bool = options.PARTIAL,
    btf: Path = options.BTF,
) -> None:
    """Run HELP's command."""
    from dynstack_probe.top.screen import Screen, obey
    from dynstack_probe.top.view import History

    refuse_unused_common(context, live=replay is None)
    seconds = interval_of(interval) if interval else None
    history = History(choose_policies([policy])[0])
    if once:
        _print_one(_frames_once(replay, partial, seconds, btf), history, replay)
        return
    screen = Screen()
    if replay is not None:
        _replay(screen, _of_capture(replay, partial), history, seconds, replay.name)
    else:
        _watch(screen, history, seconds or DEFAULT_SECONDS, btf)
    if screen.ended_by in (signal.SIGTERM, signal.SIGHUP):
        obey(screen.ended_by)


def _of_capture(path: Path, partial: bool) -> Iterator[Frame]:
    from dynstack_probe.capture import read_frames

    return read_frames(path, partial=partial)


def _frames_once(
    replay: Path | None, partial: bool, seconds: float | None, btf: Path
) -> Iterator[Frame]:
    if replay is not None:
        return _of_capture(replay, partial)
    import threading

    from dynstack_probe.measure.recording import record

    if seconds is None:
        return record(threading.Event(), btf_path=btf)
    return itertools.islice(record(threading.Event(), 2 * seconds, seconds, btf), 2)


def _print_one(frames: Iterator[Frame], history: History, replay: Path | None) -> None:
    """The last frame, as wide as the terminal, with its colours; plain elsewhere."""
    from dynstack_probe.top.screen import (
        DEFAULT_SIZE,
        Terminal,
        encode,
        encoder,
        speaks_utf8,
        terminal_size,
    )
    from dynstack_probe.top.view import ASCII, BLOCKS, Status, View, render

    moment = None
    for frame in frames:
        moment = history.add(frame)
    if moment is None:
        raise UsageError(f"{replay} holds no snapshot")
    size, system = DEFAULT_SIZE, None
    if sys.stdout.isatty():
        size = terminal_size(sys.stdout.fileno())
        try:
            system = Terminal(os.environ.get("TERM", ""), sys.stdout.fileno()).color_system
        except UsageError:  # a terminal that can print lines
            system = None
    utf8 = speaks_utf8(sys.stdout.encoding, os.environ)
    status = Status(replay.name if replay else "this host", keys=False)
    lines = render(View(), history, moment, size, BLOCKS if utf8 else ASCII, status)
    console = encoder(system, colour=not os.environ.get("NO_COLOR"))
    sys.stdout.write("".join(f"{encode(console, line).rstrip()}\n" for line in lines))
    sys.stdout.flush()


class _Shown:
    """What is on the screen: a view of a moment."""

    def __init__(self, screen: Screen, history: History, moment: Moment) -> None:
        from dynstack_probe.top.view import View

        self.screen, self.history, self.moment = screen, history, moment
        self.view: View = View()

    def draw(self, status: Status) -> None:
        """Send what has changed."""
        from dynstack_probe.top.view import ASCII, BLOCKS, render

        glyphs = BLOCKS if self.screen.utf8 else ASCII
        self.screen.draw(
            lambda size: render(self.view, self.history, self.moment, size, glyphs, status)
        )

    def press(self, typed: list[str], step: Callable[[Action], None]) -> bool:
        """Do what the keys say; False if that is to quit."""
        from dynstack_probe.top.view import Action, press

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


def _watch(screen: Screen, history: History, seconds: float, btf: Path) -> None:
    """The live host. Its first frame comes before the screen: errors are plain lines."""
    from dynstack_probe.measure.recording import Watch
    from dynstack_probe.top.view import Status

    status = Status("this host", f"every {seconds:g}s")
    with Watch(seconds, btf) as watch:
        for frame in watch.take(wait=True):
            newest = history.add(frame)
        with screen:
            shown = _Shown(screen, history, newest)
            going_on = True
            while going_on and screen.ended_by is None:
                if not shown.view.paused:
                    shown.moment = newest
                shown.draw(status)
                typed = screen.wait(None, watch.fileno())
                for frame in watch.take():
                    newest = history.add(frame)
                going_on = shown.press(typed, lambda _: None)


def _replay(
    screen: Screen,
    frames: Iterator[Frame],
    history: History,
    seconds: float | None,
    name: str,
) -> None:
    """A capture's frames, one after the other, and then the last until `q`.

    Raises UsageError: at once if there is no frame, in the end if some could not be read.
    """
    from dynstack_probe.top.replay import Replay
    from dynstack_probe.top.view import Action, Status

    replay = Replay(frames, history, seconds)
    first = replay.forward()
    if first is None:
        raise UsageError(f"{name} holds no snapshot")
    shown_at = time.monotonic()
    with screen:
        shown = _Shown(screen, history, first)

        def step(action: Action) -> None:
            nonlocal shown_at
            moment = replay.forward() if action is Action.FORWARD else replay.back()
            if moment is not None:
                shown.moment, shown_at = moment, time.monotonic()

        going_on = True
        while going_on and screen.ended_by is None:
            last = ", then damage" if replay.damage else ", the last"
            where = f"frame {shown.moment.number + 1}{last if replay.at_end else ''}"
            shown.draw(Status(name, where, can_step=True))
            left = None
            if not (shown.view.paused or replay.at_end):
                left = shown_at + replay.seconds_to_next() - time.monotonic()
            if left is not None and left <= 0:
                step(Action.FORWARD)
                continue
            typed = screen.wait(left)
            going_on = shown.press(typed, step)
    if replay.damage is not None:
        raise replay.damage
