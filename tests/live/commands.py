# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command, as the command line itself lists them, and how to run each quickly.

Tests that use this cover commands and outputs added later.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from dynstack_probe.cli import app
from tests import ROOT

# Input files. Any other path parameter is an output.
READ = {
    *("captures", "capture", "replay", "btf", "anonymize_key", "config", "web_config"),
    *("password_file", "bearer_token_file", "ca_file", "cert_file", "key_file"),
}
# How to run a command for a second or less; CAPTURE is a series, PROMETHEUS a server.
QUICKLY = {
    "cost": ["CAPTURE"],
    "doctor": [],
    "estimate": ["CAPTURE"],
    "faults": ["--duration", "0.3s"],
    "fleet": ["--by", "host", "--prometheus", "PROMETHEUS"],
    "policies": ["CAPTURE"],
    "record": ["FILE"],
    "report": ["CAPTURE", "--policy", "rfc-v1", "--output", "-"],
    "serve": ["--listen", "127.0.0.1:0"],
    "top": ["--once", "--replay", "CAPTURE"],
}
SUFFIX = {"textfile": ".prom", "flamegraph": ".svg"}


def commands() -> list[str]:
    group = typer.main.get_command(app)
    return sorted(group.commands)  # type: ignore[attr-defined]


def outputs() -> Iterator[tuple[str, str, str]]:
    """Command, parameter, and its option; "" for an argument."""
    group = typer.main.get_command(app)
    for name in commands():
        for parameter in group.commands[name].params:  # type: ignore[attr-defined]
            if parameter.type.name == "path" and parameter.name not in READ:
                is_option = parameter.param_type_name == "option"
                yield name, parameter.name, max(parameter.opts, key=len) if is_option else ""


def arguments(
    command: str, capture: Path, prometheus: str, output: tuple[str, Path] | None = None
) -> list[str]:
    """A quick run of the command, which writes to `output`: its option and the file."""
    values = {"CAPTURE": str(capture), "PROMETHEUS": prometheus}
    if output is not None and not output[0]:
        values["FILE"] = str(output[1])
    words = [values.get(word, word) for word in QUICKLY[command]]
    if output is not None and output[0]:
        if output[0] in words:
            at = words.index(output[0])
            del words[at : at + 2]
        words += [output[0], str(output[1])]
        if output[0] in ("--folded", "--flamegraph"):
            words += ["--deeper-than", "0", "--rate", "999"]  # so that there is something to write
    return [command, *words]


def run(
    words: Sequence[str], *, stdout: int = subprocess.PIPE, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run it in the project's directory; ended after ten seconds if it is still serving."""
    timeout = ["timeout", "--foreground", "--preserve-status", "6"] if words[0] == "serve" else []
    return subprocess.run(
        [*timeout, *prefix, sys.executable, "-m", "dynstack_probe", *words],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        timeout=60,
        check=False,
    )


def complaints(stderr: str) -> list[str]:
    """The lines that a successful run does not print."""
    good = ("watching", "serving", "configuration reloaded")
    return [
        line
        for line in stderr.splitlines()
        if not line.removeprefix("dynstack-probe: ").startswith(good)
    ]
