# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct
from pathlib import Path

import pytest

from dynstack_probe.loader import probes_dir
from dynstack_probe.measure.records import read_constants, read_layout
from dynstack_probe.model.stacks import Kind

HEADER = probes_dir() / "records.h"


def test_layout_of_the_real_header() -> None:
    layout = read_layout(HEADER, "stack_record")
    assert layout.size_bytes == struct.calcsize("6Q10I16s")
    assert layout.fields["stack"] == ("Q", 0)
    assert layout.fields["comm"] == ("16s", layout.size_bytes - 16)


def test_kinds_are_those_of_the_header() -> None:
    assert read_constants(HEADER, "KIND") == {kind.name: kind.value for kind in Kind}


def test_columns_and_texts(tmp_path: Path) -> None:
    header = tmp_path / "r.h"
    header.write_text(
        "struct r {\n\tu64 a; /* one */\n\tu32 b;\n\tu32 c; /* u64 x; */\n\tchar name[8];\n};\n"
    )
    layout = read_layout(header, "r")
    raw = b"".join(
        struct.pack("QII8s", n, n + 1, n + 2, name)
        for n, name in enumerate((b"one", b"tw\0junk", b"eight888", b"one"))
    )
    assert list(layout.column(raw, "a")) == [0, 1, 2, 3]
    assert list(layout.column(raw, "b")) == [1, 2, 3, 4]
    assert list(layout.column(raw, "c")) == [2, 3, 4, 5]
    texts = layout.texts(raw, "name")
    assert texts == [b"one", b"tw", b"eight888", b"one"]
    assert texts[0] is texts[3]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [("u32 a;\n\tu64 b;", "padding before r.b"), ("u64 a;\n\tu32 b;", "ends in padding")],
)
def test_padding_is_refused(tmp_path: Path, body: str, complaint: str) -> None:
    header = tmp_path / "r.h"
    header.write_text(f"struct r {{\n\t{body}\n}};\n")
    with pytest.raises(ValueError, match=complaint):
        read_layout(header, "r")


def test_a_missing_struct_is_named(tmp_path: Path) -> None:
    header = tmp_path / "r.h"
    header.write_text("")
    with pytest.raises(ValueError, match="no struct r"):
        read_layout(header, "r")
