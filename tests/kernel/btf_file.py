"""Writes BTF files: kernels that exist nowhere, for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_INT, _STRUCT, _FUNC, _FUNC_PROTO = 1, 4, 12, 13


def a_btf_file(
    structs: Mapping[str, Mapping[str, int | tuple[str, int]]], functions: Sequence[str] = ()
) -> bytes:
    """A valid BTF file.

    Each field is its offset in bytes, or (name of its struct, offset in bytes); a field
    and a struct named "hidden" are anonymous.
    """
    strings = bytearray(b"\0")

    def name(text: str) -> int:
        if text in ("", "hidden"):
            return 0
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    ids = {struct_name: number for number, struct_name in enumerate(structs, start=2)}
    types = struct.pack("=IIII", name("long"), _INT << 24, 8, 64)
    for struct_name, fields in structs.items():
        types += struct.pack("=III", name(struct_name), _STRUCT << 24 | len(fields), 4096)
        for field, where in fields.items():
            type_id, offset = (1, where) if isinstance(where, int) else (ids[where[0]], where[1])
            types += struct.pack("=III", name(field), type_id, offset * 8)
    prototype = len(structs) + 2
    types += struct.pack("=III", 0, _FUNC_PROTO << 24, 0)
    for function in functions:
        types += struct.pack("=III", name(function), _FUNC << 24, prototype)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + bytes(strings)
