# SPDX-License-Identifier: GPL-2.0-or-later
"""What `serve` was asked for, and how the command line's process becomes the daemon's.

The command line's libraries would stay in memory for as long as the daemon runs. So it
replaces itself, under the same pid, as systemd expects, by a Python that never imports them.
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
    """What the command line said; what it left out is None and comes from the file."""

    config_file: Path | None = None
    web_config_file: Path | None = None
    textfile: Path | None = None
    listen: str | None = None
    page_faults: bool | None = None
    systemd_socket: bool = False

    def words(self) -> list[str]:
        """As arguments, so that `ps` tells what was asked for."""
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
        """What `words()` made of them; anything else is none of its business."""
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
    """Replace this process: same pid, descriptors, environment, and privileges."""
    flags = ["-I"] if sys.flags.isolated else []
    if not _imports_from_here():
        flags.append("-P")  # -m alone would
    # Blocked until the new process can tell in a line that it was interrupted.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    words = [*(["--verbose"] if is_verbose() else []), *options.words()]
    os.execv(sys.executable, [sys.executable, *flags, "-m", MODULE, *words])


def _imports_from_here() -> bool:
    """Whether the current folder is the first that is searched for modules."""
    try:
        return Path(sys.path[0]).samefile(".")
    except OSError:
        return False
