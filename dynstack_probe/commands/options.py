# SPDX-License-Identifier: GPL-2.0-or-later
"""Options shared by several commands, and the parsing of their values."""

from __future__ import annotations

import enum
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from dynstack_probe.fleet.access import Access
    from dynstack_probe.policy import Policy


class Format(enum.StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


def render(how: ModuleType, form: Format, *what: object) -> str:
    """The output of the module's as_table(), as_json() or as_csv()."""
    text: str = getattr(how, f"as_{form.value}")(*what)
    return text


FORMAT = typer.Option(Format.table, "--format", help="Output format.")
OUTPUT = typer.Option(None, "--output", "-o", help="Write to this file instead of the terminal.")
FORCE = typer.Option(False, "--force", help="Overwrite --output if it exists.")
PARTIAL = typer.Option(False, "--partial", help="Read a damaged capture up to the damage.")
BTF = typer.Option(Path("/sys/kernel/btf/vmlinux"), "--btf", help="BTF of the running kernel.")
CAPTURES = typer.Argument(
    None, metavar="[CAPTURE]...", help="Files made by `record`, instead of this host."
)


def _no_nan(seconds: float) -> float:
    """Reject NaN, which typer's range check accepts."""
    if math.isnan(seconds):
        raise UsageError("--timeout: must be a number of seconds")
    return seconds


# Connecting and authenticating to a Prometheus server.
TIMEOUT = typer.Option(
    10.0,
    "--timeout",
    metavar="SECONDS",
    min=0.1,
    max=3600,
    callback=_no_nan,
    help="Timeout of each query.",
)
USERNAME = typer.Option(
    None, "--username", metavar="NAME", help="User name for HTTP basic authentication."
)
PASSWORD_FILE = typer.Option(
    None,
    "--password-file",
    help="Its password; or set DYNSTACK_PROMETHEUS_PASSWORD.",
)
BEARER_TOKEN_FILE = typer.Option(
    None, "--bearer-token-file", help="Authenticate with this token instead."
)
HEADER = typer.Option(
    [], "--header", metavar="'NAME: VALUE'", help="Send this header too, such as Mimir's tenant ID."
)
CA_FILE = typer.Option(None, "--ca-file", help="Also trust this certificate authority.")
CERT_FILE = typer.Option(
    None, "--cert-file", help="Client certificate, if the server asks for one."
)
KEY_FILE = typer.Option(None, "--key-file", help="Its private key.  [default: in --cert-file]")
INSECURE = typer.Option(False, "--insecure", help="Do not verify the server's certificate.")
ACCESS = (
    *("username", "password_file", "bearer_token_file", "header"),
    *("ca_file", "cert_file", "key_file", "insecure"),
)


def access(context: typer.Context, url: str) -> Access:
    """URL and credentials from the options above. Raises UsageError."""
    from dynstack_probe.fleet.access import parse_access

    given = {name: context.params[name] for name in ACCESS}
    files = {name: Path(file) for name, file in given.items() if file and name.endswith("_file")}
    return parse_access(url, headers=given.pop("header"), **{**given, **files})


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_SECONDS = 30 * 86400


def refuse_unused(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raise UsageError if one of these options was given, as it would have no effect.

    names: of the command's parameters; why: what they apply to.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{max(parameter.opts, key=len)} is {why}")


def refuse_unused_common(
    context: typer.Context, *, live: bool, output: Path | bool | None = True
) -> None:
    """The same for --btf unless `live`, --partial if `live`, and --force without --output."""
    if live:
        refuse_unused(context, ["partial"], "for captures")
    else:
        refuse_unused(context, ["btf"], "for this host's kernel")
    if not output:
        refuse_unused(context, ["force"], "for --output")


def seconds_of(text: str, option: str) -> float:
    """90, 90s, 1.5m, 2h or 1d as seconds; UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{option} {text}: must be a time such as 90s, 10m or 2h, 30 days at most")
    return seconds


def interval_of(text: str) -> float:
    """The value of --interval in seconds; UsageError below 0.1 s."""
    seconds = seconds_of(text, "--interval")
    if seconds < 0.1:
        raise UsageError(f"--interval {text}: must be 0.1s or more")
    return seconds


def series_interval(context: typer.Context, text: str, duration_seconds: float) -> float:
    """Sampling interval of a series, seconds; by default at most half the duration.

    Raises UsageError if the series would hold a single frame.
    """
    seconds = interval_of(text)
    source = context.get_parameter_source("interval")
    if source is not None and source.name == "DEFAULT":
        return max(0.1, min(seconds, duration_seconds / 2))
    if seconds > duration_seconds:
        raise UsageError(
            f"--interval {seconds:g}s is longer than --duration {duration_seconds:g}s:"
            " a series needs two frames or more"
        )
    return seconds


def choose_policies(names: Sequence[str]) -> list[Policy]:
    """Built-in policies by name and custom ones from *.toml files, without duplicates.

    Raises UsageError for an unknown name, or an unreadable or invalid file.
    """
    from dynstack_probe.policy import BUILT_IN

    chosen: dict[str, Policy] = {}
    for name in names:
        if name.endswith(".toml"):
            policy = _read_policy(Path(name))
            if policy.name in BUILT_IN:
                raise UsageError(f"{name}: name: {policy.name} is built in, choose another")
        elif name in BUILT_IN:
            policy = BUILT_IN[name]
        else:
            known = ", ".join(BUILT_IN)
            raise UsageError(f"unknown policy {name!r}: choose from {known}, or a .toml file")
        chosen[policy.name] = policy
    return list(chosen.values())


def _read_policy(path: Path) -> Policy:
    import tomllib

    from dynstack_probe.policy.custom import policy_from

    try:
        with path.open("rb") as file:
            text = file.read(1 << 16).decode()
        return policy_from(tomllib.loads(text))
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:  # invalid TOML, UTF-8 or key
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from error
