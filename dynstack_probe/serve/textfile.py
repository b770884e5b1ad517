# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics as a file for node_exporter's textfile collector."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dynstack_probe.errors import UsageError, WriteError
from dynstack_probe.files import check_place, reason, write_whole

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def check(path: Path) -> None:
    """Raise UsageError or WriteError up front if `path` can't be written."""
    if path.suffix != ".prom" or path.name == ".prom":
        raise UsageError(f"{path} must end in .prom: node_exporter ignores other files")
    found = check_place(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file")


def write(path: Path, registry: CollectorRegistry) -> None:
    """Atomically replace `path` by the metrics of `registry`.

    In the classic text format, the only one that node_exporter's collector parses, and
    world-readable, since node_exporter runs as another user. Raises WriteError, and leaves the
    old file, if it can't be written. The temporary file does not end in .prom, so that
    node_exporter ignores it.
    """
    from prometheus_client.exposition import generate_latest

    check(path)
    text = generate_latest(registry)
    try:
        write_whole(text, path, force=True, mode=0o644)
    except OSError as error:
        raise WriteError(f"can't write {path}: {reason(error)}") from error
