# SPDX-License-Identifier: GPL-2.0-or-later
"""Offsets and types of the fields of kernel structures: BTF, through libbpf.

libbpf comes with bcc, so it is on every machine that can load our probes. It is called through
ctypes; parsing the 100,000 types in Python would take far longer.
Format: Documentation/bpf/btf.rst in the kernel tree.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dynstack_probe.errors import UnmeasurableError, UsageError
from dynstack_probe.files import reason

VMLINUX = Path("/sys/kernel/btf/vmlinux")

KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_FWD, KIND_TYPEDEF, KIND_FUNC, KIND_VAR, KIND_DATASEC, KIND_ENUM64 = 7, 8, 12, 14, 15, 19
POINTER_BYTES = 8  # x86-64
MAX_DEPTH = 8  # of nested types that we follow
_MODIFIERS = {KIND_TYPEDEF, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag

# libbpf.h: what os.strerror() calls unknown errors
_LIBBPF_ERRORS = {
    4000: "libelf failed",
    4001: "neither an ELF file nor raw BTF",
    4002: "wrong kernel version",
    4003: "wrong byte order",
    4004: "corrupt",
}

_TYPE = struct.Struct("=III")  # struct btf_type: name_off, info, size or type
_MEMBER = struct.Struct("=III")  # struct btf_member: name_off, type, offset
_ARRAY = struct.Struct("=III")  # struct btf_array: type, index_type, nelems
_ENUMERATOR = struct.Struct("=Ii")  # struct btf_enum: name_off, val
_UINT = struct.Struct("=I")
_VAR_IN_SECTION = struct.Struct("=III")  # struct btf_var_secinfo: type, offset, size


class Shape(enum.Enum):
    """What a program may do with a field."""

    NUMBER = "number"  # an integer, an enumeration or a bit-field: load it
    POINTER = "pointer"  # load it and follow it
    TEXT = "text"  # an array of bytes
    OTHER = "other"  # a structure, a union, any other array: nothing


@dataclass(frozen=True)
class Member:
    """A field of a structure: its offset from the structure's start and its type's id.

    bit_field_bits is the width of a bit-field, 0 for any other field.
    """

    offset_bits: int
    type_id: int
    bit_field_bits: int = 0

    @property
    def offset_bytes(self) -> int:
        """Offset in bytes; of a bit-field, of the byte in which it begins."""
        return self.offset_bits // 8


@dataclass(frozen=True)
class FieldType:
    """The type of a field: its size in bytes, and its C declaration.

    For a pointer also the levels of indirection, and the type at the end.
    """

    shape: Shape
    size_bytes: int
    text: str
    pointers: int = 0
    target: str = ""


@cache
def _libbpf() -> ctypes.CDLL:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            lib = ctypes.CDLL(name, use_errno=True)
            break
        except OSError:
            continue
    else:
        raise UnmeasurableError(
            "libbpf is not installed, so kernel types can't be read:"
            " apt install python3-bpfcc (it brings libbpf)"
        )
    lib.btf__parse.restype = ctypes.c_void_p
    lib.btf__parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    lib.btf__free.argtypes = [ctypes.c_void_p]
    lib.btf__find_by_name_kind.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32]
    lib.btf__type_by_id.restype = ctypes.c_void_p
    lib.btf__type_by_id.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.btf__name_by_offset.restype = ctypes.c_char_p
    lib.btf__name_by_offset.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    lib.libbpf_set_print.restype = ctypes.c_void_p
    lib.libbpf_set_print.argtypes = [ctypes.c_void_p]
    lib.libbpf_set_print(None)  # its warnings would go to our stderr
    return lib


def _check_readable(path: Path) -> None:
    """Raise UsageError, with the reason, if the user's file can't be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"--btf: can't read {path}: {reason(error)}") from error


