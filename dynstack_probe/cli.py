"""The command line: which subcommands there are, and how errors end."""

from __future__ import annotations

import io
import os
import sys

import typer

from dynstack_probe import __version__
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

app = typer.Typer(
    name="dynstack-probe",
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
    """One line; the log behind it only for those who ask."""
    print(f"dynstack-probe: {message}", file=sys.stderr)
    if details and {"-v", "--verbose"} & set(sys.argv[1:]):
        print(details, file=sys.stderr)


def main() -> int:
    """Run the command line; returns the exit code. Users never see a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except ProbeError as error:
        _complain(str(error), error.details)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `dynstack-probe estimate | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # A usage error of click, which newer typers carry inside: known by its shape.
        describe = getattr(error, "format_message", None)
        if describe is None:
            raise
        _complain(f"{describe()} (see dynstack-probe --help)")
        return 2
    return result if isinstance(result, int) else 0
