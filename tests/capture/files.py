# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures as bytes, as lines, and pulled to pieces; and what must hold for any file at all."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dynstack_probe.analysis.estimate import estimate, group_by
from dynstack_probe.capture import CaptureWriter, read_frames
from dynstack_probe.capture.lines import COLUMNS
from dynstack_probe.errors import UsageError
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import KernelFacts
from dynstack_probe.model.interval import PageFaults
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.shapes import count_shapes
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Kind, Stacks
from dynstack_probe.policy import BUILT_IN
from tests.factory import a_frame, some_stacks

HOSTILE_COMMS = [
    b"plain",
    b"",
    b"\xff\xfe\x80",
    b"two\nlines",
    b"\x1b[2J\x1b]0;x\x07",
    "Grüße".encode(),
    b'"},{"a":"',
    b"cut \xe2\x82",
    b"=cmd()",
]
A_LIFECYCLE = Lifecycle(
    created=20,
    reused=9,
    exited={(1, 1): 11, (2, 1): 3, (2, 4): 1},
    skipped=(0, 1, 0, 2),
    growth_by_age=(5, 4, 3, 2, 1, 0),
    lost={"full": 3, "stray": 0},
    runs=123,
    run_seconds=0.25,
)

A_HEADROOM = Headroom((700, 3, 1 << 60), 2, 5, 6, 7, 8, 9)
A_CALIBRATION = Calibration(1800.5, 800.25, 100.125, 200.0, 0.0625, 3, pinned=True)

# Fields of Stacks; a capture holds neither addresses nor, so far, system calls.
NOT_CAPTURED = {"addresses", "syscalls"}
CAPTURED = [field.name for field in fields(Stacks) if field.name not in NOT_CAPTURED]

Line = dict[str, Any]
Members = list[list[Line]]


def many_stacks(count: int) -> Stacks:
    """Stacks of which no two are alike, and whose columns go to their limits."""
    marks = [8 + (i * 37) % 16377 for i in range(count)]
    return replace(
        some_stacks(marks),
        touched_pages=[(i * 7 + 1) % 16 for i in range(count)],
        resident_pages=[0b1111 if i % 3 else 1 for i in range(count)],
        depth_bytes=[min(mark, i * 53 % 9000) for i, mark in enumerate(marks)],
        kinds=[Kind(i % len(Kind)) for i in range(count)],
        comms=[HOSTILE_COMMS[i % len(HOSTILE_COMMS)] for i in range(count)],
        tids=[(1 << 22) - i for i in range(count)],
        tgids=[i // 3 for i in range(count)],
        cgroup_ids=[(1 << 64) - 1 - i % 5 for i in range(count)],
        switches=[(1 << 64) - 1 - i for i in range(count)],
        start_boot_ns=[i * 10**9 for i in range(count)],  # boot_ns is 10**15
        asleep_seconds=[ASLEEP_UNKNOWN if i % 97 == 96 else i * i % 900_000 for i in range(count)],
        addresses=(),
    )


def a_full_frame(count: int, taken_at: float = 1_700_000_000.25) -> Frame:
    """Every field that a capture keeps differs from its default; two cgroups have no path."""
    plain = a_frame(
        many_stacks(count),
        caveats=("The first caveat.", "Grüße"),
        cgroup_paths={(1 << 64) - 1 - i: f"/slice-\udcff{i}" for i in range(min(count, 3))},
        grown_kib=48,
        kernel=KernelFacts("quiet isolcpus=1", {"CONFIG_VMAP_STACK": "y"}, random_offset=True),
        taken_at=taken_at,
        boot_ns=10**15,
        context_switches=1 << 60,
    )
    coverage = replace(
        plain.coverage,
        unreadable=1,
        kernel_stacks=None,
        kernel_stack_kib=None,
        refreshed=False,
        erased=2,
        boot_idle_mark_bytes=3000,
    )
    return replace(plain, coverage=coverage)


def written(path: Path, frames: Iterable[Frame], force: bool = True) -> Path:
    with CaptureWriter(path, force=force) as writer:
        for frame in frames:
            writer.add(frame)
    return path


def capture_bytes(frames: Iterable[Frame]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder) / "capture", frames).read_bytes()


def two_frames() -> list[Frame]:
    return [a_full_frame(7), a_counted_frame()]


def a_counted_frame() -> Frame:
    """With all that only a series has."""
    return replace(
        a_full_frame(9, 1_700_000_060.0),
        lifecycle=A_LIFECYCLE,
        page_faults=PageFaults(1 << 62, 12),
        headroom=A_HEADROOM,
        calibration=A_CALIBRATION,
    )


