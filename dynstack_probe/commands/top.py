# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe top`."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import choose_policies, interval_of, refuse_unused_common

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynstack_probe.model.frame import Frame

HELP = """Watch kernel stacks and the saving live.

Shows the saving and its trend, tasks by pages used, faults per second, the deepest tasks
and the largest groups. Measures as `record` does: tracepoints count tasks created and
exited, and an iterator reads the stacks.

\b
  sudo dynstack-probe top
  sudo dynstack-probe top --interval 10s --policy static-8k
  sudo dynstack-probe top --once
  dynstack-probe top --replay host.dsp

\b
Keys:  q        quit
       p space  pause, resume
       s r      sort tasks by mark, current depth, age, name; reverse
       c        groups by cgroup, container, comm, kind
       /        filter tasks by name; Enter applies, Esc clears
       arrows   scroll (also j, k, Page Up, Page Down, g, G)
       < >      left, right: previous, next frame (with --replay)
       ?        help

--once prints a frame and exits; with --interval it takes two, that far apart, for rates
per second. --replay needs no privileges; its first line is the median over time of the
frames so far, as in all commands, its second the frame shown.
Exit codes: 0 good, 1 failed, 2 usage, or no terminal, 3 this kernel can't be measured,
4 not permitted.
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
    once: bool = typer.Option(False, "--once", help="Print one frame and exit."),
    replay: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--replay", metavar="CAPTURE", help="Replay a file made by `record`, not this host."
    ),
    partial: bool = options.PARTIAL,
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.capture import read_frames
    from dynstack_probe.top import live
    from dynstack_probe.top.screen import Screen
    from dynstack_probe.top.view import History

    refuse_unused_common(context, live=replay is None)
    seconds = interval_of(interval) if interval else None
    history = History(choose_policies([policy])[0])
    source = "this host" if replay is None else replay.name
    if once:
        frames = _now(seconds, btf) if replay is None else read_frames(replay, partial=partial)
        live.print_last(frames, history, source, of_series=replay is not None)
        return
    screen = Screen()
    if replay is not None:
        live.replay(screen, read_frames(replay, partial=partial), history, seconds, source)
    else:
        from dynstack_probe.measure.recording import Watch

        pace = seconds or DEFAULT_SECONDS
        with Watch(pace, btf) as watch:
            live.watch(screen, watch, history, f"every {pace:g}s")
    screen.obey()


def _now(seconds: float | None, btf: Path) -> Iterator[Frame]:
    """One frame of this host, or two that far apart."""
    from dynstack_probe.measure.recording import record

    if seconds is None:
        return record(threading.Event(), btf_path=btf)
    return islice(record(threading.Event(), 2 * seconds, seconds, btf), 2)
