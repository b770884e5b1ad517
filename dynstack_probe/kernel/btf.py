"""Where the fields of kernel structures lie: BTF, through libbpf.

libbpf comes with bcc, so it is on every machine that can load our probes. It is
called by ctypes; to parse the 100,000 types in Python would take far longer.
Format: Documentation/bpf/btf.rst in the kernel tree.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dynstack_probe.errors import UnmeasurableError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

KIND_PTR, KIND_STRUCT, KIND_UNION, KIND_TYPEDEF, KIND_FUNC, KIND_VAR = 2, 4, 5, 8, 12, 14
_MODIFIERS = {KIND_TYPEDEF, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag

_TYPE = struct.Struct("=III")  # struct btf_type: name_off, info, size or type
_MEMBER = struct.Struct("=III")  # struct btf_member: name_off, type, offset


@dataclass(frozen=True)
class Member:
    """A field of a structure: its offset from the structure's start and its type's id."""

    offset_bits: int
    type_id: int

    @property
    def offset_bytes(self) -> int:
        """Offset in bytes; meaningless for a bit-field."""
        return self.offset_bits // 8


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


class Btf:
    """The types of one kernel. Use as a context manager: it holds some 6 MB."""

    def __init__(self, path: Path = VMLINUX) -> None:
        """Parse `path`; UnmeasurableError if it is missing or no valid BTF."""
        if not path.exists():
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
            self._btf = None
            raise UnmeasurableError(f"{path} holds no valid BTF: {os.strerror(code)}")

    def __enter__(self) -> Btf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back."""
        if self._btf is not None:
            self._lib.btf__free(self._btf)
            self._btf = None

    def _type(self, type_id: int) -> tuple[int, int, int, int]:
        """Kind, kind flag, vlen and size-or-type of a type."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        if not address:
            raise UnmeasurableError(f"{self.path} is broken: it has no type {type_id}")
        _, info, size = _TYPE.unpack(ctypes.string_at(address, _TYPE.size))
        return info >> 24 & 0x1F, info >> 31, info & 0xFFFF, size

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs and const."""
        for _ in range(64):  # a hostile file may hold a circle
            kind, _, _, target = self._type(type_id)
            if kind not in _MODIFIERS:
                return type_id
            type_id = target
        raise UnmeasurableError(f"{self.path} is broken: type {type_id} goes in a circle")

    def has(self, name: str, kind: int = KIND_STRUCT) -> bool:
        """Whether a type (or a per-CPU variable, KIND_VAR) of that name exists."""
        return int(self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)) > 0

    def has_iterator(self, function: str) -> bool:
        """Whether the kernel has the BPF iterator for a program named bpf_iter__X."""
        return self.has(function.replace("bpf_iter__", "bpf_iter_"), KIND_FUNC)

    def has_tracepoint(self, name: str) -> bool:
        """Whether the kernel has the raw tracepoint `name` (its typedef btf_trace_name)."""
        return self.has(f"btf_trace_{name}", KIND_TYPEDEF)

    def _find_member(self, type_id: int, field: str, depth: int = 0) -> Member | None:
        type_id = self._resolve(type_id)
        kind, has_bitfields, vlen, _ = self._type(type_id)
        if kind not in (KIND_STRUCT, KIND_UNION) or depth > 8:
            return None
        address = self._lib.btf__type_by_id(self._btf, type_id)
        raw = ctypes.string_at(address + _TYPE.size, vlen * _MEMBER.size)
        wanted = field.encode()
        for name_offset, member_type, offset in _MEMBER.iter_unpack(raw):
            offset_bits = offset & 0xFFFFFF if has_bitfields else offset
            if name_offset == 0:  # anonymous struct or union: its fields count as ours
                inner = self._find_member(member_type, field, depth + 1)
                if inner is not None:
                    return Member(offset_bits + inner.offset_bits, inner.type_id)
            elif self._lib.btf__name_by_offset(self._btf, name_offset) == wanted:
                return Member(offset_bits, member_type)
        return None

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
            found = Member(found.offset_bits + member.offset_bits, member.type_id)
        return found

    def pointer_depth(self, type_id: int) -> int:
        """How many pointers lead from a field of this type to what it is about."""
        depth = 0
        while depth < 8:
            kind, _, _, target = self._type(self._resolve(type_id))
            if kind != KIND_PTR or target == 0:
                break
            depth += 1
            type_id = target
        return depth
