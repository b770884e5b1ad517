# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe doctor`."""

from __future__ import annotations

import enum
from pathlib import Path

import typer

from dynstack_probe.commands import options


class Format(enum.StrEnum):
    table = "table"
    json = "json"


HELP = """Check whether this host can be measured.

\b
  sudo dynstack-probe doctor

Says how to fix what is missing. Loads the probe of each command to tell which of them
work here.

Exit codes: 0 this host can be measured, 3 this kernel or machine can't, 4 it could,
but not by this user; --format json has the exit code of each command.
"""


def command(
    form: Format = options.FORMAT,
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.measure import diagnosis
    from dynstack_probe.output import checklist
    from dynstack_probe.output.columns import json_text

    checks = diagnosis.examine(btf)
    code = diagnosis.exit_code(checks)
    if form is Format.json:
        commands = diagnosis.command_exit_codes(checks)
        text = json_text(checklist.document(checks, code, commands))
    else:
        text = f"{checklist.render(checks)}\n"
    typer.echo(text, nl=False)
    raise typer.Exit(code)
