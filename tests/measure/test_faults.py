# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from pathlib import Path

import pytest

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel.features import Features, Root
from dynstack_probe.loader import probes_dir
from dynstack_probe.measure import faults
from dynstack_probe.measure.call_paths import (
    CallPaths,
    Frame,
    Sample,
    entry_name,
    frame_depths,
)
from dynstack_probe.measure.faults import Context, FaultWatch, Ranking, StackFault
from dynstack_probe.measure.records import read_constants, read_layout

HEADER = probes_dir() / "records.h"


def a_watch() -> FaultWatch:
    """One without a probe: it only understands records."""
    watch = object.__new__(FaultWatch)
    watch._layout = read_layout(HEADER, "stack_fault")
    watch._flags = read_constants(HEADER, "FAULT")
    watch._known = OrderedDict()
    return watch


def raw(**values: int) -> bytes:
    layout = read_layout(HEADER, "stack_fault")
    record = bytearray(layout.size_bytes)
    defaults = {
        "start_boot_ns": 10**9,
        "found_boot_ns": 3 * 10**9,
        "tid": 7,
        "tgid": 7,
        "context": Context.SYSCALL,
        "syscall": 9,
        "mark_bytes": 5000,
        "pages_before": 1,
        "touched_pages": 0b11,
    }
    for name, value in {**defaults, **values}.items():
        code, offset = layout.fields[name]
        struct.pack_into(f"={code}", record, offset, value)
    offset = layout.fields["comm"][1]
    record[offset : offset + 4] = b"task"
    return bytes(record)


def understood(watch: FaultWatch, **values: int) -> StackFault:
    fault = watch._parse(raw(**values))
    assert fault is not None
    return fault


def test_contexts_are_those_of_the_header() -> None:
    names = read_constants(HEADER, "CONTEXT")
    assert names == {context.name: context.value for context in Context}


def test_a_crossing() -> None:
    fault = understood(a_watch())
    assert fault.call == "mmap"
    assert (fault.pages_before, fault.pages, fault.faults) == (1, 1, 1)
    assert fault.age_seconds == 2
    assert fault.comm == b"task"
    assert not fault.late


def test_a_skipped_page_takes_no_fault_of_its_own() -> None:
    fault = understood(a_watch(), mark_bytes=13_000, touched_pages=0b1001)
    assert (fault.pages, fault.faults) == (3, 1)
    fault = understood(a_watch(), mark_bytes=13_000, touched_pages=0b1011)
    assert (fault.pages, fault.faults) == (3, 2)


def test_what_is_told_twice_counts_once() -> None:
    watch = a_watch()
    late = read_constants(HEADER, "FAULT")["LATE"]
    assert understood(watch).pages == 1
    assert watch._parse(raw(flags=late)) is None
    deeper = understood(watch, mark_bytes=9000, touched_pages=0b111, pages_before=1, flags=late)
    assert (deeper.pages_before, deeper.pages, deeper.faults, deeper.late) == (2, 1, 1, True)
    assert understood(watch, start_boot_ns=2 * 10**9).pages == 1  # another task of that tid


@pytest.mark.parametrize(
    ("values", "call"),
    [
        ({"context": Context.KTHREAD, "syscall": 0xFFFFFFFF}, "(kernel thread)"),
        ({"context": Context.EXCEPTION}, "(page fault or interrupt)"),
        ({"flags": 1, "syscall": 192}, "ia32:192"),
    ],
)
def test_calls(values: dict[str, int], call: str) -> None:
    assert understood(a_watch(), **values).call == call


def test_only_so_many_tasks_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "REMEMBERED", 3)
    watch = a_watch()
    for tid in range(10):
        understood(watch, tid=tid)
    assert len(watch._known) == 3


def test_ranking() -> None:
    watch = a_watch()
    found = [understood(watch, tid=tid, syscall=9) for tid in range(3)]
    found += [understood(watch, tid=9, syscall=1, mark_bytes=9000, touched_pages=0b111)]
    ranking = Ranking()
    for fault in found:
        ranking.add(fault)
    first, second = ranking.ranked()
    assert (first.name, first.faults, first.pages, first.tasks) == ("mmap", 3, 3, {b"task": 3})
    assert (second.name, second.faults, second.pages) == ("write", 2, 2)
    assert second.deepest_bytes == 9000


def test_dynamic_stacks_are_left_alone(kernel_root: Path) -> None:
    (kernel_root / "proc/vmstat").write_text("nr_dynamic_stacks_faults 12\n")
    with pytest.raises(UnmeasurableError, match="nr_dynamic_stacks_faults"):
        faults.require_fixed_stacks(Features(Root(kernel_root)))


# A stack from the stack pointer upwards: 3 words of f, its return address into g, 2 of g,
# that into h, 1 of h.
STACK = array("Q", [0, 1, 2, 0xBBB, 3, 4, 0xCCC, 5])


def test_frame_depths() -> None:
    assert frame_depths([0xAAA, 0xBBB, 0xCCC], STACK, 64) == [64, 32, 8]
    assert frame_depths([0xAAA, 0xDDD, 0xCCC], STACK, 64) == [64, None, 8]
    assert frame_depths([], STACK, 64) == []


def registers(orig_ax: int, cs: int = 0x33, ss: int = 0x2B, padding: int = 0) -> array[int]:
    """The end of a stack: orig_ax, ip, cs, flags, sp, ss."""
    return array("Q", [0, orig_ax, 0, cs, 0, 0, ss, *([0] * padding)])


def test_entry_names() -> None:
    none = 2**64 - 1
    assert entry_name(registers(9)) == "mmap"
    assert entry_name(registers(9, padding=2)) == "mmap"
    assert entry_name(registers(192, cs=0x23), ia32=True) == "ia32:192"
    assert entry_name(registers(none)) == "(page fault or interrupt)"
    assert entry_name(registers(9, cs=0x10)) == "(fork return)"
    assert entry_name(array("Q")) == "(fork return)"


def test_paths_are_merged_and_the_deepest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(depth: int, *functions: str) -> Sample:
        frames = tuple(Frame(function, depth) for function in functions)
        return Sample(1, b"task", "mmap", depth, frames)

    paths = CallPaths()
    for depth in (100, 300, 200):
        paths.add(sample(depth, "a", "b"))
    paths.add(sample(400, "a"))
    assert [(path.deepest.depth_bytes, path.samples) for path in paths.deepest_first()] == [
        (400, 1),
        (300, 3),
    ]
    monkeypatch.setattr("dynstack_probe.measure.call_paths.MAX_PATHS", 2)
    paths.add(sample(1, "c"))
    assert paths.left_out == 1


def test_crossings_of_one_run_come_from_one_reserve() -> None:
    runs = faults.Runs()

    def cross(tid: int, switches: int, pages: int, *, late: bool = False) -> None:
        runs.add(
            StackFault(
                tid, tid, b"x", 1, Context.SYSCALL, "read", late, 5000, 1, pages, 1, 0.1, 7,
                switches=switches,
            )
        )  # fmt: skip

    cross(1, 5, 1)
    cross(2, 5, 1)
    cross(1, 5, 2)
    assert (runs.most_pages, runs.in_same_run) == (3, 1)
    cross(1, 6, 1)
    cross(1, 6, 1, late=True)
    assert (runs.most_pages, runs.in_same_run) == (3, 1)
