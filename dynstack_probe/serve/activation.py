# SPDX-License-Identifier: GPL-2.0-or-later
"""The socket that systemd has bound for us, as sd_listen_fds(3) finds it."""

from __future__ import annotations

import os
import socket

from dynstack_probe.errors import UsageError

FIRST = 3  # SD_LISTEN_FDS_START


def systemd_socket() -> socket.socket:
    """The one TCP socket of the .socket unit, listening; children don't get it.

    Raises UsageError if there is none, more than one, or one of another kind.
    """
    process, count = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    os.environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()):
        raise UsageError("--web.systemd-socket: not started by a systemd .socket unit")
    if count != "1":
        raise UsageError(
            f"--web.systemd-socket: got {count or 'no'} sockets, not one: ListenStream="
        )
    try:
        given = socket.socket(fileno=FIRST)
        listening = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageError(f"--web.systemd-socket: descriptor {FIRST}: {error.strerror}") from error
    if given.family not in (socket.AF_INET, socket.AF_INET6) or not listening:
        raise UsageError("--web.systemd-socket: not a listening TCP socket; Accept=no?")
    given.set_inheritable(False)
    return given
