# SPDX-License-Identifier: GPL-2.0-or-later
"""The few bpf(2) calls that the daemon makes itself, on descriptors passed to it.

None needs a capability since Linux 5.19, where unprivileged_bpf_disabled forbids only the creation
of programs and maps (commit c8644cd0efe7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

SYS_BPF = 321  # asm/unistd_64.h
# enum bpf_cmd, linux/bpf.h
_MAP_DELETE_ELEM, _RAW_TRACEPOINT_OPEN, _MAP_LOOKUP_BATCH, _ITER_CREATE = 3, 17, 24, 33

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char], size: int) -> int:
    result = int(_libc.syscall(SYS_BPF, command, attributes, size))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def create_iterator(link_fd: int) -> int:
    """A descriptor for one more scan of an attached iterator. Raises OSError."""
    attributes = ctypes.create_string_buffer(struct.pack("=II", link_fd, 0), 8)
    return _bpf(_ITER_CREATE, attributes, 8)


def attach_raw_tracepoint(program_fd: int, tracepoint: str) -> int:
    """A descriptor that keeps the program attached while it is open. Raises OSError."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    attributes = ctypes.create_string_buffer(
        struct.pack("=QII", ctypes.addressof(name), program_fd, 0), 16
    )
    return _bpf(_RAW_TRACEPOINT_OPEN, attributes, 16)


def map_items(
    map_fd: int, key_bytes: int, value_bytes: int, max_entries: int
) -> tuple[bytes, bytes]:
    """All keys and all values of a hash map, in one call. Raises OSError."""
    keys = ctypes.create_string_buffer(key_bytes * max_entries)
    values = ctypes.create_string_buffer(value_bytes * max_entries)
    token = ctypes.create_string_buffer(max(8, key_bytes))
    # in_batch, out_batch, keys, values, count, map_fd, elem_flags, flags
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=QQQQIIQQ",
            0,
            ctypes.addressof(token),
            ctypes.addressof(keys),
            ctypes.addressof(values),
            max_entries,
            map_fd,
            0,
            0,
        ),
        56,
    )
    try:
        _bpf(_MAP_LOOKUP_BATCH, attributes, 56)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it marks the end of the map
            raise
    (count,) = struct.unpack_from("=I", attributes.raw, 32)
    # Views: `.raw` would copy all of a buffer.
    used_keys, used_values = (
        bytes(memoryview(buffer)[: count * size])
        for buffer, size in ((keys, key_bytes), (values, value_bytes))
    )
    return used_keys, used_values


def map_delete(map_fd: int, key: bytes) -> None:
    """Delete an element, if it exists. Raises OSError for any other error."""
    buffer = ctypes.create_string_buffer(key, len(key))
    attributes = ctypes.create_string_buffer(
        struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(buffer), 0, 0), 32
    )
    try:
        _bpf(_MAP_DELETE_ELEM, attributes, 32)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
