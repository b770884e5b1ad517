# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader against a file laid out like a ring buffer."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Iterator

import pytest

from dynstack_probe.kernel.ring_buffer import RingBuffer

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARDED = 1 << 31, 1 << 30


class FakeRing:
    """What the kernel does. Unlike there the data is mapped once: records must not wrap."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.truncate(PAGE + PAGE + 2 * SIZE)
        self.end = 0

    def add(self, data: bytes, flags: int = 0) -> None:
        record = struct.pack("=II", len(data) | flags, 0) + data
        record += bytes(-len(record) % 8)
        os.pwrite(self.file.fileno(), record, 2 * PAGE + self.end % SIZE)
        self.end += len(record)
        os.pwrite(self.file.fileno(), struct.pack("=Q", self.end), PAGE)

    def consumed(self) -> int:
        position: int = struct.unpack("=Q", os.pread(self.file.fileno(), 8, 0))[0]
        return position


@pytest.fixture
def ring() -> Iterator[tuple[FakeRing, RingBuffer]]:
    fake = FakeRing()
    reader = RingBuffer(fake.file.fileno(), SIZE)
    yield fake, reader
    reader.close()
    fake.file.close()


def test_each_record_is_given_once(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, reader = ring
    assert reader.read() == []
    fake.add(b"one")
    fake.add(b"twelve bytes")
    assert reader.read() == [b"one", b"twelve bytes"]
    assert reader.read() == []
    assert fake.consumed() == fake.end


def test_discarded_records_are_left_out(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, reader = ring
    fake.add(b"gone", DISCARDED)
    fake.add(b"kept")
    assert reader.read() == [b"kept"]


def test_a_record_that_is_being_written_waits(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, reader = ring
    fake.add(b"first")
    before = fake.end
    fake.add(b"busy", BUSY)
    fake.add(b"later")
    assert reader.read() == [b"first"]
    assert fake.consumed() == before
    os.pwrite(fake.file.fileno(), struct.pack("=I", 4), 2 * PAGE + before)
    assert reader.read() == [b"busy", b"later"]


def test_it_goes_around(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, reader = ring
    for number in range(3 * SIZE // 64):
        data = bytes([number % 251]) * 56
        fake.add(data)
        assert reader.read() == [data]
