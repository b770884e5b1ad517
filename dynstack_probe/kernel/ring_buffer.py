# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a BPF ring buffer through its descriptor alone: no bcc, no libbpf, no capability.

Layout (Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c): one page that holds the
consumer's position, one with the producer's, then the data, mapped twice back to back so that no
record wraps around. A record is a header of 8 bytes, whose first four hold its length
and two flags, and the record itself, padded to 8 bytes.
"""

from __future__ import annotations

import mmap
import struct

_BUSY, _DISCARDED = 1 << 31, 1 << 30  # linux/bpf.h: BPF_RINGBUF_BUSY_BIT, _DISCARD_BIT
_HEADER_BYTES = 8


class RingBuffer:
    """The records of a ring buffer with `size_bytes` of data, each returned once."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        """Map it; `fd` need not stay open. Raises OSError."""
        page = mmap.PAGESIZE
        self._size = size_bytes
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(
            fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()

    def read(self) -> list[bytes]:
        """All records that are complete by now, oldest first."""
        (position,) = struct.unpack_from("=Q", self._consumer, 0)
        (end,) = struct.unpack_from("=Q", self._producer, 0)
        records = []
        while position < end:
            at = mmap.PAGESIZE + position % self._size
            (header,) = struct.unpack_from("=I", self._producer, at)
            if header & _BUSY:
                break
            length = header & ~_DISCARDED
            if not header & _DISCARDED:
                start = at + _HEADER_BYTES
                records.append(self._producer[start : start + length])
            position += _HEADER_BYTES + (length + 7) // 8 * 8
        struct.pack_into("=Q", self._consumer, 0, position)
        return records
