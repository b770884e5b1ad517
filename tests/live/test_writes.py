# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command and output when writes fail: one line with path and reason, nothing lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.commands import QUICKLY, SUFFIX, arguments, commands, complaints, outputs, run

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2  # linux/ext4.h
WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """File systems that are full, read-only, over quota, and on a failed disk."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("full", "read-only")}
    for folder in folders.values():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (folders["full"] / "filler").write_bytes(bytes(1 << 20))
        subprocess.run(["mount", "-o", "remount,ro", folders["read-only"]], check=True)
        with (
            over_quota(tmp_path_factory.mktemp("btrfs")) as folder,
            failed(tmp_path_factory.mktemp("ext4")) as broken,
        ):
            yield folders | {"over quota": folder, "failed": broken}
    finally:
        for folder in folders.values():
            subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def made(folder: Path, kind: str, size_bytes: int) -> Iterator[Path]:
    """A file system of that type, loop-mounted from a file."""
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@contextlib.contextmanager
def over_quota(folder: Path) -> Iterator[Path]:
    """A subvolume with an exhausted quota, which binds root too: EDQUOT."""
    with made(folder, "btrfs", 120 << 20) as mount:
        subvolume = mount / "subvolume"
        for words in (
            ("quota", "enable", mount),
            ("subvolume", "create", subvolume),
            ("qgroup", "limit", "16k", subvolume),
        ):
            subprocess.run(["btrfs", "-q", *map(str, words)], check=True)
        yield subvolume


@contextlib.contextmanager
def failed(folder: Path) -> Iterator[Path]:
    """As ext4 once its journal can't be written: each write fails with EIO."""
    with made(folder, "ext4", 16 << 20) as mount:
        descriptor = os.open(mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        yield mount


def one_line(result: subprocess.CompletedProcess[str], code: int, path: str, reason: str) -> None:
    lines = complaints(result.stderr)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dynstack-probe: ")
    assert path in lines[0]
    assert re.search(reason, lines[0]), lines[0]
    assert "unexpected" not in lines[0], "it was left to the last line of defence"
    assert result.returncode == code, result.stderr


def test_every_command_is_run() -> None:
    assert commands() == sorted(QUICKLY), "say in tests/live/commands.py how to run it quickly"
    assert len(list(outputs())) >= 9


@pytest.mark.parametrize(("command", "name", "option"), list(outputs()))
class TestOutputs:
    def test_works(
        self, command: str, name: str, option: str, capture: Path, prometheus: str, tmp_path: Path
    ) -> None:
        """Or the failures below would prove nothing."""
        path = tmp_path / f"out{SUFFIX.get(name, '')}"
        result = run(arguments(command, capture, prometheus, (option, path)))
        assert result.returncode == 0, result.stderr
        assert path.stat().st_size
        assert [*tmp_path.iterdir()] == [path]

    def test_full(
        self,
        command: str,
        name: str,
        option: str,
        capture: Path,
        prometheus: str,
        mounted: dict[str, Path],
    ) -> None:
        path = mounted["full"] / f"out{SUFFIX.get(name, '')}"
        result = run(arguments(command, capture, prometheus, (option, path)))
        one_line(result, 1, str(path), "No space left on device")
        assert [entry.name for entry in mounted["full"].iterdir()] == ["filler"]

    @pytest.mark.parametrize(
        ("where", "reason"),
        [
            ("read-only", "Read-only file system"),
            ("over quota", "Disk quota exceeded"),
            ("failed", "Input/output error"),
        ],
    )
    def test_refused(
        self,
        command: str,
        name: str,
        option: str,
        capture: Path,
        prometheus: str,
        mounted: dict[str, Path],
        where: str,
        reason: str,
    ) -> None:
        path = mounted[where] / f"out{SUFFIX.get(name, '')}"
        result = run(arguments(command, capture, prometheus, (option, path)))
        one_line(result, 1, str(path), reason)

    def test_unreachable_folder(
        self, command: str, name: str, option: str, capture: Path, prometheus: str, tmp_path: Path
    ) -> None:
        """As root without the capability that bypasses permissions."""
        folder = tmp_path / "locked"
        folder.mkdir()
        os.chown(folder, 65534, 65534)
        folder.chmod(0o700)
        path = folder / f"out{SUFFIX.get(name, '')}"
        words = arguments(command, capture, prometheus, (option, path))
        one_line(run(words, prefix=WITHOUT_OVERRIDE), 2, str(path), "ermission")

    def test_no_such_folder(
        self, command: str, name: str, option: str, capture: Path, prometheus: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "nowhere" / f"out{SUFFIX.get(name, '')}"
        result = run(arguments(command, capture, prometheus, (option, path)))
        one_line(result, 2, str(path), "there is no directory")

    def test_name_of_300_letters(
        self, command: str, name: str, option: str, capture: Path, prometheus: str, tmp_path: Path
    ) -> None:
        path = tmp_path / ("x" * 300 + SUFFIX.get(name, ""))
        result = run(arguments(command, capture, prometheus, (option, path)))
        one_line(result, 2, str(path), "File name too long")

    def test_device_that_is_full(
        self, command: str, name: str, option: str, capture: Path, prometheus: str, tmp_path: Path
    ) -> None:
        """/dev/full behind an acceptable name; captures and textfiles must be regular files."""
        path = tmp_path / f"out{SUFFIX.get(name, '')}"
        path.symlink_to("/dev/full")
        result = run(arguments(command, capture, prometheus, (option, path)))
        if "regular file" in result.stderr:
            one_line(result, 2, str(path), "not a regular file")
        else:
            one_line(result, 1, str(path), "No space left on device")
        assert path.is_symlink()


def prints(result: subprocess.CompletedProcess[str]) -> bool:
    return bool(result.stdout)


@pytest.mark.parametrize("command", commands())
def test_standard_output(command: str, capture: Path, prometheus: str, tmp_path: Path) -> None:
    """Full, closed, and a pipe with no reader; for --help too."""
    output = ("", tmp_path / "out") if "FILE" in QUICKLY[command] else None
    words = arguments(command, capture, prometheus, output)
    good = run(words)
    assert good.returncode == 0, good.stderr
    with Path("/dev/full").open("wb") as full:
        for printing in [[command, "--help"], *([words] if prints(good) else [])]:
            result = run(printing, stdout=full.fileno())
            one_line(result, 1, "standard output", "No space left on device")
            result = run(printing, prefix=["sh", "-c", 'exec "$@" >&-', "sh"])
            one_line(result, 1, "standard output", "Bad file descriptor")
            reader, writer = os.pipe()
            os.close(reader)
            result = run(printing, stdout=writer)
            os.close(writer)
            assert complaints(result.stderr) == []
            assert result.returncode == 0


@pytest.mark.parametrize("command", commands())
def test_standard_error(command: str, capture: Path, prometheus: str, tmp_path: Path) -> None:
    """Lost messages change nothing, and none ends up in the output."""
    for number, closed in enumerate(("2>&-", "2>/dev/full")):
        output = ("", tmp_path / f"out{number}") if "FILE" in QUICKLY[command] else None
        words = arguments(command, capture, prometheus, output)
        result = run(words, prefix=["sh", "-c", f'exec "$@" {closed}', "sh"])
        assert result.returncode == 0
        assert result.stderr == ""
        assert "dynstack-probe: " not in result.stdout


def test_a_series_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    """What was recorded until then is kept and readable, and the message says how."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        path = tmp_path / "host.dsp"
        result = run(["record", str(path), "--duration", "30s", "--interval", "0.1s"])
        one_line(result, 1, str(path), "No space left on device; [0-9]+ frames")
        found = re.search(r"\(([0-9]+) bytes\) kept in (\S+):", result.stderr)
        assert found is not None
        (part,) = tmp_path.iterdir()
        assert (part.stat().st_size, str(part)) == (int(found[1]), found[2])
        read = run(["estimate", str(part), "--partial", "--format", "json"])
        assert read.returncode == 0, read.stderr
    finally:
        subprocess.run(["umount", tmp_path], check=True)
