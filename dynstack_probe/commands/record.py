# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe record`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import refuse_unused, seconds_of, series_interval
from dynstack_probe.ending import ended_by_signal
from dynstack_probe.errors import UsageError

HELP = """Record kernel stacks in a capture file.

Takes one frame of this host, or with --duration a series that also counts tasks created
and exited in between. Ctrl-C ends a series early and keeps what was recorded so far.
estimate, cost, policies, report and top also read captures, on any machine and without
privileges.

\b
  sudo dynstack-probe record host.dsp
  sudo dynstack-probe record host.dsp --duration 10m --interval 30s
  sudo dynstack-probe record share.dsp --anonymize
  dynstack-probe estimate host.dsp
  dynstack-probe policies host.dsp

--anonymize replaces command and cgroup names by tokens, the same name by the same token.
Tokens differ between captures unless --anonymize-key FILE gives a secret key.
Exit codes: 0 good, 1 failed, 2 usage, 3 this kernel can't be measured, 4 not permitted.
"""


def command(
    context: typer.Context,
    file: Path = typer.Argument(..., metavar="FILE", help="The capture to write."),
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None, "--duration", metavar="TIME", help="Record a series for this long: 90s, 10m, 2h."
    ),
    interval: str = typer.Option(
        "10s", "--interval", metavar="TIME", help="Sampling interval, with --duration."
    ),
    anonymize: bool = typer.Option(
        False, "--anonymize", help="Replace command and cgroup names by tokens."
    ),
    anonymize_key: Optional[Path] = typer.Option(  # noqa: UP045
        None,
        "--anonymize-key",
        metavar="SECRET",
        help="File with the secret key of the tokens.",
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite FILE if it exists."),
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.capture.anonymize import Anonymizer
    from dynstack_probe.capture.writer import CaptureWriter
    from dynstack_probe.measure.recording import record
    from dynstack_probe.output.progress import progress
    from dynstack_probe.output.writing import check_writable
    from dynstack_probe.text import counted, say

    duration_seconds = seconds_of(duration, "--duration") if duration else 0.0
    interval_seconds = 0.0
    if duration:
        interval_seconds = series_interval(context, interval, duration_seconds)
    else:
        refuse_unused(context, ["interval"], "for a series: give --duration too")
    key = _read_key(anonymize_key)
    anonymizer = Anonymizer(key) if anonymize or key is not None else None
    check_writable(file, force, regular=True)

    frames = stacks = 0
    with (
        ended_by_signal() as stop,
        CaptureWriter(file, force=force, anonymized=anonymizer is not None) as writer,
        progress("recording", duration_seconds) as show,
    ):
        for frame in record(stop, duration_seconds, interval_seconds, btf):
            writer.add(anonymizer.frame(frame) if anonymizer else frame)
            stop.worthwhile = True
            frames, stacks = frames + 1, stacks + len(frame.stacks)
            show(f"{frames} frames, {len(frame.stacks)} stacks")
    size = os.path.getsize(file)  # noqa: PTH202
    say(f"{file}: {counted(frames, 'frame')}, {size} bytes, {size / max(1, stacks):.1f} a stack")


def _read_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        key = path.read_bytes()[:4096].strip()
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    if len(key) < 16:
        raise UsageError(f"{path}: a key must have 16 bytes or more, or names could be guessed")
    return key
