# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe report`."""

from __future__ import annotations

import datetime
import enum
import importlib
from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import (
    choose_policies,
    refuse_unused,
    refuse_unused_common,
    seconds_of,
    series_interval,
)
from dynstack_probe.errors import UsageError


class Format(enum.StrEnum):
    html = "html"
    text = "text"


HELP = """Write a full report, as HTML or plain text.

One self-contained HTML page without scripts, or with --format text plain ASCII for a
mail, at most 71 columns wide: method and error, the RFC's table, high-water marks and
current depths, every policy, CPU cost, safety, faults over time, the deepest tasks, and
how to reproduce it.

\b
  sudo dynstack-probe report
  sudo dynstack-probe report --duration 1m
  dynstack-probe report host.dsp --output host.html
  dynstack-probe report host.dsp --format text
  dynstack-probe report a.dsp b.dsp c.dsp --output fleet.html
  dynstack-probe report --prometheus http://127.0.0.1:9090 --instance db1:10016

Without a capture it scans this host, once or for --duration. HTML goes to --output
[dynstack-report.html], text to the terminal; `--output -` is the terminal for both. Exit
codes: 0 good, 1 failed, 2 usage, 3 this kernel can't be measured, 4 not permitted.
"""
DEFAULT_OUTPUT = Path("dynstack-report.html")


def command(
    context: typer.Context,
    captures: list[Path] = options.CAPTURES,
    form: Format = typer.Option(Format.html, "--format", help="Output format."),
    policy: list[str] = typer.Option(
        [],
        "--policy",
        metavar="NAME",
        help="Compare only this policy, or a .toml file; repeatable.  [all]",
    ),
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None,
        "--duration",
        metavar="TIME",
        help="Watch this host for this long: 90s, 10m, 2h; with --prometheus the range.  [1h]",
    ),
    interval: str = typer.Option(
        "5s", "--interval", metavar="TIME", help="Sampling interval, with --duration."
    ),
    prometheus: Optional[str] = typer.Option(  # noqa: UP045
        None, "--prometheus", metavar="URL", help="Report a host's history from this server."
    ),
    instance: Optional[str] = typer.Option(  # noqa: UP045
        None, "--instance", metavar="NAME", help="Which host, if the server has several."
    ),
    job: Optional[str] = typer.Option(  # noqa: UP045
        None, "--job", metavar="NAME", help="Which scrape job, if several have that host."
    ),
    start: Optional[str] = typer.Option(  # noqa: UP045
        None,
        "--from",
        metavar="TIME",
        help="Start of the range: 2026-11-23T08:00, UTC by default.  [up to now]",
    ),
    partial: bool = options.PARTIAL,
    output: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--output", "-o", help="Write to this file, or - for the terminal."
    ),
    force: bool = options.FORCE,
    btf: Path = options.BTF,
    timeout: float = options.TIMEOUT,
    username: Optional[str] = options.USERNAME,  # noqa: UP045
    password_file: Optional[Path] = options.PASSWORD_FILE,  # noqa: UP045
    bearer_token_file: Optional[Path] = options.BEARER_TOKEN_FILE,  # noqa: UP045
    header: list[str] = options.HEADER,
    ca_file: Optional[Path] = options.CA_FILE,  # noqa: UP045
    cert_file: Optional[Path] = options.CERT_FILE,  # noqa: UP045
    key_file: Optional[Path] = options.KEY_FILE,  # noqa: UP045
    insecure: bool = options.INSECURE,
) -> None:
    from dynstack_probe.fleet.client import Server
    from dynstack_probe.fleet.history import history_of, range_of
    from dynstack_probe.output.writing import check_writable, write
    from dynstack_probe.policy import BUILT_IN, HEADLINE
    from dynstack_probe.report.from_frames import document_of_captures, document_of_host
    from dynstack_probe.report.from_prometheus import document_of_history
    from dynstack_probe.text import say

    if not (duration and prometheus is None):
        refuse_unused(context, ["interval"], "for watching this host: give --duration too")
    if prometheus is None:
        refuse_unused(context, ["timeout", *options.ACCESS], "for --prometheus")
    if not captures:
        refuse_unused(context, ["partial"], "for captures")
    refuse_unused_common(context, live=not captures and prometheus is None)
    policies = choose_policies(policy or list(BUILT_IN))
    target = _target(form, output)
    check_writable(target, force)
    if form is Format.html:
        from dynstack_probe.report.plots import load_pygal

        load_pygal()  # before any work
    if prometheus is not None:
        if captures or policy:
            raise UsageError("--prometheus takes no capture and no --policy")
        seconds = seconds_of(duration or "1h", "--duration")
        server = Server(options.access(context, prometheus), timeout)
        asked = range_of(_unix_time(start) if start else None, seconds)
        document = document_of_history(history_of(server, asked, HEADLINE, instance, job))
    elif instance or job or start:
        raise UsageError("--instance, --job and --from are for --prometheus")
    elif captures:
        if duration:
            raise UsageError("--duration is for this host: a capture lasts as long as it does")
        document = document_of_captures(captures, policies, partial=partial)
    elif duration:
        from dynstack_probe.commands.watching import watched

        seconds = seconds_of(duration, "--duration")
        with watched(seconds, series_interval(context, interval, seconds), btf) as frames:
            document = document_of_host(frames, policies)
    else:
        from dynstack_probe.measure.stack_scan import take_frame

        document = document_of_host([take_frame(btf)], policies)
    how = importlib.import_module(f"dynstack_probe.report.as_{form.value}")
    write(how.render(document), target, force)
    if target is not None:
        say(f"{target}: {target.stat().st_size} bytes")


def _target(form: Format, output: Path | None) -> Path | None:
    if output is None:
        return DEFAULT_OUTPUT if form is Format.html else None
    return None if output == Path("-") else output


def _unix_time(text: str) -> float:
    try:
        when = datetime.datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"--from {text!a}: must be a time such as 2026-11-23T08:00") from None
