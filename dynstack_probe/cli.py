# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: subcommands and global options."""

from __future__ import annotations

import os
import sys

import typer

from dynstack_probe import __version__, ending
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

# typer before 0.12 draws boxes around help if rich is installed, whatever rich_markup_mode says.
if getattr(typer.core, "rich", None) is not None:
    setattr(typer.core, "rich", None)  # noqa: B010

PROGRAM = "dynstack-probe"
_COMPLETION = "_DYNSTACK_PROBE_COMPLETE"  # set by the shell

app = typer.Typer(
    name=PROGRAM,
    help="How much memory would Linux save on this machine if kernel stacks grew on demand?",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _one in (estimate, cost, policies, record, report, serve, faults, fleet, top, doctor):
    app.command(_one.__name__.rpartition(".")[2], help=_one.HELP)(_one.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dynstack-probe {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="On an error, show the output of bcc and the kernel."
    ),
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def _run(arguments: list[str]) -> int:
    """As app(), but without its handling of Ctrl-C and closed pipes, which ending.py does."""
    if _COMPLETION in os.environ:
        app(prog_name=PROGRAM)
    command = typer.main.get_command(app)
    try:
        with command.make_context(PROGRAM, arguments) as context:
            result = command.invoke(context)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.Exit as end:
        result = end.exit_code
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def main() -> int:
    return ending.run(lambda: _run(sys.argv[1:] or ["--help"]))
