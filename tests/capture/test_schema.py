# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/capture.schema.json says what the reader asks for: neither more nor less."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dynstack_probe.capture.lines import COLUMNS, MOST_STACKS, VERSION
from tests import ROOT
from tests.capture.files import (
    Line,
    Members,
    capture_bytes,
    check_any_file,
    packed,
    parsed,
    two_frames,
)

SCHEMA = json.loads((ROOT / "docs/capture.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
GOLDEN = sorted((ROOT / "tests/data").glob("*.dsp"))


def valid(line: object) -> bool:
    return VALIDATOR.is_valid(line)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["header"]["properties"]["version"] == {"const": VERSION}


def test_its_columns_and_bounds_are_the_reader_s() -> None:
    columns = {
        option["properties"]["column"]["const"]: option["properties"]["values"]["items"]["maximum"]
        for option in SCHEMA["$defs"]["stacks"]["oneOf"]
    }
    assert columns == {name: most for name, (_, most) in COLUMNS.items()}
    assert SCHEMA["$defs"]["later_stacks"]["properties"]["column"]["not"]["enum"] == list(COLUMNS)
    assert SCHEMA["$defs"]["snapshot"]["properties"]["stacks"]["maximum"] == MOST_STACKS


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_captures_of_real_kernels(path: Path) -> None:
    for line in (line for member in parsed(path.read_bytes()) for line in member):
        VALIDATOR.validate(line)


@pytest.fixture(scope="module")
def made() -> Members:
    return parsed(capture_bytes(two_frames()))


def test_made_up_captures(made: Members) -> None:
    for line in (line for member in made for line in member):
        VALIDATOR.validate(line)


def a_line_of_each_kind(files: Members) -> Iterator[Line]:
    """The second snapshot, since it has counters."""
    seen = set()
    for line in (line for member in reversed(files) for line in member):
        kind = (line["type"], line.get("column"), line.get("of"))
        if kind not in seen:
            seen.add(kind)
            yield line


def fields_of(value: Any, path: str = "") -> Iterator[tuple[dict[str, Any], str, str]]:
    for key in list(value) if isinstance(value, dict) else ():
        # neither reader nor schema knows the names in these two
        if not path.endswith((".config", ".lost")):
            yield value, key, f"{path}.{key}"
        yield from fields_of(value[key], f"{path}.{key}")


def reader_takes(path: Path, files: Members) -> bool:
    path.write_bytes(packed(files))
    return check_any_file(path)[1] is None


def test_what_one_requires_the_other_requires(tmp_path: Path, made: Members) -> None:
    files = copy.deepcopy(made)
    required: list[str] = []
    optional: list[str] = []
    for line in a_line_of_each_kind(files):
        for container, key, name in fields_of(line):
            value = container.pop(key)
            by_schema, by_reader = valid(line), reader_takes(tmp_path / "file", files)
            container[key] = value
            assert by_schema == by_reader, f"{line['type']}{name}: schema {by_schema}"
            (optional if by_reader else required).append(f"{line['type']}{name}")
    assert {name.split(".")[-1] for name in optional} == {
        *("anonymized", "random_offset", "context_switches", "grown_kib", "lifecycle"),
        *("kernel_stacks", "kernel_stack_kib", "boot_idle_mark_bytes"),
        *("page_faults", "headroom", "calibration", "limit_hits", "limit_failures"),
        "cold_fault_ns",
    }
    assert len(required) > 60


WRONG: list[Any] = [
    *(None, True, -1, 1 << 65, 0.5, "", "x" * 4097, [], [None], [-1], [[1]], {}, {"x": -1}),
]
# Bounds between lines, and values that the schema would have to know the whole file for.
BEYOND_ONE_LINE = ("values", "stacks", "snapshots", "of", "column")
FOR_PEOPLE = "anonymized"  # no reader asks for it


def test_what_one_refuses_the_other_refuses(tmp_path: Path, made: Members) -> None:
    files = copy.deepcopy(made)
    refused = 0
    for line in a_line_of_each_kind(files):
        for container, key, name in fields_of(line):
            value = container[key]
            for wrong in WRONG:
                container[key] = wrong
                by_schema, by_reader = valid(line), reader_takes(tmp_path / "file", files)
                refused += not by_reader
                if key == FOR_PEOPLE or (key in BEYOND_ONE_LINE and by_schema):
                    continue
                assert by_schema == by_reader, f"{line['type']}{name} {wrong!r:.40}: {by_schema}"
            container[key] = value
    assert refused > 500
