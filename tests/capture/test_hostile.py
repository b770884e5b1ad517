# SPDX-License-Identifier: GPL-2.0-or-later
"""Files made to do harm, or that are something else: refused in one line, cheaply."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynstack_probe.analysis.evidence import evidence_of
from dynstack_probe.capture import Capture, read_frames
from dynstack_probe.capture.lines import COLUMNS, LONGEST_LINE, MOST_STACKS
from dynstack_probe.errors import UsageError
from tests import ROOT
from tests.capture.files import (
    Line,
    Members,
    capture_bytes,
    check_any_file,
    error_of,
    packed,
    parsed,
    two_frames,
)

MOST_RSS_KIB = 200 * 1024
MOST_CPU_SECONDS = 12.0  # for both ways of reading, on a busy machine

# Reads a file as check_any_file() does, in a process whose memory and time are its own.
CHILD = """
import json, sys, time
from pathlib import Path
from tests.capture.files import check_any_file, peak_rss_kib
frames, error = check_any_file(Path(sys.argv[1]))
print(json.dumps([len(frames), error, peak_rss_kib(), time.process_time()]))
"""


@pytest.fixture(scope="module")
def good() -> Members:
    return parsed(capture_bytes(two_frames()))


def line_of(files: Members, kind: str, what: str = "") -> Line:
    """The first line of a type, of a column or of names."""
    return next(
        line
        for member in files
        for line in member
        if line["type"] == kind and what in ("", line.get("column"), line.get("of"))
    )


# --- what is no capture --------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it ends before its last line"),
        (b"taken from the web\n" * 100, "no gzip data around byte 0"),
        (b"\x7fELF" + bytes(range(256)) * 30, "no gzip data around byte 0"),
        (b"\x1f\x8b", "it ends in the middle, after 2 bytes"),
        (gzip.compress(b""), "it ends before its last line"),
        (gzip.compress(b"\n"), "line 1: is not valid JSON"),
        (gzip.compress(b"a,b\n1,2\n"), "line 1: is not valid JSON"),
        (gzip.compress(b'{"a": 1}\n'), "line 1: type is missing or of the wrong type"),
        (gzip.compress(b'{"type":"end"}\n'), "line 1: not a capture of dynstack-probe"),
        (gzip.compress(b"[]\n"), "line 1: line is not an object"),
        (gzip.compress(b'{"type": "x"}'), "a line is cut off, though its gzip member is whole"),
        (gzip.compress(bytes(5000)), "a line is cut off"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:30],
)
def test_what_is_no_capture(tmp_path: Path, data: bytes, why: str) -> None:
    error = error_of(tmp_path / "file", data)
    assert error.startswith(f"{tmp_path / 'file'}: {why}"), error
    assert "--partial" not in error


@pytest.mark.parametrize(("name", "why"), [("", "Is a directory"), ("gone", "No such file")])
def test_what_can_not_be_opened(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"^can't read {tmp_path / name}: {why}"):
        list(read_frames(tmp_path / name))


def test_a_capture_without_a_snapshot(tmp_path: Path, good: Members) -> None:
    path = tmp_path / "file"
    path.write_bytes(packed([[good[0][0]], [{"type": "end", "snapshots": 0}]]))
    assert list(read_frames(path)) == []
    with pytest.raises(UsageError, match=r"file holds no frame$"):
        evidence_of(Capture(path), [], path.name)


def test_a_newer_version_says_who_made_it(tmp_path: Path, good: Members) -> None:
    files = copy.deepcopy(good)
    files[0][0] |= {"version": 2, "tool": "dynstack-probe 9.0\n\x1b[2J"}
    error = error_of(tmp_path / "file", packed(files))
    assert "version 2 of the format, made by 'dynstack-probe 9.0\\n\\x1b[2J'" in error
    assert "this program reads version 1" in error


def test_what_a_later_tool_of_this_version_adds_is_ignored(tmp_path: Path, good: Members) -> None:
    files = copy.deepcopy(good)
    files[0][0]["later"] = {"deep": [1]}
    files[0][0]["host"]["sockets"] = 2
    frame = line_of(files, "snapshot")
    frame["later"] = frame["coverage"]["later"] = None
    files[0].append({"type": "stacks", "column": "colour", "values": ["red"]})
    path = tmp_path / "file"
    path.write_bytes(packed(files))
    frames, error = check_any_file(path)
    assert error is None
    path.write_bytes(packed(good))
    assert frames == list(read_frames(path))


# --- wrong content -------------------------------------------------------------------


def drop(files: Members, kind: str, what: str = "") -> None:
    line = line_of(files, kind, what)
    for member in files:
        member[:] = [other for other in member if other is not line]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column(tmp_path: Path, good: Members, column: str) -> None:
    files = copy.deepcopy(good)
    drop(files, "stacks", column)
    error = error_of(tmp_path / "file", packed(files))
    assert f"{column} has 0 values, announced were 7" in error


@pytest.mark.parametrize("column", COLUMNS)
def test_more_values_than_announced(tmp_path: Path, good: Members, column: str) -> None:
    """Refused as they come, before they take memory."""
    files = copy.deepcopy(good)
    files[0].append(line_of(files, "stacks", column))
    why = f"line {len(files[0])}: {column}: more than the 7 stacks announced"
    assert why in error_of(tmp_path / "file", packed(files))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(
    "value", [-1, 1.5, None, "1", [1], 1 << 64, 1 << 200, float("nan"), float("inf")], ids=repr
)
def test_a_wrong_value_in_a_column(
    tmp_path: Path, good: Members, column: str, value: object
) -> None:
    files = copy.deepcopy(good)
    line_of(files, "stacks", column)["values"][3] = value
    error = error_of(tmp_path / "file", packed(files))
    assert f"{column}: holds a value that is not a whole number in range" in error


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("mark_bytes", 16385, "16385 is more than 16384"),
        ("depth_bytes", 16385, "16385 is more than 16384"),
        ("kinds", 4, "4 is more than 3"),
        ("comms", 7, "comms: 7 has no name"),
        ("cgroups", 5, "cgroups: 5 has no name"),
    ],
)
def test_a_value_out_of_bounds(
    tmp_path: Path, good: Members, column: str, value: int, why: str
) -> None:
    files = copy.deepcopy(good)
    line_of(files, "stacks", column)["values"][3] = value
    assert why in error_of(tmp_path / "file", packed(files))


def test_more_samples_than_one_snapshot_may_hold(tmp_path: Path, good: Members) -> None:
    for samples, why in (([1] * 4097, "not a list of counts"), ([], "holds no sample")):
        files = copy.deepcopy(good)
        files[1][0]["headroom"]["above_min_pages"] = samples
        assert f"above_min_pages {why}" in error_of(tmp_path / "file", packed(files)).replace(
            " is ", " "
        )


@pytest.mark.parametrize("what", ["comms", "cgroups"])
def test_names_that_are_missing(tmp_path: Path, good: Members, what: str) -> None:
    files = copy.deepcopy(good)
    drop(files, "names", what)
    assert f"{what}: " in error_of(tmp_path / "file", packed(files))


def test_more_names_than_stacks(tmp_path: Path, good: Members) -> None:
    """There can't be: and so memory is bounded by what was announced."""
    for what, values in (("comms", ["x"] * 8), ("cgroups", [[1, None]] * 8)):
        files = copy.deepcopy(good)
        line_of(files, "names", what)["values"] = values
        assert "more names than stacks" in error_of(tmp_path / "file", packed(files))


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("host", "thread_size_bytes", 0),
        ("host", "thread_size_bytes", 4095),
        ("host", "thread_size_bytes", 16385),
        ("host", "thread_size_bytes", 1 << 17),
        ("host", "page_size_bytes", 65536),
        ("host", "mem_total_kib", 0),
        ("host", "cpus", 0),
        ("host", "cpus", 1 << 17),
        ("host", "cpu_model", "x" * 5000),
        ("host", "cpu_model", "half \ud83d"),
        ("snapshot", "cpus", 0),
        ("snapshot", "stacks", MOST_STACKS + 1),
        ("snapshot", "stacks", -1),
        ("snapshot", "taken_at", float("nan")),
        ("snapshot", "taken_at", 1e300),
        ("snapshot", "caveats", ["half \ud83d"]),
        ("snapshot", "caveats", [1]),
    ],
)
def test_nonsense(tmp_path: Path, good: Members, line: str, name: str, value: object) -> None:
    files = copy.deepcopy(good)
    target = files[0][0]["host"] if line == "host" else line_of(files, "snapshot")
    assert name in target
    target[name] = value
    assert name in error_of(tmp_path / "file", packed(files))


