# SPDX-License-Identifier: GPL-2.0-or-later
"""The lines of an untrusted gzip file, up to any truncation, in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

from dynstack_probe.capture.lines import LONGEST_LINE

_READ_BYTES = 1 << 16
# A capture shrinks to a third or a tenth. What unpacks to far more was made to.
_FREE_BYTES, _MOST_EXPANSION = 1 << 20, 20


class DamagedError(Exception):
    """The file is damaged; the message says how and where."""


def _zlib_words(error: zlib.error) -> str:
    """Zlib's own words, of "Error -3 while decompressing data: incorrect header check"."""
    _, _, words = str(error).partition(": ")
    return words or "cut off or overwritten"


def gzip_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Each whole line, and None after each gzip member.

    A member's end is given only once its checksum was found right. Raises DamagedError.
    """
    unpacker = zlib.decompressobj(wbits=31)
    data, rest, packed, unpacked = b"", b"", 0, 0
    in_member = more_inside = False
    while True:
        if not data and not more_inside:
            data = file.read(_READ_BYTES)
            if not data:
                break
            packed += len(data)
        in_member = True
        try:
            text = unpacker.decompress(data, LONGEST_LINE)
        except zlib.error as error:
            raise DamagedError(
                f"no gzip data around byte {packed - len(data)} ({_zlib_words(error)})"
            ) from None
        more_inside = len(text) == LONGEST_LINE
        unpacked += len(text)
        if unpacked > _FREE_BYTES + _MOST_EXPANSION * packed:
            raise DamagedError(
                f"its first {packed} bytes unpack to more than {unpacked}: no capture does that"
            )
        data = unpacker.unconsumed_tail
        lines = (rest + text).split(b"\n")
        rest = lines.pop()
        if max(map(len, (rest, *lines))) > LONGEST_LINE:
            raise DamagedError(f"a line is longer than {LONGEST_LINE} bytes")
        yield from lines
        if unpacker.eof:
            if rest:
                raise DamagedError("a line is cut off, though its gzip member is whole")
            yield None
            data = unpacker.unused_data
            unpacker, in_member, more_inside = zlib.decompressobj(wbits=31), False, False
    if in_member:
        raise DamagedError(f"it ends in the middle, after {packed} bytes")
