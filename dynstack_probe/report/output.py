"""Where a report goes: the terminal, or a file that is never half written."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from dynstack_probe.errors import UsageError


def check_writable(path: Path | None, force: bool) -> None:
    """Raise UsageError before any work if `path` can't or must not be written."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        return  # a device or pipe: nothing to overwrite
    if path.exists() and not force:
        raise UsageError(f"{path} exists: choose another name, or --force to overwrite it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"can't write {path}: no permission to write in {path.parent}")


def write(text: str, path: Path | None, force: bool) -> None:
    """To `path`, whole or not at all, or to standard output.

    Raises UsageError if the file exists (without `force`) or can't be written.
    """
    if path is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        if path.exists() and not path.is_file():
            path.write_text(text)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(file.fileno(), 0o666 & ~umask)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if force:
                Path(temporary).replace(path)
            else:
                os.link(temporary, path)  # unlike a rename, fails if it exists
        finally:
            Path(temporary).unlink(missing_ok=True)
    except FileExistsError:
        raise UsageError(
            f"{path} exists: choose another name, or --force to overwrite it"
        ) from None
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error
