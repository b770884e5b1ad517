# SPDX-License-Identifier: GPL-2.0-or-later
"""Macros for made-up kernels: each field we read in turn of another size or kind, or missing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel import offsets
from dynstack_probe.kernel.btf import Btf
from dynstack_probe.kernel.offsets import (
    cgroup_name_macros,
    macro_name,
    probe_macros,
    register_macros,
)
from tests.kernel.btf_file import INTEGER_BYTES, Field, a_btf_file

IDLE = {**offsets.IDLE_FIELDS, **offsets.TASK_GROUP_FIELDS}
ALL = {
    **offsets.REQUIRED_FIELDS,
    **offsets.OPTIONAL_FIELDS,
    **offsets.REGISTER_FIELDS,
    **IDLE,
}
NUMBERS = sorted(path for path, text in ALL.items() if text[-1] not in "*]")
POINTERS = sorted(path for path, text in ALL.items() if text.endswith("*"))
STRIDE = 32  # from field to field: no type here is larger
SIZES = {size: name for name, size in INTEGER_BYTES.items() if size <= 8}
PER_CPU_LOOKUP = "map_lookup_percpu_elem"  # since Linux 5.19
UNREADABLE = ["struct atomic_t", "float", "__int128", "u8[3]", "u64[2]"]

Structs = dict[str, dict[str, Field]]


def a_kernel(types: dict[str, str], *, shift: int = 0, first_bit: int = 0) -> Structs:
    """Structures with these fields, `shift` bytes behind where they would else be.

    Bit-fields begin `first_bit` bits behind.
    """
    structs: Structs = {"atomic_t": {"counter": ("int", 0)}}
    for path, text in types.items():
        name, *fields = path.split(".")
        if len(fields) == 2:  # in a structure within
            outer = structs.setdefault(name, {})
            outer.setdefault(fields[0], (f"{name}_{fields[0]}", STRIDE * len(outer)))
            name = f"{name}_{fields[0]}"
        struct = structs.setdefault(name, {})
        offset = STRIDE * len(struct) + shift
        struct[fields[-1]] = (text, offset * 8 + first_bit if " : " in text else offset)
    return structs


def all_macros(
    structs: Structs,
    *,
    iterator: bool = True,
    helpers: Sequence[str] = (),
    old_bit_fields: bool = False,
) -> dict[str, int]:
    functions = ["bpf_iter_task"] if iterator else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "btf"
        path.write_bytes(
            a_btf_file(structs, functions, helpers=helpers, old_bit_fields=old_bit_fields)
        )
        with Btf(path) as btf:
            return {**probe_macros(btf), **register_macros(btf)}


def place(macros: dict[str, int], path: str) -> tuple[int, ...]:
    name = macro_name(path)
    return tuple(macros[f"{name}{suffix}"] for suffix in ("", "_BYTES", "_SHIFT", "_BITS"))


ORIGINAL = all_macros(a_kernel(ALL))


def test_a_full_kernel_has_the_size_of_each_field() -> None:
    for path, text in ALL.items():
        size = 8 if text.endswith("*") else {**INTEGER_BYTES, "char[16]": 16, "pid_t": 4}[text]
        assert place(ORIGINAL, path)[1:] == (size, 0, size * 8), path


@given(st.sampled_from(NUMBERS), st.sampled_from(sorted(SIZES)), st.integers(0, 15))
def test_a_number_of_another_size_is_loaded_with_that_size(path: str, size: int, at: int) -> None:
    macros = all_macros(a_kernel({**ALL, path: SIZES[size]}, shift=at))
    assert place(macros, path) == (ORIGINAL[macro_name(path)] + at, size, 0, size * 8)


@given(st.sampled_from(NUMBERS), st.integers(1, 63), st.integers(0, 40), st.integers(0, 2**64 - 1))
def test_a_bit_field_is_read_from_the_bits_where_it_lies(
    path: str, width: int, first_bit: int, memory: int
) -> None:
    structs = a_kernel({**ALL, path: f"u64 : {width}"}, first_bit=first_bit)
    if first_bit + width > 64 and path in IDLE:
        assert "RQ_IDLE" not in all_macros(structs)
        return
    if first_bit + width > 64:
        with pytest.raises(UnmeasurableError, match=rf"u64 : {width}"):
            all_macros(structs)
        return
    for old in (False, True):
        begin, size, shift, bits = place(all_macros(structs, old_bit_fields=old), path)
        assert begin % size == 0, "an access across its own size"
        assert bits == width
        # as FIELD() does it, from memory that begins where the field would without first_bit
        at = begin - ORIGINAL[macro_name(path)]
        loaded = int.from_bytes(memory.to_bytes(8, "little")[at : at + size], "little")
        read = loaded >> shift & (2**64 - 1) >> (64 - bits)
        assert read == memory >> first_bit & (1 << width) - 1


@pytest.mark.parametrize("text", ["struct atomic_t", "void ***", "float"])
@pytest.mark.parametrize("path", [path for path in ALL if path not in IDLE])
def test_a_field_of_another_kind_is_refused_in_one_line(path: str, text: str) -> None:
    with pytest.raises(UnmeasurableError) as refusal:
        all_macros(a_kernel({**ALL, path: text}))
    message = str(refusal.value)
    assert "\n" not in message
    for word in (path, text, ALL[path], os.uname().release):
        assert word in message
    assert refusal.value.exit_code == 3


@given(st.sampled_from(NUMBERS), st.sampled_from(UNREADABLE))
def test_no_number_is_read_from_what_is_none(path: str, text: str) -> None:
    structs = a_kernel({**ALL, path: text})
    if path in IDLE:
        assert "RQ_IDLE" not in all_macros(structs)
    else:
        with pytest.raises(UnmeasurableError):
            all_macros(structs)


@pytest.mark.parametrize("path", [path for path in POINTERS if path not in IDLE])
def test_a_pointer_that_became_a_number_is_refused(path: str) -> None:
    with pytest.raises(UnmeasurableError, match="u64"):
        all_macros(a_kernel({**ALL, path: "u64"}))


def test_a_pointer_to_another_structure_is_refused_if_we_follow_it() -> None:
    with pytest.raises(UnmeasurableError, match=r"css_set \*"):
        all_macros(a_kernel({**ALL, "task_struct.cgroups": "struct other *"}))
    all_macros(a_kernel({**ALL, "vm_struct.pages": "struct other **"}))  # only compared


@pytest.mark.parametrize(("length", "fits"), [(15, False), (16, True), (64, True)])
def test_a_task_name_may_grow_but_not_shrink(length: int, fits: bool) -> None:
    structs = a_kernel({**ALL, "task_struct.comm": f"char[{length}]"})
    if fits:
        all_macros(structs)
    else:
        with pytest.raises(UnmeasurableError, match=rf"char\[{length}\]"):
            all_macros(structs)


@pytest.mark.parametrize("path", sorted(ALL))
def test_a_field_that_the_kernel_lacks(path: str) -> None:
    structs = a_kernel({other: text for other, text in ALL.items() if other != path})
    if path in offsets.IDLE_FIELDS:
        assert "RQ_IDLE" not in all_macros(structs)
    elif path in IDLE:
        assert "RQ_IDLE" not in all_macros(structs)
        assert "RQ_IDLE" in all_macros(structs, helpers=[PER_CPU_LOOKUP])
    elif path == "task_struct.on_cpu":
        assert "TASK_STRUCT_ON_CPU" not in all_macros(structs)
    else:
        with pytest.raises(UnmeasurableError, match=path.replace(".", r"\.")):
            all_macros(structs)


@pytest.mark.parametrize("path", sorted(IDLE))
@pytest.mark.parametrize("text", ["struct atomic_t", "u64", "struct other *"])
def test_no_way_to_the_idle_tasks_by_fields_that_changed(path: str, text: str) -> None:
    """Measured without, as on a kernel that lacks them."""
    if path == "rq.cpu" and text == "u64":
        return
    structs = a_kernel({**ALL, path: text})
    assert "RQ_IDLE" not in all_macros(structs)
    by_offset = all_macros(structs, helpers=["get_current_task_btf", PER_CPU_LOOKUP])
    assert ("RQ_IDLE" in by_offset) == (path in offsets.TASK_GROUP_FIELDS)


def test_the_way_to_the_idle_tasks() -> None:
    """By a helper where there is one: task_group.cfs_rq is a per-CPU pointer since 7.2."""
    old, new = ORIGINAL, all_macros(a_kernel(ALL), helpers=[PER_CPU_LOOKUP])
    assert "TASK_GROUP_CFS_RQ" in old
    assert "IDLE_BY_PER_CPU_OFFSET" not in old
    assert "TASK_GROUP_CFS_RQ" not in new
    assert new["IDLE_BY_PER_CPU_OFFSET"] == 1
    per_cpu = a_kernel({**ALL, "task_group.cfs_rq": "struct cfs_rq *"})
    assert "RQ_IDLE" not in all_macros(per_cpu)
    assert all_macros(per_cpu, helpers=[PER_CPU_LOOKUP])["IDLE_BY_PER_CPU_OFFSET"] == 1


def test_a_kernel_without_task_iterators() -> None:
    with pytest.raises(UnmeasurableError, match=r"Linux 5\.8"):
        all_macros(a_kernel(ALL), iterator=False)


def test_what_a_kernel_was_built_with() -> None:
    assert "KSTACK_ERASE" not in ORIGINAL
    assert ORIGINAL["USER_WORKER_FLAGS"] == 0
    more = {"task_struct.lowest_stack": "unsigned long", "kernel_clone_args.io_thread": "u32 : 1"}
    macros = all_macros(a_kernel({**ALL, **more}))
    assert macros["KSTACK_ERASE"] == 1
    assert macros["USER_WORKER_FLAGS"] == offsets.PF_IO_WORKER


@pytest.mark.parametrize(
    ("parent", "type_", "found"),
    [
        ("parent", "struct kernfs_node *", True),
        ("__parent", "struct kernfs_node *", True),
        ("parent", "u64", False),
        ("above", "struct kernfs_node *", False),
    ],
)
def test_the_way_up_from_a_cgroup_is_found_by_either_name(
    tmp_path: Path, parent: str, type_: str, found: bool
) -> None:
    node = {"count": ("atomic_t", 0), parent: (type_, 8), "name": ("char *", 16)}
    path = tmp_path / "btf"
    path.write_bytes(a_btf_file({"kernfs_node": node, "atomic_t": {"counter": ("int", 0)}}))
    with Btf(path) as btf:
        macros = cgroup_name_macros(btf)
    assert (macros.get("KERNFS_NODE_PARENT"), macros.get("KERNFS_NODE_NAME")) == (
        (8, 16) if found else (None, None)
    )
