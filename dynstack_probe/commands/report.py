# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe report`."""

from __future__ import annotations

import datetime
import enum
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import (
    check_series,
    choose_policies,
    interval_of,
    refuse_unused,
    refuse_unused_common,
    seconds_of,
)
from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynstack_probe.fleet.access import Access
    from dynstack_probe.policy import Policy
    from dynstack_probe.report.document import Document


class Format(enum.StrEnum):
    """How to write it."""

    html = "html"
    text = "text"


HELP = """Write a full report: HTML for a browser, or text for a mail.

One HTML page that needs no network and runs no script, or with --format text plain ASCII
of at most 71 columns: method and its error, the RFC's table, depths ever and now, every
policy, faults over time, who goes deep, and how to repeat it.

\b
  sudo dynstack-probe report
  sudo dynstack-probe report --duration 1m
  dynstack-probe report host.dsp --output host.html
  dynstack-probe report host.dsp --format text
  dynstack-probe report a.dsp b.dsp c.dsp --output fleet.html
  dynstack-probe report --prometheus http://127.0.0.1:9090 --instance db1:10016

Without a capture it scans this host, once or for --duration. HTML goes to --output
[dynstack-report.html], text to the terminal; `--output -` is the terminal for both. Exit
codes: 0 good, 1 failed, 2 usage, 3 this kernel
can't be measured, 4 not permitted.
"""
# for --prometheus only
ACCESS = (
    *("timeout", "username", "password_file", "bearer_token_file", "header"),
    *("ca_file", "cert_file", "key_file", "insecure"),
)
DEFAULT_OUTPUT = Path("dynstack-report.html")


def command(
    context: typer.Context,
    captures: list[Path] = options.CAPTURES,
    form: Format = typer.Option(Format.html, "--format", help="How to write it."),
    policy: list[str] = typer.Option(
        [], "--policy", metavar="NAME", help="Compare only this, or a .toml file. Repeat.  [all]"
    ),
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None,
        "--duration",
        metavar="TIME",
        help="Watch this host for so long: 90s, 10m, 2h; of Prometheus the range.  [1h]",
    ),
    interval: str = typer.Option(
        "5s", "--interval", metavar="TIME", help="Sampling interval, with --duration."
    ),
    prometheus: Optional[str] = typer.Option(  # noqa: UP045
        None, "--prometheus", metavar="URL", help="Ask this server about a host's past."
    ),
    instance: Optional[str] = typer.Option(  # noqa: UP045
        None, "--instance", metavar="NAME", help="Which host, if the server knows several."
    ),
    job: Optional[str] = typer.Option(  # noqa: UP045
        None, "--job", metavar="NAME", help="Of which scrape job, if several have it."
    ),
    start: Optional[str] = typer.Option(  # noqa: UP045
        None,
        "--from",
        metavar="TIME",
        help="Where the range begins: 2026-11-23T08:00, in UTC unless said.  [up to now]",
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
    """Run HELP's command."""
    from dynstack_probe.fleet.access import parse_access
    from dynstack_probe.output.writing import check_writable, write
    from dynstack_probe.policy import BUILT_IN
    from dynstack_probe.text import say

    if not (duration and prometheus is None):
        refuse_unused(context, ["interval"], "for watching this host: give --duration too")
    if prometheus is None:
        refuse_unused(context, ACCESS, "for --prometheus")
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
        access = parse_access(
            prometheus,
            username=username,
            password_file=password_file,
            bearer_token_file=bearer_token_file,
            headers=header,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            insecure=insecure,
        )
        seconds = seconds_of(duration or "1h", "--duration")
        begin = _unix_time(start) if start else None
        document = _of_prometheus(access, timeout, begin, seconds, instance, job)
    elif instance or job or start:
        raise UsageError("--instance, --job and --from are for --prometheus")
    elif captures:
        if duration:
            raise UsageError("--duration is for this host: a capture lasts as long as it does")
        document = _of_captures(captures, policies, partial)
    else:
        document = _of_host(policies, duration, interval, btf)
    write(render(document, form), target, force)
    if target is not None:
        say(f"{target}: {target.stat().st_size} bytes")


def _target(form: Format, output: Path | None) -> Path | None:
    if output is None:
        return DEFAULT_OUTPUT if form is Format.html else None
    return None if output == Path("-") else output


def render(document: Document, form: Format) -> str:
    """The document in the form asked for."""
    if form is Format.html:
        from dynstack_probe.report import as_html

        return as_html.render(document)
    from dynstack_probe.report import as_text

    return as_text.render(document)


def _of_captures(paths: Sequence[Path], policies: Sequence[Policy], partial: bool) -> Document:
    from dynstack_probe.capture import Capture
    from dynstack_probe.report.from_frames import subject_of
    from dynstack_probe.report.sections import document_of
    from dynstack_probe.text import printable

    subjects = [
        subject_of(Capture(path, partial=partial), policies, path.name, path.name) for path in paths
    ]
    names = " ".join(shlex.quote(printable(path.name)) for path in paths)
    again = [
        f"dynstack-probe report {names} --output report.html",
        f"dynstack-probe report {names} --format text",
    ]
    return document_of(subjects, again, time.time())


def _of_host(
    policies: Sequence[Policy], duration: str | None, interval: str, btf: Path
) -> Document:
    from dynstack_probe.commands.watching import watched
    from dynstack_probe.measure.stack_scan import take_frame
    from dynstack_probe.report.from_frames import subject_of
    from dynstack_probe.report.sections import document_of

    again = ["dynstack-probe report host.dsp", "dynstack-probe report host.dsp --format text"]
    if not duration:
        subject = subject_of([take_frame(btf)], policies, "this host", "host.dsp")
        return document_of([subject], again, time.time())
    seconds, every = seconds_of(duration, "--duration"), interval_of(interval)
    check_series(every, seconds)
    with watched(seconds, every, btf) as frames:
        subject = subject_of(frames, policies, "this host", "host.dsp")
    return document_of([subject], again, time.time())


def _unix_time(text: str) -> float:
    try:
        when = datetime.datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"--from {text!a}: must be a time such as 2026-11-23T08:00") from None


def _of_prometheus(
    access: Access,
    timeout_seconds: float,
    start: float | None,
    seconds: float,
    instance: str | None,
    job: str | None,
) -> Document:
    from dynstack_probe.fleet.client import Server
    from dynstack_probe.fleet.history import history_of, range_of
    from dynstack_probe.policy import HEADLINE
    from dynstack_probe.report.from_prometheus import subject_of
    from dynstack_probe.report.sections import document_of
    from dynstack_probe.text import printable

    asked = range_of(start, seconds)
    history = history_of(Server(access, timeout_seconds), asked, HEADLINE, instance, job)
    begin = datetime.datetime.fromtimestamp(asked.end - asked.seconds, datetime.UTC)
    again = (
        f"dynstack-probe report --prometheus {shlex.quote(access.url)}"
        f" --instance {shlex.quote(printable(history.instance))}"
        f" --job {shlex.quote(printable(history.job))}"
        f" --from {begin:%Y-%m-%dT%H:%M:%SZ} --duration {seconds:.0f}s"
    )
    return document_of([subject_of(history)], [again, f"{again} --format text"], time.time())
