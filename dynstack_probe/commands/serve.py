# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.errors import UsageError

HELP = """Export metrics to Prometheus, as a daemon.

Counts every task created or exited, scans all tasks every 15 seconds (less often if there
are very many), and serves http://127.0.0.1:10016/metrics. Privileges are needed only at
start: once the probes are loaded every capability is dropped.

\b
  sudo dynstack-probe serve
  sudo dynstack-probe serve --listen :10016 --web.config.file web.yml
  sudo dynstack-probe serve --textfile /var/lib/node_exporter/dynstack.prom

SIGHUP reloads --config; SIGTERM stops it. Exit codes: 0 ended by a signal, 1 failed,
2 usage, 3 this kernel can't be measured, 4 not permitted.
"""


def command(
    listen: Optional[str] = typer.Option(  # noqa: UP045
        None,
        "--listen",
        "--web.listen-address",
        metavar="HOST:PORT",
        help="Address to listen on.  [default: 127.0.0.1:10016]",
    ),
    config: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--config", help="Settings in TOML: interval, policies, top cgroups, ..."
    ),
    web_config: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--web.config.file", help="TLS and passwords, as of Prometheus' exporter-toolkit."
    ),
    textfile: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--textfile", help="Also write each sample to this .prom file for node_exporter."
    ),
    page_faults: Optional[bool] = typer.Option(  # noqa: UP045
        None, "--page-faults/--no-page-faults", help="Count page faults.  [default: yes]"
    ),
    systemd_socket: bool = typer.Option(
        False, "--web.systemd-socket", help="Listen on the socket passed by systemd."
    ),
) -> None:
    from dynstack_probe.serve.options import Options, become_daemon

    if listen is not None and systemd_socket:
        raise UsageError("give --listen or --web.systemd-socket, not both")
    become_daemon(Options(config, web_config, textfile, listen, page_faults, systemd_socket))
