# SPDX-License-Identifier: GPL-2.0-or-later
"""Report output: standard output, or a file written atomically."""

from __future__ import annotations

import contextlib
import io
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from dynstack_probe.errors import UsageError, WriteError
from dynstack_probe.files import already_exists, cannot_write, check_place, reason, write_whole


def check_writable(path: Path | None, force: bool, *, regular: bool = False) -> None:
    """Raise UsageError or WriteError before any work if `path` can't or must not be written.

    With `regular` a device or a pipe won't do.
    """
    if path is None or (not regular and _is_special(path)):
        return
    found = check_place(path)
    if found is None:
        return
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path} is not a regular file: name one, or one that is not there yet")
    if not force:
        raise already_exists(path)


def _is_special(path: Path) -> bool:
    """Whether it is a device or pipe: nothing to overwrite."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write(text: str, path: Path | None, force: bool) -> None:
    """Write atomically to `path`, or to standard output.

    Raises UsageError if the file exists (without `force`) or its place is wrong, WriteError
    if writing failed, BrokenPipeError if the reader has gone.
    """
    if path is None:
        with _as_write_error():
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    try:
        if _is_special(path):
            path.write_text(text)
        else:
            write_whole(text.encode(), path, force=force)
    except FileExistsError:
        raise already_exists(path) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error


class StandardOutput(io.TextIOWrapper):
    """sys.stdout whose writes fail as files' do: with WriteError, or BrokenPipeError."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """In place of `stream`."""
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",  # a name that the terminal can't show
            line_buffering=stream.line_buffering,
        )
        self._replaced = stream  # which would close the buffer at its end

    def write(self, text: str, /) -> int:
        with _as_write_error():
            return super().write(text)

    def flush(self) -> None:
        with _as_write_error():
            super().flush()


@contextlib.contextmanager
def _as_write_error() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"can't write to standard output: {reason(error)}") from error
