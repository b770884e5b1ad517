# SPDX-License-Identifier: GPL-2.0-or-later
"""Which room may know of which: an import that points back fails here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "dynstack_probe"

# What each room may import of ours, besides itself and the four files that all may use.
COMMON = {"errors", "text", "files", "__init__"}
MEASURED = {"model", "capture", "policy", "analysis", "output"}
ARROWS = {
    "model": set[str](),
    "kernel": {"model"},
    "loader": {"kernel"},
    "measure": {"model", "kernel", "loader"},
    "capture": {"model"},
    "policy": {"model"},
    "analysis": {"model", "policy"},
    "output": {"model", "policy", "analysis"},
    "report": {*MEASURED, "fleet"},
    "top": MEASURED,
    "faults": {*MEASURED, "measure", "kernel", "loader", "ending"},
    "fleet": MEASURED,
    "httpd": set[str](),
    # the last two: it is a process of its own, without the command line
    "serve": {*MEASURED, "measure", "kernel", "loader", "httpd", "interrupts", "ending"},
}
# Rooms without I/O: what they may import of the standard library, and nothing else.
PURE = {"model", "policy", "analysis"}
PURE_MODULES = {
    *("__future__", "abc", "array", "bisect", "collections", "dataclasses", "enum", "functools"),
    *("heapq", "importlib", "itertools", "math", "operator", "pkgutil", "re", "statistics"),
    *("typing",),
}


def imports(source: Path) -> Iterator[str]:
    """The full name of each module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            assert node.module is not None
            if node.module == "dynstack_probe":
                yield from (f"dynstack_probe.{alias.name}" for alias in node.names)
            else:
                yield node.module


def files_of(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_is_in_the_plan() -> None:
    rooms = {folder.name for folder in PACKAGE.iterdir() if any(folder.glob("*.py"))}
    assert rooms == {*ARROWS, "commands"}


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_point_one_way(room: str) -> None:
    allowed = ARROWS[room] | COMMON | {room, "__version__"}
    for source in files_of(room):
        for name in imports(source):
            if name.startswith("dynstack_probe."):
                other = name.split(".")[1]
                assert other in allowed, f"{source.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", sorted(PURE))
def test_pure_rooms_do_no_io(room: str) -> None:
    for source in files_of(room):
        for name in imports(source):
            top = name.split(".")[0]
            assert top in PURE_MODULES | {"dynstack_probe"}, f"{source.name} imports {name}"


def test_only_the_loader_imports_bcc() -> None:
    users = {s.parent.name for s in PACKAGE.rglob("*.py") if "bcc" in set(imports(s))}
    assert users == {"loader"}


def test_commands_hold_nothing_that_a_test_needs() -> None:
    """They parse, call and print: what they call is tested, and they through the command line."""
    for source in (ROOT / "tests").rglob("*.py"):
        used = {name for name in imports(source) if name.startswith("dynstack_probe.commands")}
        assert not used, f"{source.relative_to(ROOT)} imports {used}"


def test_the_standard_library_is_what_we_think() -> None:
    assert sys.stdlib_module_names >= PURE_MODULES
