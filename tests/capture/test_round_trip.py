# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written is what is read."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.capture import Capture, CaptureWriter, read_frames
from dynstack_probe.capture.lines import CHUNK, COLUMNS
from dynstack_probe.errors import UsageError, WriteError
from dynstack_probe.model.host import KernelFacts
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Stacks
from tests.capture.files import (
    CAPTURED,
    a_counted_frame,
    a_full_frame,
    capture_bytes,
    members,
    same,
    two_frames,
    written,
)
from tests.factory import a_frame, a_host, some_stacks


@pytest.mark.parametrize("count", [0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5])
def test_every_column_and_field(tmp_path: Path, count: int) -> None:
    frame = a_full_frame(count)
    path = written(tmp_path / "capture", [frame])
    (told,) = read_frames(path)
    assert same(told, frame)


def test_the_columns_are_all_that_a_capture_keeps() -> None:
    assert set(COLUMNS) == set(CAPTURED) - {"cgroup_ids"} | {"cgroups"}


def test_no_address_is_written() -> None:
    stacks = some_stacks([100])
    address = str(stacks.addresses[0]).encode()
    assert not any(address in text for text in members(capture_bytes([a_frame(stacks)])))


def test_a_series_with_counters_between(tmp_path: Path) -> None:
    path = written(tmp_path / "capture", two_frames())
    first, second = read_frames(path)
    assert same(first, a_full_frame(7))
    assert same(second, a_counted_frame())
    capture = Capture(path)
    assert list(capture) == list(capture) == [first, second]


def test_cpus_may_come_and_go_within_a_series(tmp_path: Path) -> None:
    frames = [a_frame(some_stacks([100]), a_host(cpus)) for cpus in (2, 4, 3)]
    path = written(tmp_path / "capture", frames)
    assert [frame.host.cpus for frame in read_frames(path)] == [2, 4, 3]


U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
STACK = st.fixed_dictionaries(
    {
        "mark_bytes": st.integers(0, 16384),
        "touched_pages": st.integers(0, 65535),
        "resident_pages": st.integers(0, 65535),
        "depth_bytes": st.integers(0, 16384),
        "kinds": st.integers(0, 3),
        "comms": st.binary(max_size=15).filter(lambda comm: 0 not in comm),
        "tids": U32,
        "tgids": U32,
        "cgroup_ids": U64,
        "switches": U64,
        "start_boot_ns": U64,
        "asleep_seconds": U32,
    }
)
# what os.fsdecode() may give: no half characters but those that stand for a byte
PATHS = st.binary(min_size=1, max_size=40).filter(lambda path: 0 not in path).map(os.fsdecode)
LIFECYCLES = st.builds(
    Lifecycle,
    created=U64,
    reused=U64,
    exited=st.dictionaries(st.tuples(st.integers(1, 16), st.integers(1, 16)), U64, max_size=9),
    skipped=st.lists(U64, max_size=16).map(tuple),
    growth_by_age=st.lists(U64, min_size=6, max_size=6).map(tuple),
    lost=st.dictionaries(st.text("abc_", max_size=5), U64, max_size=4),
    runs=U64,
    run_seconds=st.floats(0, 1e9),
)


@given(
    tasks=st.lists(STACK, max_size=20),
    paths=st.lists(PATHS, max_size=20),
    lifecycle=st.none() | LIFECYCLES,
    command_line=PATHS,
    taken_at=st.floats(0, 1e12),
    boot_ns=U64,
)
def test_whatever_the_values(
    tasks: list[dict[str, int | bytes]],
    paths: list[str],
    lifecycle: Lifecycle | None,
    command_line: str,
    taken_at: float,
    boot_ns: int,
) -> None:
    columns = {name: [task[name] for task in tasks] for name in CAPTURED}
    stacks = Stacks(**columns)  # type: ignore[arg-type]
    ids = dict.fromkeys(stacks.cgroup_ids)
    frame = replace(
        a_frame(stacks),
        cgroup_paths=dict(zip(ids, paths, strict=False)),
        kernel=KernelFacts(command_line),
        taken_at=taken_at,
        boot_ns=boot_ns,
        lifecycle=lifecycle,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        with CaptureWriter(path) as writer:
            writer.add(frame)
        (told,) = read_frames(path)
    rows = zip(stacks.asleep_seconds, stacks.start_boot_ns, strict=True)
    possible = [
        asleep if start + asleep * 10**9 <= max(boot_ns, start) else ASLEEP_UNKNOWN
        for asleep, start in rows
    ]
    assert same(told, replace(frame, stacks=replace(stacks, asleep_seconds=possible)))


def test_the_same_snapshot_gives_the_same_bytes() -> None:
    """No time of writing, no file name: captures can be compared and stored by content."""
    assert capture_bytes(two_frames()) == capture_bytes(two_frames())


def test_it_can_be_read_from_a_pipe(tmp_path: Path) -> None:
    """As `estimate <(ssh host cat capture)` does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = capture_bytes(two_frames())
    sender = threading.Thread(target=pipe.write_bytes, args=(data,))
    sender.start()
    frames = list(read_frames(pipe))
    sender.join()
    assert [len(frame.stacks) for frame in frames] == [7, 9]


def test_the_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    with CaptureWriter(path) as writer:
        writer.add(a_full_frame(5))
        assert not path.exists()
        frames = list(read_frames(writer.part, partial=True))
        assert [len(frame.stacks) for frame in frames] == [5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["capture"]


def test_a_failure_keeps_the_part_if_it_holds_a_snapshot(tmp_path: Path) -> None:
    for frames in (0, 1):
        writer = CaptureWriter(tmp_path / "capture")
        for _ in range(frames):
            writer.add(a_full_frame(5))
        with pytest.raises(KeyError), writer:
            raise KeyError
        left = [entry.name for entry in tmp_path.iterdir()]
        assert len(left) == frames
        assert all(name.startswith("capture.") and name.endswith(".part") for name in left)


def test_an_existing_file_is_not_replaced_without_force(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists: the capture is in"):
        written(path, two_frames(), force=False)
    assert path.read_text() == "mine"
    (part,) = set(tmp_path.iterdir()) - {path}
    assert len(list(read_frames(part))) == 2
    written(path, two_frames())
    assert len(list(read_frames(path))) == 2


def test_the_umask_decides_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = written(tmp_path / "capture", two_frames())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't write .*nowhere/capture: No such file"):
        CaptureWriter(tmp_path / "nowhere/capture")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    writer = CaptureWriter(tmp_path / "capture")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"can't write .*part: No space left"), writer:
        writer.add(a_full_frame(5))
    assert list(tmp_path.iterdir()) == []
