# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe fleet`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import Format, refuse_unused_common
from dynstack_probe.fleet.model import By

HELP = """Show the RFC's table for a whole fleet.

Queries a Prometheus server for the latest sample of each host's `dynstack-probe serve`,
and says how many hosts reported and how old their samples are. Needs no privileges and
does not measure this host.

\b
  dynstack-probe fleet --prometheus http://prometheus.example:9090
  dynstack-probe fleet --by kernel --policy static-8k
  dynstack-probe fleet --by host --format csv --output hosts.csv

Thanos, Mimir and VictoriaMetrics work too: give the URL under which they serve
/api/v1/query. Exit codes: 0 good, 1 the server failed or has no such metrics, 2 usage,
4 the server refused (401, 403).
"""


def command(
    context: typer.Context,
    prometheus: str = typer.Option(
        "http://127.0.0.1:9090", "--prometheus", metavar="URL", help="The server to query."
    ),
    by: By = typer.Option(By.cpu, "--by", help="Group rows by this."),
    policy: str = typer.Option(
        "rfc-v1", "--policy", metavar="NAME", help="Allocator model; the hosts must export it."
    ),
    job: Optional[str] = typer.Option(  # noqa: UP045
        None, "--job", metavar="NAME", help="Only hosts of this scrape job.  [default: all]"
    ),
    form: Format = options.FORMAT,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    force: bool = options.FORCE,
    timeout: float = options.TIMEOUT,
    username: Optional[str] = options.USERNAME,  # noqa: UP045
    password_file: Optional[Path] = options.PASSWORD_FILE,  # noqa: UP045
    bearer_token_file: Optional[Path] = options.BEARER_TOKEN_FILE,  # noqa: UP045
    header: list[str] = options.HEADER,
    ca_file: Optional[Path] = options.CA_FILE,  # noqa: UP045
    cert_file: Optional[Path] = options.CERT_FILE,  # noqa: UP045
    key_file: Optional[Path] = options.KEY_FILE,  # noqa: UP045
    insecure: bool = options.INSECURE,
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Show each query, its time and its size."
    ),
) -> None:
    from dynstack_probe.fleet import table
    from dynstack_probe.fleet.ask import ask
    from dynstack_probe.fleet.client import Answer, Server
    from dynstack_probe.output.writing import check_writable, write
    from dynstack_probe.text import say

    refuse_unused_common(context, live=True, output=output)
    check_writable(output, force)

    def tell(expression: str, answer: Answer) -> None:
        if verbose:
            say(
                f"{answer.seconds:.3f} s, {answer.size_bytes} bytes, {len(answer.series)} series:"
                f" {expression}"
            )

    fleet = ask(Server(options.access(context, prometheus), timeout), by, policy, job, tell)
    write(options.render(table, form, fleet), output, force)
