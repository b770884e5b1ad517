# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics as a file, for the textfile collector of node_exporter."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dynstack_probe.errors import UsageError, WriteError
from dynstack_probe.files import check_place, reason, write_whole

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def check(path: Path) -> None:
    """Raise UsageError or WriteError before any work if `path` can't become such a file."""
    if path.suffix != ".prom" or path.name == ".prom":
        raise UsageError(f"{path} must end in .prom: node_exporter reads no other files")
    found = check_place(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file")


def write(path: Path, registry: CollectorRegistry) -> None:
    """Replace `path` by the metrics of `registry`, at once and whole.

    It is in the classic text format, the only one that node_exporter reads there, and
    everybody may read it, since node_exporter runs as another user. Raises WriteError if it
    can't be written; the file is then as it was. What is half written has another suffix than
    .prom, so that node_exporter does not read it.
    """
    from prometheus_client.exposition import generate_latest

    check(path)
    text = generate_latest(registry)
    try:
        write_whole(text, path, force=True, mode=0o644)
    except OSError as error:
        raise WriteError(f"can't write {path}: {reason(error)}") from error