class Btf:
    """The types of one kernel. Use as a context manager: it holds some 6 MB."""

    def __init__(self, path: Path = VMLINUX) -> None:
        """Parse `path`; UnmeasurableError if it is missing or not valid BTF."""
        if path != VMLINUX:
            _check_readable(path)
        elif not path.exists():
            raise UnmeasurableError(
                f"no kernel type information at {path}: this kernel was built without"
                " CONFIG_DEBUG_INFO_BTF, run one that has it (any current distribution's)"
            )
        self.path = path
        self._lib = _libbpf()
        self._btf = self._lib.btf__parse(os.fsencode(path), None)
        failed_0x = self._btf is not None and self._btf > 2**64 - 4096  # libbpf 0.x: -errno
        if self._btf is None or failed_0x:
            code = 2**64 - self._btf if self._btf else ctypes.get_errno()
            why = _LIBBPF_ERRORS.get(code) or os.strerror(code)
            raise UnmeasurableError(f"{path} is not valid BTF: {why}")

    def __enter__(self) -> Btf:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def _type(self, type_id: int) -> tuple[int, int, int, int]:
        """Kind, kind flag, vlen and size-or-type of a type."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        if not address:
            raise UnmeasurableError(f"{self.path} is corrupt: it has no type {type_id}")
        _, info, size = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return info >> 24 & 0x1F, info >> 31, info & 0xFFFF, size

    def _name(self, type_id: int) -> str:
        address = self._lib.btf__type_by_id(self._btf, type_id)
        name_offset, _, _ = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        name = self._lib.btf__name_by_offset(self._btf, name_offset) if name_offset else b""
        return (name or b"").decode(errors="replace")

    def _payload(self, type_id: int, length: int) -> bytes:
        """The data that follows a type's header."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        return ctypes.string_at(address + _TYPE.size, length)

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs and const."""
        for _ in range(64):  # a hostile file may contain a cycle
            kind, _, _, target = self._type(type_id)
            if kind not in _MODIFIERS:
                return type_id
            type_id = target
        raise UnmeasurableError(f"{self.path} is corrupt: type {type_id} refers to itself")

    def has(self, name: str, kind: int = KIND_STRUCT) -> bool:
        """Whether a type (or a per-CPU variable, KIND_VAR) of that name exists."""
        return int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)) > 0

    def has_iterator(self, function: str) -> bool:
        """Whether the kernel has the BPF iterator for a program named bpf_iter__X."""
        return self.has(function.replace("bpf_iter__", "bpf_iter_"), KIND_FUNC)

    def has_tracepoint(self, name: str) -> bool:
        """Whether the kernel has the raw tracepoint `name` (its typedef btf_trace_name)."""
        return self.has(f"btf_trace_{name}", KIND_TYPEDEF)

    def per_cpu_offset(self, name: str) -> int | None:
        """Where a per-CPU variable lies in its section, bytes; None if BTF does not say.

        Only differences are meaningful: the section is not linked at 0 since commit
        9d7de2aa8b41 ("x86/percpu/64: Use relative percpu offsets"), in 6.15.
        """
        find = self._lib.btf__find_by_name_kind
        section = find(self._btf, b".data..percpu", KIND_DATASEC)
        variable = find(self._btf, name.encode(), KIND_VAR)
        if section <= 0 or variable <= 0:
            return None
        _, _, vlen, _ = self._type(section)
        raw = self._payload(section, vlen * _VAR_IN_SECTION.size)
        places = _VAR_IN_SECTION.iter_unpack(raw)
        return next((offset for type_id, offset, _ in places if type_id == variable), None)

    def has_helper(self, name: str) -> bool:
        """Whether BPF programs of this kernel may call bpf_NAME()."""
        return self.enumerator("bpf_func_id", f"BPF_FUNC_{name}") is not None

    def enumerator(self, enumeration: str, name: str) -> int | None:
        """The value of an enumerator; None if this kernel has none of that name."""
        found = self._lib.btf__find_by_name_kind(self._btf, enumeration.encode(), KIND_ENUM)
        if found <= 0:
            return None
        _, _, vlen, _ = self._type(found)
        wanted, raw = name.encode(), self._payload(found, vlen * _ENUMERATOR.size)
        for name_offset, value in _ENUMERATOR.iter_unpack(raw):
            if self._lib.btf__name_by_offset(self._btf, name_offset) == wanted:
                return int(value)
        return None

    def _find_member(self, type_id: int, field: str, depth: int = 0) -> Member | None:
        type_id = self._resolve(type_id)
        kind, has_bitfields, vlen, _ = self._type(type_id)
        if kind not in (KIND_STRUCT, KIND_UNION) or depth > MAX_DEPTH:
            return None
        raw = self._payload(type_id, vlen * _MEMBER.size)
        wanted = field.encode()
        for name_offset, member_type, offset in _MEMBER.iter_unpack(raw):
            offset_bits, width = (offset & 0xFFFFFF, offset >> 24) if has_bitfields else (offset, 0)
            if name_offset == 0:  # anonymous struct or union: its fields count as ours
                inner = self._find_member(member_type, field, depth + 1)
                if inner is not None:
                    at = offset_bits + inner.offset_bits
                    return Member(at, inner.type_id, inner.bit_field_bits)
            elif self._lib.btf__name_by_offset(self._btf, name_offset) == wanted:
                return self._member(offset_bits, member_type, width)
        return None

    def _member(self, offset_bits: int, type_id: int, width: int) -> Member:
        """An integer type may itself encode a bit-field (encoders before 2018)."""
        resolved = self._resolve(type_id)
        kind, _, _, size = self._type(resolved)
        if kind == KIND_INT and not width:
            (encoding,) = _UINT.unpack(self._payload(resolved, _UINT.size))
            bits = encoding & 0xFF
            if bits != size * 8:
                return Member(offset_bits + (encoding >> 16 & 0xFF), type_id, bits)
        return Member(offset_bits, type_id, width)

    def find(self, path: str) -> Member | None:
        """The field `struct.field[.field ...]`, None if this kernel lacks it."""
        struct_name, *fields = path.split(".")
        type_id = self._lib.btf__find_by_name_kind(self._btf, struct_name.encode(), KIND_STRUCT)
        if type_id <= 0:
            return None
        found = Member(0, type_id)
        for field in fields:
            member = self._find_member(found.type_id, field)
            if member is None:
                return None
            at = found.offset_bits + member.offset_bits
            found = Member(at, member.type_id, member.bit_field_bits)
        return found

    def type_of(self, member: Member) -> FieldType:
        """The type of a field that find() found."""
        resolved = self._resolve(member.type_id)
        kind, _, _, size = self._type(resolved)
        text = self._text(member.type_id)
        if member.bit_field_bits:
            return FieldType(Shape.NUMBER, size, f"{text} : {member.bit_field_bits}")
        if kind in (KIND_INT, KIND_ENUM, KIND_ENUM64):
            return FieldType(Shape.NUMBER, size, text)
        if kind == KIND_PTR:
            depth, target = self._follow(resolved)
            return FieldType(Shape.POINTER, POINTER_BYTES, text, depth, self._text(target))
        if kind != KIND_ARRAY:
            return FieldType(Shape.OTHER, size, text)
        element, _, count = _ARRAY.unpack(self._payload(resolved, _ARRAY.size))
        element_kind, _, _, element_size = self._type(self._resolve(element))
        is_text = element_kind == KIND_INT and element_size == 1
        return FieldType(Shape.TEXT if is_text else Shape.OTHER, count * element_size, text)

    def _text(self, type_id: int, depth: int = 0) -> str:
        """A type as C writes it: "struct atomic_t", "char[16]", "void *"."""
        if type_id == 0 or depth > MAX_DEPTH:
            return "void" if type_id == 0 else "..."
        kind, is_union, _, target = self._type(type_id)
        if kind in _MODIFIERS and kind != KIND_TYPEDEF:
            return self._text(target, depth + 1)
        if kind == KIND_PTR:
            pointed = self._text(target, depth + 1)
            return f"{pointed}*" if pointed.endswith("*") else f"{pointed} *"
        if kind == KIND_ARRAY:
            element, _, count = _ARRAY.unpack(self._payload(type_id, _ARRAY.size))
            return f"{self._text(element, depth + 1)}[{count}]"
        tag = {
            KIND_STRUCT: "struct ",
            KIND_UNION: "union ",
            KIND_FWD: "union " if is_union else "struct ",
            KIND_ENUM: "enum ",
            KIND_ENUM64: "enum ",
        }.get(kind, "")
        return f"{tag}{self._name(type_id) or '{...}'}"

    def _follow(self, type_id: int) -> tuple[int, int]:
        """A type's levels of indirection, and the type at the end; 0 is void."""
        depth = 0
        while type_id and depth < MAX_DEPTH:
            resolved = self._resolve(type_id)
            kind, _, _, target = self._type(resolved)
            if kind != KIND_PTR:
                return depth, resolved
            depth += 1
            type_id = target
        return depth, type_id
