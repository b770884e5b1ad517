# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of `serve`, and the exec that turns the command line's process into the daemon.

Otherwise the command line's libraries would stay in memory for the daemon's lifetime. exec
keeps the pid, as systemd expects.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from dynstack_probe.ending import is_verbose

MODULE = "dynstack_probe.serve"
_SYSTEMD_SOCKET = "--web.systemd-socket"
_YES_NO = {"--page-faults": True, "--no-page-faults": False}


@dataclass(frozen=True)
class Options:
    """Command-line options; None: not given, so that the file or the default applies."""

    config_file: Path | None = None
    web_config_file: Path | None = None
    textfile: Path | None = None
    listen: str | None = None
    page_faults: bool | None = None
    systemd_socket: bool = False

    def words(self) -> list[str]:
        """As command-line arguments, visible in `ps`."""
        given = {
            "--listen": self.listen,
            "--config": self.config_file,
            "--web.config.file": self.web_config_file,
            "--textfile": self.textfile,
        }
        words = [f"{word}={value}" for word, value in given.items() if value is not None]
        words += [_SYSTEMD_SOCKET] if self.systemd_socket else []
        return words + [word for word, value in _YES_NO.items() if value is self.page_faults]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """The inverse of `words()`; other arguments are ignored."""
        given = dict(word.split("=", 1) for word in words if "=" in word)

        def path(word: str) -> Path | None:
            return Path(given[word]) if word in given else None

        return cls(
            config_file=path("--config"),
            web_config_file=path("--web.config.file"),
            textfile=path("--textfile"),
            listen=given.get("--listen"),
            page_faults=next((_YES_NO[word] for word in words if word in _YES_NO), None),
            systemd_socket=_SYSTEMD_SOCKET in words,
        )


def become_daemon(options: Options) -> NoReturn:
    """Exec the daemon: same pid, file descriptors, environment and privileges."""
    flags = ["-I"] if sys.flags.isolated else []
    if not _imports_from_here():
        flags.append("-P")  # else -m prepends it
    # Blocked until the new process can report an interrupt in one line.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    words = [*(["--verbose"] if is_verbose() else []), *options.words()]
    os.execv(sys.executable, [sys.executable, *flags, "-m", MODULE, *words])


def _imports_from_here() -> bool:
    """Whether the current directory is first in sys.path."""
    try:
        return Path(sys.path[0]).samefile(".")
    except OSError:
        return False
