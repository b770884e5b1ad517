"""The metrics as a file, for the textfile collector of node_exporter."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def check(path: Path) -> None:
    """Raise UsageError before any work if `path` can't become such a file."""
    if path.suffix != ".prom" or path.name == ".prom":
        raise UsageError(f"{path} must end in .prom: node_exporter reads no other files")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"can't write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"can't write {path}: no permission to write in {path.parent}")


def write(path: Path, registry: CollectorRegistry) -> None:
    """Replace `path` by the metrics of `registry`, at once and whole.

    It is in the classic text format, the only one that node_exporter reads there, and
    everybody may read it, since node_exporter runs as another user. Raises UsageError if it
    can't be written; the file is then as it was.
    """
    from prometheus_client.exposition import generate_latest

    check(path)
    text = generate_latest(registry)
    # must not end in .prom, or node_exporter would read it half written
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}")
    try:
        temporary.unlink(missing_ok=True)
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error
