"""Files that are whole or not there: written beside their place, then put into it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

from dynstack_probe.errors import UsageError


def check_place(path: Path) -> None:
    """Raise UsageError before any work if no file can be put at `path`."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"can't write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"can't write {path}: no permission to write in {path.parent}")


def create_beside(
    path: Path, *, hidden: bool = True, mode: int | None = None
) -> tuple[IO[bytes], Path]:
    """A new file in the folder of `path` and its name, which ends in .part.

    mode: None for what a program's files usually have, 0666 less the umask. Raises OSError.
    """
    prefix = f".{path.name}." if hidden else f"{path.name}."
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    if mode is None:
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb"), Path(name)


def put_in_place(part: Path, path: Path, *, force: bool) -> None:
    """Give it its name. Raises FileExistsError if that is taken, without `force`, or OSError."""
    if force:
        part.replace(path)
    else:
        os.link(part, path)  # unlike a rename, fails if it exists
        part.unlink()


def write_whole(data: bytes, path: Path, *, force: bool, mode: int | None = None) -> None:
    """All of it or nothing; errors as put_in_place()."""
    file, part = create_beside(path, mode=mode)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(part, path, force=force)
    finally:
        part.unlink(missing_ok=True)
