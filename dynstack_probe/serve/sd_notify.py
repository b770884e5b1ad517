# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells systemd how the daemon fares, as sd_notify(3) does, with nothing but a datagram.

Without $NOTIFY_SOCKET, so when systemd did not start us, every call does nothing.
"""

from __future__ import annotations

import os
import socket
import time

# A manager that takes no datagrams must not hang the daemon.
SEND_SECONDS = 1.0


def ready(status: str = "") -> bool:
    """Started, or done with reloading; returns whether somebody was told."""
    return _send("READY=1", *_status(status))


def status(text: str) -> bool:
    """One line for `systemctl status`; returns whether somebody was told."""
    return _send(*_status(text))


def watchdog() -> bool:
    """Still alive; due every `watchdog_interval_seconds()`."""
    return _send("WATCHDOG=1")


def stopping() -> bool:
    """Ending now; returns whether somebody was told."""
    return _send("STOPPING=1")


def reloading() -> bool:
    """Re-reading the configuration; `ready()` must follow.

    systemd.service(5), Type=notify-reload, wants the time with it.
    """
    now_microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return _send("RELOADING=1", f"MONOTONIC_USEC={now_microseconds}")


def watchdog_interval_seconds() -> float | None:
    """How often systemd wants `watchdog()`: half its timeout; None if it does not watch us.

    From WATCHDOG_USEC and WATCHDOG_PID, as sd_watchdog_enabled(3) reads them.
    """
    watched_process = os.environ.get("WATCHDOG_PID", "")
    if watched_process and watched_process != str(os.getpid()):
        return None
    timeout_microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not (timeout_microseconds.isascii() and timeout_microseconds.isdigit()):
        return None
    return int(timeout_microseconds) / 1_000_000 / 2 or None


def _status(text: str) -> list[str]:
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _send(*assignments: str) -> bool:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not assignments or address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(SEND_SECONDS)
            manager.sendto("\n".join(assignments).encode(), address)
    except OSError:
        return False
    return True
