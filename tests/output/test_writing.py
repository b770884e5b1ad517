# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynstack_probe.errors import UsageError
from dynstack_probe.output.writing import check_writable, write


def test_writes_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check_writable(path, force=False)
    write("text\n", path, force=False)
    assert path.read_text() == "text\n"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(UsageError, match="--force"):
        check_writable(path, force=False)
    with pytest.raises(UsageError, match="--force"):
        write("new", path, force=False)
    assert path.read_text() == "precious"
    check_writable(path, force=True)
    write("new", path, force=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(UnicodeEncodeError):
        write("\udcff", path, force=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["nowhere/out", "."])
def test_where_no_file_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        check_writable(tmp_path / name, force=True)


def test_devices_may_be_written() -> None:
    check_writable(Path("/dev/null"), force=False)
    write("text", Path("/dev/null"), force=False)
    assert not Path("/dev/null").is_file()


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write("text\n", None, force=False)
    assert capsys.readouterr().out == "text\n"
