# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes BTF files: kernels that exist nowhere, for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 2, 3, 4, 5, 6
_FWD, _TYPEDEF, _CONST, _FUNC, _FUNC_PROTO, _FLOAT = 7, 8, 10, 12, 13, 16

INTEGER_BYTES = {
    "char": 1,
    "u8": 1,
    "u16": 2,
    "int": 4,
    "unsigned int": 4,
    "u32": 4,
    "long": 8,
    "unsigned long": 8,
    "u64": 8,
    "__int128": 16,
}
TYPEDEFS = {"pid_t": "int"}
# A field: its offset in bytes if its type does not matter, else (type, offset in bytes).
# A type is the name of a struct of the file, or C text: "u8", "struct page **",
# "char[16]", "int : 3" (whose offset is in bits).
Field = int | tuple[str, int]


def a_btf_file(
    structs: Mapping[str, Mapping[str, Field]],
    functions: Sequence[str] = (),
    *,
    helpers: Sequence[str] = (),
    old_bit_fields: bool = False,
) -> bytes:
    """A valid BTF file.

    A field named "" is anonymous; so is the struct named "hidden", and one named "union
    X" is a union. `helpers` are those that programs may call. With `old_bit_fields`
    integer types say how wide bit-fields are, not members, as they did before Linux 4.20.
    """
    return _Writer(structs, functions, helpers, old_bit_fields).data()


class _Writer:
    def __init__(
        self,
        structs: Mapping[str, Mapping[str, Field]],
        functions: Sequence[str],
        helpers: Sequence[str],
        old_bit_fields: bool,
    ) -> None:
        self.structs = structs
        self.old_bit_fields = old_bit_fields
        self.strings = bytearray(b"\0")
        self.types: list[bytes] = [b""] * len(structs)  # theirs come first
        self.ids = {name: number for number, name in enumerate(structs, start=1)}
        for number, (name, fields) in enumerate(structs.items()):
            self.types[number] = self._struct(name, fields)
        prototype = self._add(struct.pack("=III", 0, _FUNC_PROTO << 24, 0))
        for function in functions:
            self._add(struct.pack("=III", self._name(function), _FUNC << 24, prototype))

        numbers = b"".join(
            struct.pack("=Ii", self._name(f"BPF_FUNC_{helper}"), number)
            for number, helper in enumerate(helpers, start=1)
        )
        info = _ENUM << 24 | len(helpers)
        self._add(struct.pack("=III", self._name("bpf_func_id"), info, 4) + numbers)

    def data(self) -> bytes:
        types, strings = b"".join(self.types), bytes(self.strings)
        sizes = 0, len(types), len(types), len(strings)
        return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + types + strings

    def _name(self, text: str) -> int:
        if text in ("", "hidden"):
            return 0
        self.strings.extend(text.encode() + b"\0")
        return len(self.strings) - len(text) - 1

    def _add(self, record: bytes) -> int:
        self.types.append(record)
        return len(self.types)

    def _struct(self, name: str, fields: Mapping[str, Field]) -> bytes:
        kind = _UNION if name.startswith("union ") else _STRUCT
        members, has_bit_fields = b"", False
        for field, where in fields.items():
            text, offset = ("long", where) if isinstance(where, int) else where
            base, _, width = text.partition(" : ")
            if width and self.old_bit_fields:
                encoding = int(width)
                record = struct.pack("=III", self._name(base), _INT << 24, INTEGER_BYTES[base])
                type_id = self._add(record + struct.pack("=I", encoding))
                at = offset
            else:
                type_id = self._type(base)
                at = offset | int(width) << 24 if width else offset * 8
                has_bit_fields |= bool(width)
            members += struct.pack("=III", self._name(field), type_id, at)
        info = has_bit_fields << 31 | kind << 24 | len(fields)
        return struct.pack("=III", self._name(name.removeprefix("union ")), info, 4096) + members

    def _type(self, text: str) -> int:
        """The id of a type, written as C writes it."""
        if text == "void":
            return 0
        if text not in self.ids:
            self.ids[text] = self._add(self._record(text))
        return self.ids[text]

    def _record(self, text: str) -> bytes:
        if text.endswith("*"):
            return struct.pack("=III", 0, _PTR << 24, self._type(text[:-1].strip()))
        if text.endswith("]"):
            element, _, count = text[:-1].partition("[")
            array = struct.pack("=III", self._type(element), self._type("int"), int(count))
            return struct.pack("=III", 0, _ARRAY << 24, 0) + array
        if text.startswith("const "):
            return struct.pack("=III", 0, _CONST << 24, self._type(text.removeprefix("const ")))
        if text in TYPEDEFS:
            return struct.pack("=III", self._name(text), _TYPEDEF << 24, self._type(TYPEDEFS[text]))
        tag, _, name = text.partition(" ")
        if tag == "struct":
            if name in self.ids:  # one of the file's
                return struct.pack("=III", 0, _CONST << 24, self.ids[name])
            return struct.pack("=III", self._name(name), _FWD << 24, 0)
        if tag == "enum":
            return struct.pack("=III", self._name(name), _ENUM << 24, 4)
        if text == "float":
            return struct.pack("=III", self._name(text), _FLOAT << 24, 4)
        size = INTEGER_BYTES[text]
        return struct.pack("=IIII", self._name(text), _INT << 24, size, size * 8)