def members(data: bytes) -> list[bytes]:
    """The unpacked text of each gzip member; of the last, if it is cut, what there is."""
    texts = []
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        texts.append(unpacker.decompress(data))
        if not unpacker.eof:
            break
        data = unpacker.unused_data
    return texts


def whole_members(data: bytes) -> int:
    """How many gzip members came with all of their bytes."""
    count = 0
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        unpacker.decompress(data)
        if not unpacker.eof:
            break
        count, data = count + 1, unpacker.unused_data
    return count


def parsed(data: bytes) -> Members:
    return [[json.loads(line) for line in text.splitlines()] for text in members(data)]


def packed(lines_of_members: Iterable[Iterable[Mapping[str, Any] | bytes | str]]) -> bytes:
    """A capture of these lines, given as objects or as raw text."""

    def raw(line: Mapping[str, Any] | bytes | str) -> bytes:
        if isinstance(line, bytes):
            return line
        text = line if isinstance(line, str) else json.dumps(line, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    return b"".join(
        gzip.compress(b"".join(raw(line) + b"\n" for line in lines), 1, mtime=0)
        for lines in lines_of_members
    )


def same(told: Frame, frame: Frame) -> bool:
    """Whether a frame holds what was written: all but NOT_CAPTURED, and what bcc printed."""
    columns = all(
        list(getattr(told.stacks, name)) == list(getattr(frame.stacks, name)) for name in CAPTURED
    )
    alike = replace(
        told,
        stacks=frame.stacks,
        cost=replace(told.cost, native_output=frame.cost.native_output),
    )
    return columns and alike == frame


def check_frame(frame: Frame) -> None:
    """A frame that was read is a sound one, and every policy can work with it."""
    stacks, host = frame.stacks, frame.host
    for name in CAPTURED:
        assert len(getattr(stacks, name)) == len(stacks), name
    limits = {name: most for name, (_, most) in COLUMNS.items() if name not in ("comms", "cgroups")}
    limits |= {"mark_bytes": host.thread_size_bytes, "depth_bytes": host.thread_size_bytes}
    for name, most in limits.items():
        assert all(0 <= value <= most for value in getattr(stacks, name)), name
    assert all(isinstance(comm, bytes) for comm in stacks.comms)
    thresholds = [policy.asleep_seconds for policy in BUILT_IN.values()]
    shapes = count_shapes(stacks, thresholds)
    assert shapes.total() == len(stacks)
    for policy in BUILT_IN.values():
        result = estimate(policy, shapes, host)
        assert result.stacks == len(stacks)
        assert result.dynamic_kib >= 0
        assert result.saving_of_ram_ratio <= result.base_kib / host.mem_total_kib
    policy = BUILT_IN["gc-sleepers"]
    groups = group_by(policy, stacks, stacks.comms, host)
    assert sum(g.dynamic_kib for g in groups) == estimate(policy, shapes, host).dynamic_kib


def try_to_read(path: Path, *, partial: bool) -> tuple[list[Frame], str | None]:
    """All frames up to the error, and its message: the only one there may be, of one line."""
    frames: list[Frame] = []
    try:
        for frame in read_frames(path, partial=partial):
            frames.append(frame)
    except UsageError as error:
        message = str(error)
        assert str(path) in message, message
        assert len(message.splitlines()) == 1, message
        assert message.isprintable(), message
        assert len(message) < 600, message
        return frames, message
    return frames, None


def check_any_file(path: Path) -> tuple[list[Frame], str | None]:
    """What holds for every file, however hostile; returns the strict reader's outcome."""
    strict, error = try_to_read(path, partial=False)
    partial, partial_error = try_to_read(path, partial=True)
    assert partial[: len(strict)] == strict
    for frame in partial if len(partial) > len(strict) else strict:
        check_frame(frame)
    if error is None:
        assert partial == strict
    elif partial_error is None:
        assert len(partial) <= len(strict) + 1
    return strict, error


def error_of(path: Path, data: bytes) -> str:
    """What the strict reader says of these bytes; they must not be a capture."""
    path.write_bytes(data)
    _, error = check_any_file(path)
    assert error is not None
    return error


def rows(texts: Sequence[bytes]) -> int:
    """How many stacks have all their columns in the whole lines of a member."""
    lines = b"".join(texts).split(b"\n")[:-1]
    counts = dict.fromkeys(COLUMNS, 0)
    for line in map(json.loads, lines):
        if line["type"] == "stacks":
            counts[line["column"]] += len(line["values"])
    return min(counts.values())


def peak_rss_kib() -> int:
    """Of this process since it began. ru_maxrss would count in what it was forked from."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])