@pytest.mark.parametrize("name", ["\ud83d", "\udcff\udfff", "a\0b", "x" * 5000])
def test_names_that_no_kernel_gives(tmp_path: Path, good: Members, name: str) -> None:
    files = copy.deepcopy(good)
    line_of(files, "names", "comms")["values"][0] = name
    error_of(tmp_path / "file", packed(files))
    files = copy.deepcopy(good)
    line_of(files, "names", "cgroups")["values"][0][1] = name
    error_of(tmp_path / "file", packed(files))


WRONG: list[Any] = [None, True, -1, 1 << 70, 0.5, float("inf"), "\ud83d", [[]], {"a": {}}]


def places(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Each place in a JSON value, of a list only the first, and a name for it."""
    keys = value if isinstance(value, dict) else range(min(1, len(value)))
    for key in keys if isinstance(value, dict | list) else ():
        yield value, key, f"{path}.{key}"
        if isinstance(value[key], dict | list):
            yield from places(value[key], f"{path}.{key}")


def test_a_wrong_type_anywhere(tmp_path: Path, good: Members) -> None:
    """Refused, or ignored because no reader asks for it; never a traceback."""
    files = copy.deepcopy(good)
    path = tmp_path / "file"
    refused = set()
    for line in [line for member in files for line in member]:
        for container, key, name in places(line):
            before = container[key]
            for value in WRONG:
                container[key] = value
                path.write_bytes(packed(files))
                _, error = check_any_file(path)
                if error:
                    refused.add(f"{line['type']}{name}")
            container[key] = before
    assert len(refused) > 60, sorted(refused)


def with_raw(files: Members, number: int, text: str) -> bytes:
    raw: list[list[Line | str]] = [list(member) for member in copy.deepcopy(files)]
    raw[0][number] = text
    return packed(raw)


def test_keys_that_stand_twice(tmp_path: Path, good: Members) -> None:
    """As any JSON reader: the last one counts, and is checked."""
    line = json.dumps(good[0][0])
    path = tmp_path / "file"
    path.write_bytes(with_raw(good, 0, '{"version":7,' + line[1:]))
    assert check_any_file(path)[1] is None
    assert "version 7" in error_of(path, with_raw(good, 0, line[:-1] + ',"version":7}'))


@pytest.mark.parametrize(
    "number", ["NaN", "-Infinity", "1e999", "9" * 10_000, "-1", "1.0", "0x10", "1_000"]
)
def test_numbers_that_are_none(tmp_path: Path, good: Members, number: str) -> None:
    changed = re.sub(r'("stacks": )\d+', rf"\g<1>{number}", json.dumps(good[0][1]))
    error = error_of(tmp_path / "file", with_raw(good, 1, changed))
    assert "line 2: " in error


# --- order ---------------------------------------------------------------------------


def reorder(change: Callable[[Members], None], good: Members) -> bytes:
    files = copy.deepcopy(good)
    change(files)
    return packed(files)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f.append(f[1]), "something follows the end"),
        (lambda f: f[1].insert(0, f[1][0]), "a snapshot begins within another"),
        (lambda f: f[1].pop(0), "outside a snapshot"),
        (lambda f: f[0].insert(1, f[0][0]), f"unknown type '{'dynstack-capture'}'"),
        (lambda f: f.pop(1), "it says that it ends, but snapshots are missing"),
        (lambda f: f.pop(2), "it ends before its last line"),
        (lambda f: f[2][0].update(snapshots=1), "it says that it ends, but snapshots are missing"),
        (lambda f: f.pop(0), "not a capture"),
        (lambda f: f.insert(0, f[1]), "not a capture"),
        (lambda f: f.append([{"type": "x"}]), "something follows the end"),
    ],
)
def test_lines_in_the_wrong_place(
    tmp_path: Path, good: Members, change: Callable[[Members], None], why: str
) -> None:
    assert why in error_of(tmp_path / "file", reorder(change, good))


# --- bombs ---------------------------------------------------------------------------


def repeated(text: bytes, total_bytes: int, level: int = 9) -> bytes:
    """A gzip member that unpacks to this text, over and over."""
    packer = zlib.compressobj(level, wbits=31)
    piece = text * max(1, (1 << 20) // len(text))
    parts = [packer.compress(piece) for _ in range(total_bytes // len(piece))]
    return b"".join(parts) + packer.flush()


def head(good: Members, stacks: int) -> list[Line]:
    """Header and snapshot line that announce so many stacks."""
    return [good[0][0], good[0][1] | {"stacks": stacks}]


def in_one_member(lines: list[Line], rest: bytes) -> bytes:
    return packed([lines]) + rest


BOMBS: dict[str, Callable[[Members], bytes]] = {
    "zeros": lambda good: repeated(bytes(1024), 1 << 30),
    "line feeds": lambda good: repeated(b"\n" * 1024, 1 << 30),
    "nested": lambda good: gzip.compress(repeated(bytes(1024), 1 << 30)),
    "a member for each byte": lambda good: gzip.compress(b"") * 50_000,
    "members that unpack to much": lambda good: repeated(b" " * 1024, 1 << 20) * 1000,
    "a line too long": lambda good: gzip.compress(b'{"type":"' + b"x" * LONGEST_LINE + b'"}\n'),
    "many stacks announced": lambda good: packed([head(good, MOST_STACKS)]),
    "deep lists": lambda good: gzip.compress(b"[" * (LONGEST_LINE - 9) + b"\n"),
    "deep objects": lambda good: gzip.compress(b'{"a":' * (LONGEST_LINE // 6) + b"\n"),
    "lists": lambda good: gzip.compress(b"[" + b"[]," * (LONGEST_LINE // 3 - 9) + b"[]]\n"),
    "objects": lambda good: gzip.compress(b"[" + b"{}," * (LONGEST_LINE // 3 - 9) + b"{}]\n"),
    "lists in values": lambda good: packed(
        [[*head(good, 9), {"type": "stacks", "column": "tids", "values": [[]] * 200_000}]]
    ),
    "one column": lambda good: (
        packed([head(good, MOST_STACKS)])[:-8]
        + repeated(b'{"type":"stacks","column":"switches","values":[' + b"0," * 999 + b"0]}\n", 1)
    ),
}


def of_many_lines(good: Members, lines: Iterator[str]) -> bytes:
    """All that gets past the bound on expansion: what hardly shrinks comes first."""
    rng = random.Random(1)
    packer = zlib.compressobj(6, wbits=31)
    noise = (column("x", f'"{rng.randbytes(LONGEST_LINE // 2 - 99).hex()}"', 1) for _ in range(2))
    data = b""
    for line in (*map(json.dumps, head(good, MOST_STACKS)), *noise, *lines):
        data += packer.compress(line.encode() + b"\n")
    return data + packer.flush()


def column(name: str, values: str, count: int) -> str:
    return f'{{"type":"stacks","column":"{name}","values":[{",".join([values] * count)}]}}'


BOMBS |= {
    "names": lambda good: of_many_lines(
        good,
        (
            '{"type":"names","of":"comms","values":[' + '"ab",' * 9999 + '"c"]}'
            for _ in range(MOST_STACKS // 10_000)
        ),
    ),
    "cgroups": lambda good: of_many_lines(
        good,
        (
            '{"type":"names","of":"cgroups","values":[' + "[7777,null]," * 9999 + "[1,null]]}"
            for _ in range(MOST_STACKS // 10_000)
        ),
    ),
    "columns": lambda good: of_many_lines(
        good, (column(name, "0", 9999) for _ in range(170) for name in COLUMNS)
    ),
    "empty lines of names": lambda good: of_many_lines(
        good, ('{"type":"names","of":"comms","values":[]}' for _ in range(1_100_000))
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb(tmp_path: Path, good: Members, name: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name](good))
    assert path.stat().st_size <= 2 << 20
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    frames, error, peak_rss_kib, cpu_seconds = json.loads(result.stdout)
    assert error
    assert frames == 0
    assert peak_rss_kib < MOST_RSS_KIB, error
    assert cpu_seconds < MOST_CPU_SECONDS, error
