# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynstack_probe.model.syscalls import NAMES, NONE, syscall_name

# Debian's linux-libc-dev, which the compiler that live tests need brings along.
HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm/unistd_64.h"),
)


def test_the_table_agrees_with_the_kernels_header() -> None:
    header = next((path for path in HEADERS if path.exists()), None)
    if header is None:
        pytest.skip("no asm/unistd_64.h here: apt install linux-libc-dev")
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", header.read_text(), re.MULTILINE)
    assert len(found) > 300
    assert {int(number): NAMES.get(int(number)) for _, number in found} == {
        int(number): name for name, number in found
    }


def test_each_name_is_there_once() -> None:
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize(
    ("number", "ia32", "name"),
    [
        (0, False, "read"),
        (59, False, "execve"),
        (336, False, "uprobe"),
        (424, False, "pidfd_send_signal"),
        (469, False, "file_setattr"),
        (400, False, "syscall_400"),
        (9, True, "ia32:9"),
        (0x40000000 + 59, False, "x32:59"),
        (NONE, False, f"syscall_{NONE}"),
    ],
)
def test_names(number: int, ia32: bool, name: str) -> None:
    assert syscall_name(number, ia32=ia32) == name
