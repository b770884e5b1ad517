# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that were cut off or flipped on their way: no traceback, no wrong figure."""

from __future__ import annotations

import random
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from dynstack_probe.capture import writer
from dynstack_probe.capture.lines import CHUNK
from dynstack_probe.model.frame import Frame
from tests.capture.files import (
    a_full_frame,
    capture_bytes,
    check_any_file,
    members,
    rows,
    same,
    try_to_read,
    two_frames,
    whole_members,
)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small capture has many lines for each column."""
    monkeypatch.setattr(writer, "CHUNK", 3)


def is_head_of(frame: Frame, whole: Frame, count: int) -> bool:
    """Whether it holds the first `count` stacks of the other, and says so."""
    columns = ("mark_bytes", "comms", "cgroup_ids", "start_boot_ns", "asleep_seconds")
    stacks, all_stacks = frame.stacks, whole.stacks
    lost = len(all_stacks) - count
    return (
        all(
            list(getattr(stacks, name)) == list(getattr(all_stacks, name))[:count]
            for name in columns
        )
        and frame.coverage.read == count
        and frame.caveats[:-1] == whole.caveats
        and frame.caveats[-1].startswith(
            f"The capture is damaged: {lost} of {len(all_stacks)} stacks are lost (it ends"
        )
    )


@pytest.mark.usefixtures("small_chunks")
def test_a_cut_at_every_byte(tmp_path: Path) -> None:
    data = capture_bytes(two_frames())
    path = tmp_path / "capture"
    path.write_bytes(data)
    whole, error = check_any_file(path)
    assert error is None
    assert len(whole) == 2
    rows_seen = set()
    for cut in range(len(data)):
        head = data[:cut]
        path.write_bytes(head)
        _, error = check_any_file(path)
        assert error is not None, f"cut at {cut}"
        frames, error = try_to_read(path, partial=True)
        assert error is None, f"cut at {cut}"

        came_whole = min(whole_members(head), 2)
        assert frames[:came_whole] == whole[:came_whole], f"cut at {cut}"
        texts = members(head)[came_whole:]
        count = rows(texts) if came_whole < 2 else 0
        if count:
            rows_seen.add(count)
            assert len(frames) == came_whole + 1, f"cut at {cut}"
            assert is_head_of(frames[-1], whole[came_whole], count), f"cut at {cut}"
        else:
            assert len(frames) == came_whole, f"cut at {cut}"
    assert rows_seen >= {3, 6, 7, 9}


def test_a_cut_costs_less_than_a_chunk(tmp_path: Path) -> None:
    data = capture_bytes([a_full_frame(3 * CHUNK)])
    path = tmp_path / "capture"
    path.write_bytes(data)
    (whole,), _ = check_any_file(path)
    counts = []
    last_member = len(_members_onward(data)[-1])
    for cut in range(0, len(data) - last_member, len(data) // 40):
        path.write_bytes(data[:cut])
        frames, error = try_to_read(path, partial=True)
        assert error is None
        count = rows(members(data[:cut]))
        counts.append(count)
        assert [len(frame.stacks) for frame in frames] == ([count] if count else [])
        assert all(is_head_of(frame, whole, count) for frame in frames)
    assert set(counts) == {0, CHUNK, 2 * CHUNK}
    assert all(before <= after for before, after in pairwise(counts))


@pytest.mark.usefixtures("small_chunks")
def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """By gzip's checksum at the latest. Few bits mean nothing: in gzip's headers, in padding."""
    data = capture_bytes(two_frames())
    path = tmp_path / "capture"
    path.write_bytes(data)
    whole, _ = check_any_file(path)
    unnoticed = 0
    for place in range(len(data)):
        bit = random.Random(place).randrange(8)
        flipped = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        path.write_bytes(flipped)
        frames, error = check_any_file(path)
        assert frames == whole[: len(frames)], f"byte {place}, bit {bit}"
        if error is None:
            unnoticed += 1
            assert members(flipped) == members(data), f"byte {place}, bit {bit}"
    assert unnoticed < len(data) / 50


def _members_onward(data: bytes) -> list[bytes]:
    onward = []
    while data:
        onward.append(data)
        unpacker = zlib.decompressobj(wbits=31)
        unpacker.decompress(data)
        data = unpacker.unused_data
    return onward


@pytest.mark.usefixtures("small_chunks")
def test_what_is_damaged_later_leaves_earlier_snapshots(tmp_path: Path) -> None:
    data = capture_bytes([a_full_frame(n) for n in (5, 6, 7)])
    starts = [len(data) - len(rest) for rest in _members_onward(data)]
    path = tmp_path / "capture"
    for number, (start, end) in enumerate(pairwise(starts)):
        path.write_bytes(data[:start] + bytes(end - start) + data[end:])
        frames, error = try_to_read(path, partial=True)
        assert error is None
        assert len(frames) == number
        assert all(same(frames[i], a_full_frame(5 + i)) for i in range(number))


def test_the_advice_to_read_a_part_is_given_only_where_there_is_one(tmp_path: Path) -> None:
    data = capture_bytes(two_frames())
    second = len(data) - len(_members_onward(data)[1])
    path = tmp_path / "capture"
    for cut, helps in ((30, False), (second, True), (second + 30, True)):
        path.write_bytes(data[:cut])
        _, error = check_any_file(path)
        assert error is not None
        assert ("--partial" in error) == helps, (cut, error)
