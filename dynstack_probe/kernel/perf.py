"""perf_event_open(2), as far as counting goes: no program, no buffer.

Opening takes CAP_PERFMON; reading and switching what is open takes nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

SYS_PERF_EVENT_OPEN = 298  # asm/unistd_64.h

# linux/perf_event.h
TYPE_SOFTWARE = 1
COUNT_SW_PAGE_FAULTS = 2
_FORMAT_TOTAL_TIME_ENABLED, _FORMAT_GROUP = 1, 8
_DISABLED, _EXCLUDE_USER, _EXCLUDE_KERNEL = 1 << 0, 1 << 4, 1 << 5
_FLAG_FD_CLOEXEC = 8
_IOC_ENABLE, _IOC_DISABLE, _IOC_FLAG_GROUP = 0x2400, 0x2401, 1
_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0

_libc = ctypes.CDLL(None, use_errno=True)


class ModeCounters:
    """A software event of one CPU, counted apart in user and in kernel mode. Starts off."""

    def __init__(self, cpu: int, config: int) -> None:
        """Raises OSError."""
        self._user = _open(cpu, config, _DISABLED | _EXCLUDE_KERNEL, -1)
        try:
            # Its leader starts and stops it.
            self._kernel = _open(cpu, config, _EXCLUDE_USER, self._user)
        except OSError:
            os.close(self._user)
            raise

    def switch(self, *, on: bool) -> None:
        """Count, or cost nothing. Raises OSError."""
        fcntl.ioctl(self._user, _IOC_ENABLE if on else _IOC_DISABLE, _IOC_FLAG_GROUP)

    def read(self) -> tuple[int, int, int]:
        """Nanoseconds for which it counted so far, events in user mode, in kernel mode."""
        _, enabled_ns, user, kernel = struct.unpack("=4Q", os.read(self._user, 32))
        return enabled_ns, user, kernel

    def close(self) -> None:
        """Close both."""
        os.close(self._kernel)
        os.close(self._user)


def _open(cpu: int, config: int, flags: int, group: int) -> int:
    attributes = struct.pack(
        "=IIQQQQQIIQ",
        TYPE_SOFTWARE,
        _ATTR_BYTES,
        config,
        0,  # sample_period
        0,  # sample_type
        _FORMAT_TOTAL_TIME_ENABLED | _FORMAT_GROUP,
        flags,
        0,  # wakeup_events
        0,  # bp_type
        0,
    )
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    fd = int(_libc.syscall(SYS_PERF_EVENT_OPEN, buffer, -1, cpu, group, _FLAG_FD_CLOEXEC))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd
