"""Where a report goes: the terminal, or a file that is never half written."""

from __future__ import annotations

import sys
from pathlib import Path

from dynstack_probe.errors import UsageError
from dynstack_probe.files import check_place, write_whole


def check_writable(path: Path | None, force: bool) -> None:
    """Raise UsageError before any work if `path` can't or must not be written."""
    if path is None:
        return
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a device or pipe: nothing to overwrite
    check_place(path)
    if path.exists() and not force:
        raise UsageError(f"{path} exists: choose another name, or --force to overwrite it")


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
        write_whole(text.encode(), path, force=force)
    except FileExistsError:
        raise UsageError(
            f"{path} exists: choose another name, or --force to overwrite it"
        ) from None
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error
