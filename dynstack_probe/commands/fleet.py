"""`dynstack-probe fleet`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands.estimate import Format
from dynstack_probe.errors import UsageError
from dynstack_probe.fleet.model import By

if TYPE_CHECKING:
    from dynstack_probe.fleet.model import Fleet

HELP = """Show the RFC's table for all hosts that a Prometheus server scrapes.

Asks the server for the newest sample of each host's `dynstack-probe serve`, and says how
many hosts answered and how old their samples are. Needs no privileges, and reads nothing
of this machine.

\b
  dynstack-probe fleet --prometheus http://prometheus.example:9090
  dynstack-probe fleet --by kernel --policy static-8k
  dynstack-probe fleet --by host --format csv --output hosts.csv

Thanos, Mimir and VictoriaMetrics answer too: give the address below which they have
/api/v1/query. Exit codes: 0 good, 1 the server failed or has no such metrics, 2 usage,
4 the server refused (401, 403).
"""


def _render(fleet: Fleet, form: Format) -> str:
    from dynstack_probe.report import fleet as report

    if form is Format.json:
        return report.as_json(fleet)
    if form is Format.csv:
        return report.as_csv(fleet)
    return report.as_table(fleet)


def command(
    prometheus: str = typer.Option(
        "http://127.0.0.1:9090", "--prometheus", metavar="URL", help="The server to ask."
    ),
    by: By = typer.Option(By.cpu, "--by", help="What a row stands for."),
    policy: str = typer.Option(
        "rfc-v1", "--policy", metavar="NAME", help="Allocator model; the hosts must export it."
    ),
    job: Optional[str] = typer.Option(  # noqa: UP045
        None, "--job", metavar="NAME", help="Only hosts of this scrape job.  [default: all]"
    ),
    form: Format = typer.Option(Format.table, "--format", help="How to print."),
    output: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--output", "-o", help="Write to this file instead of the terminal."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite --output if it exists."),
    timeout: float = typer.Option(
        10.0, "--timeout", metavar="SECONDS", min=0.1, max=3600, help="For each query."
    ),
    username: Optional[str] = typer.Option(  # noqa: UP045
        None, "--username", metavar="NAME", help="Log in with this name (HTTP basic)."
    ),
    password_file: Optional[Path] = typer.Option(  # noqa: UP045
        None,
        "--password-file",
        help="Its password; or in the environment: DYNSTACK_PROMETHEUS_PASSWORD.",
    ),
    bearer_token_file: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--bearer-token-file", help="Log in with this token instead."
    ),
    header: list[str] = typer.Option(
        [], "--header", metavar="'NAME: VALUE'", help="Send this too, such as Mimir's tenant."
    ),
    ca_file: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--ca-file", help="Trust this authority's certificates too."
    ),
    cert_file: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--cert-file", help="Our own certificate, if the server wants one."
    ),
    key_file: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--key-file", help="Its key.  [default: in --cert-file]"
    ),
    insecure: bool = typer.Option(False, "--insecure", help="Trust any certificate."),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Show each query, its time and its size."
    ),
) -> None:
    """Run HELP's command."""
    from dynstack_probe.fleet.access import parse_access
    from dynstack_probe.fleet.ask import ask
    from dynstack_probe.fleet.client import Answer, Server
    from dynstack_probe.report.output import check_writable, write

    check_writable(output, force)
    if math.isnan(timeout):  # which is in every range
        raise UsageError("--timeout: must be a number of seconds")
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

    def tell(expression: str, answer: Answer) -> None:
        if verbose:
            print(
                f"{answer.seconds:.3f} s, {answer.size_bytes} bytes, {len(answer.series)} series:"
                f" {expression}",
                file=sys.stderr,
            )

    fleet = ask(Server(access, timeout), by, policy, job, tell)
    write(_render(fleet, form), output, force)
