# SPDX-License-Identifier: GPL-2.0-or-later
"""sd_notify(3) without libsystemd. A no-op without $NOTIFY_SOCKET, so outside systemd.

All calls return whether the message was sent.
"""

from __future__ import annotations

import os
import socket
import time

# A manager that does not receive must not hang the daemon.
SEND_SECONDS = 1.0


def ready(status: str = "") -> bool:
    """Startup or reload finished."""
    return _send("READY=1", *_status(status))


def status(text: str) -> bool:
    """The status line of `systemctl status`."""
    return _send(*_status(text))


def watchdog() -> bool:
    """Keep-alive; due every `watchdog_interval_seconds()`."""
    return _send("WATCHDOG=1")


def stopping() -> bool:
    """Shutting down."""
    return _send("STOPPING=1")


def reloading() -> bool:
    """Reloading; `ready()` must follow. With the time, as Type=notify-reload requires."""
    now_microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return _send("RELOADING=1", f"MONOTONIC_USEC={now_microseconds}")


def watchdog_interval_seconds() -> float | None:
    """When to call `watchdog()`: half of systemd's timeout; None without a watchdog.

    From WATCHDOG_USEC and WATCHDOG_PID, as in sd_watchdog_enabled(3).
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
