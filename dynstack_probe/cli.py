# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: which subcommands there are, and how errors end."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterable

import typer

from dynstack_probe import __version__, interrupts
from dynstack_probe.commands import (
    cost,
    doctor,
    estimate,
    faults,
    fleet,
    policies,
    record,
    report,
    serve,
    top,
)
from dynstack_probe.errors import ProbeError
from dynstack_probe.output.writing import StandardOutput
from dynstack_probe.text import printable, say

# Typers before 0.12 draw boxes around help where rich is installed, whatever their markup mode.
if getattr(typer.core, "rich", None) is not None:
    setattr(typer.core, "rich", None)  # noqa: B010

PROGRAM = "dynstack-probe"
_COMPLETION = "_DYNSTACK_PROBE_COMPLETE"  # set by the shell
REPORT = "report this, with the traceback that `dynstack-probe -v ...` shows"

app = typer.Typer(
    name=PROGRAM,
    help="How much memory would Linux save on this machine if kernel stacks grew on demand?",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("estimate", help=estimate.HELP)(estimate.command)
app.command("cost", help=cost.HELP)(cost.command)
app.command("policies", help=policies.HELP)(policies.command)
app.command("record", help=record.HELP)(record.command)
app.command("report", help=report.HELP)(report.command)
app.command("serve", help=serve.HELP)(serve.command)
app.command("faults", help=faults.HELP)(faults.command)
app.command("fleet", help=fleet.HELP)(fleet.command)
app.command("top", help=top.HELP)(top.command)
app.command("doctor", help=doctor.HELP)(doctor.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dynstack-probe {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="With an error, show what bcc and the kernel said."
    ),
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def _complain(message: str, details: str = "") -> None:
    """One line; what is behind it only for those who ask."""
    say(f"dynstack-probe: {message}")
    if details and {"-v", "--verbose"} & set(sys.argv[1:]):
        say(details)


def _open_standard_streams() -> None:
    """Put something where the caller closed 0, 1 or 2 (`>&-`), before a file takes the number.

    Writing to 1 then fails as it should; what goes to 2 is lost, as it should.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)  # of itself: the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.__stdout__ in (sys.stdout, None):
        sys.stdout = StandardOutput(sys.stdout)


def _settle_output() -> None:
    """What can't be written of stdout's buffer is lost: no second error at Python's end."""
    try:
        sys.stdout.flush()
    except (OSError, ProbeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(arguments: list[str]) -> int:
    """What app() does, less its own ways to end: it has some for Ctrl-C and for closed pipes."""
    if _COMPLETION in os.environ:
        app(prog_name=PROGRAM)
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, arguments) as context:
            result = command.invoke(context)
    except typer.Exit as end:
        result = end.exit_code
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def main() -> int:
    """Run the command line; returns the exit code. Users never see a traceback."""
    _open_standard_streams()
    try:
        interrupts.raise_interrupt()
        code = _run(sys.argv[1:] or ["--help"])
        interrupts.ignore()
    except BaseException as error:
        interrupts.ignore()
        return _end_of(error)
    return code


def _end_of(error: BaseException) -> int:
    """Tell in one line what ended the command; returns the exit code."""
    _settle_output()
    notes = getattr(error, "__notes__", ())
    if isinstance(error, ProbeError):
        _complain("; ".join((str(error), *notes)), error.details)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _complain("; ".join(("interrupted", *notes)))
        return interrupts.EXIT_CODE
    if isinstance(error, BrokenPipeError):  # `dynstack-probe estimate | head`
        return 0
    if isinstance(error, SystemExit):  # shell completion
        return error.code if isinstance(error.code, int) else 0
    # A usage error of click, which newer typers carry inside: known by its shape.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        _complain(f"{describe()} (see dynstack-probe --help)")
        return 2
    return _unforeseen(error, notes)


def _unforeseen(error: BaseException, notes: Iterable[str]) -> int:
    """The last line of defence."""
    log = "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror or error}"
    else:
        said = printable(str(error)) if str(error) else ""
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    _complain("; ".join((f"unexpected error: {what}", *notes, f"please {REPORT}")), log)
    return 1
