# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire records of probes/records.h, read from that file: their only definition."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynstack_probe.kernel import host
from dynstack_probe.loader import probes_dir

HEADER = probes_dir() / "records.h"
_FIELD = re.compile(r"^\s*(u64|u32|char) (\w+)(?:\[(\d+)\])?;", re.MULTILINE)
_CODES = {"u64": ("Q", 8), "u32": ("I", 4), "char": ("s", 1)}


@dataclass(frozen=True)
class RecordLayout:
    """A record's size and each field's (code of the struct module, offset), in bytes."""

    size_bytes: int
    fields: dict[str, tuple[str, int]]

    def column(self, raw: bytes | bytearray, field: str) -> memoryview[int]:
        """One number field of all records, as a view without a copy."""
        code, offset = self.fields[field]
        view = memoryview(raw)
        if code == "Q":
            return view.cast("Q")[offset // 8 :: self.size_bytes // 8]
        return view.cast("I")[offset // 4 :: self.size_bytes // 4]

    def texts(self, raw: bytes | bytearray, field: str) -> list[bytes]:
        """One char field of all records, up to the first NUL; equal ones are one object."""
        code, offset = self.fields[field]
        width = struct.calcsize(code)
        seen: dict[bytes, bytes] = {}
        return [
            seen.setdefault(text, text)
            for at in range(offset, len(raw), self.size_bytes)
            for text in [bytes(raw[at : at + width]).split(b"\0", 1)[0]]
        ]

    def unpack(self, raw: bytes) -> dict[str, Any]:
        """All fields of one record by name: numbers as int, arrays as tuples of them."""
        values = {}
        for name, (code, offset) in self.fields.items():
            numbers = struct.unpack_from(f"={code}", raw, offset)
            values[name] = numbers if len(code) > 1 else numbers[0]
        return values


class MappedRecords:
    """The records of a BPF array, mapped: read and written without a system call."""

    def __init__(self, array: int, name: str, *, of_each_cpu: bool = False) -> None:
        """`array`: its descriptor; `name`: of the struct in probes/records.h."""
        self._layout = read_layout(HEADER, name)
        self._length = self._layout.size_bytes * (host.possible_cpus() if of_each_cpu else 1)
        whole_pages = -(-self._length // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(array, whole_pages)

    def all(self) -> list[dict[str, Any]]:
        """Each record as RecordLayout.unpack() gives it."""
        size = self._layout.size_bytes
        return [
            self._layout.unpack(self._map[at : at + size]) for at in range(0, self._length, size)
        ]

    def column(self, field: str) -> memoryview[int]:
        """A copy of one field, one element per record."""
        return self._layout.column(self._map[: self._length], field)

    def sums(self, fields: Iterable[str]) -> list[int]:
        """Each field summed over all records, from one copy."""
        raw = self._map[: self._length]
        return [sum(self._layout.column(raw, field)) for field in fields]

    def set(self, field: str, value: int) -> None:
        """A u64 of the first record."""
        struct.pack_into("=Q", self._map, self._layout.fields[field][1], value)

    def clear(self, keep: str) -> None:
        """Zero everything at once but a u64 of the first record, which is never zero meanwhile."""
        fresh = bytearray(self._length)
        at = self._layout.fields[keep][1]
        fresh[at : at + 8] = self._map[at : at + 8]
        self._map[: self._length] = bytes(fresh)

    def close(self) -> None:
        self._map.close()


def read_layout(header: Path, name: str) -> RecordLayout:
    """The layout of `struct name` in a header of u64, u32 and char fields.

    Raises ValueError if it is not there or has padding, which records must not have.
    """
    text = header.read_text()
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", text, re.DOTALL)
    if body is None:
        raise ValueError(f"{header} has no struct {name}")
    fields: dict[str, tuple[str, int]] = {}
    offset = 0
    for ctype, field, count in _FIELD.findall(body.group(1)):
        code, width = _CODES[ctype]
        if offset % width:
            raise ValueError(f"{header}: padding before {name}.{field}")
        fields[field] = (f"{count}{code}", offset)
        offset += width * int(count or 1)
    if offset % 8:
        raise ValueError(f"{header}: struct {name} ends in padding")
    return RecordLayout(offset, fields)


def read_constants(header: Path, prefix: str) -> dict[str, int]:
    """The `#define PREFIX_NAME number` lines of a header, without the prefix."""
    found = re.findall(rf"^#define {prefix}_(\w+) (\d+)\b", header.read_text(), re.MULTILINE)
    return {name: int(value) for name, value in found}
