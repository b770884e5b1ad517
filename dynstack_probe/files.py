# SPDX-License-Identifier: GPL-2.0-or-later
"""Atomic file creation: write a temporary file beside the target, then rename it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from dynstack_probe.errors import ProbeError, UsageError, WriteError

# The path is at fault; any other error is the system's.
_BAD_PATH = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}  # FAT, some FUSE
_NAME_MAX = 255  # bytes; linux/limits.h
_RANDOM = len(".12345678.part") + 1


def reason(error: OSError) -> str:
    """Why a system call failed, as strerror(3) says it."""
    return error.strerror or str(error) or type(error).__name__


def cannot_write(path: Path | str, error: OSError) -> ProbeError:
    """What to raise if `path` can't be written: UsageError for a bad path, else WriteError."""
    kind = UsageError if error.errno in _BAD_PATH else WriteError
    return kind(f"can't write {path}: {reason(error)}")


def already_exists(path: Path) -> UsageError:
    """What to raise rather than overwrite."""
    return UsageError(f"{path} exists: choose another name, or --force to overwrite it")


def check_place(path: Path) -> os.stat_result | None:
    """stat(2) of `path`, None if absent; raises up front if no file can be created there.

    UsageError if the path is bad, WriteError if its file system is read-only, which has a
    check of its own since root passes every permission check.
    """
    found = _stat(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path} is a directory: name a file")
    folder = _stat(path.parent)
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise UsageError(f"can't write {path}: there is no directory {path.parent}")
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise cannot_write(path, OSError(errno.EROFS, os.strerror(errno.EROFS)))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"can't write {path}: no permission to write in {path.parent}")
    return found


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise cannot_write(path, error) from None


def create_beside(
    path: Path, *, hidden: bool = True, mode: int | None = None
) -> tuple[IO[bytes], Path]:
    """A new file in the directory of `path`, and its path, which ends in .part.

    mode: None for the usual default, 0666 & ~umask. Raises OSError.
    """
    stem = os.fsdecode(os.fsencode(path.name)[: _NAME_MAX - _RANDOM])
    prefix = f".{stem}." if hidden else f"{stem}."
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    if mode is None:
        umask = os.umask(0)
        os.umask(umask)
        mode = 0o666 & ~umask
    with contextlib.suppress(OSError):  # file systems without modes
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb"), Path(name)


def put_in_place(part: Path, path: Path, *, force: bool) -> None:
    """Move to `path`. Raises FileExistsError if that exists, unless `force`; or OSError."""
    if force:
        part.replace(path)
        return
    try:
        os.link(part, path)  # unlike a rename, fails if it exists
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))  # claims the name, or fails
        part.replace(path)
        return
    part.unlink()


def write_whole(data: bytes, path: Path, *, force: bool, mode: int | None = None) -> None:
    """Write atomically; raises as put_in_place()."""
    file, part = create_beside(path, mode=mode)
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(part, path, force=force)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
