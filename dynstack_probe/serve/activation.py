# SPDX-License-Identifier: GPL-2.0-or-later
"""systemd socket activation, as in sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket

from dynstack_probe.errors import UsageError

FIRST = 3  # SD_LISTEN_FDS_START


def systemd_socket() -> socket.socket:
    """The listening TCP socket passed by the .socket unit, made close-on-exec.

    Raises UsageError unless exactly one socket was passed, and it is a listening TCP socket.
    """
    process, count = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()):
        raise UsageError("--web.systemd-socket: not started by a systemd .socket unit")
    if count != "1":
        raise UsageError(
            f"--web.systemd-socket: got {count or 'no'} sockets, expected one ListenStream="
        )
    try:
        given = socket.socket(fileno=FIRST)
        listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageError(f"--web.systemd-socket: fd {FIRST}: {error.strerror}") from error
    if given.family not in (socket.AF_INET, socket.AF_INET6) or not listening:
        raise UsageError("--web.systemd-socket: not a listening TCP socket; Accept=no?")
    given.set_inheritable(False)
    return given
