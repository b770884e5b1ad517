# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF of this kernel if it has any, and files that are none."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from dynstack_probe.errors import UnmeasurableError, UsageError
from dynstack_probe.kernel.btf import VMLINUX, Btf
from dynstack_probe.kernel.offsets import preemption_macros, probe_macros
from tests.kernel.btf_file import a_btf_file
from tests.tools import needs

needs_btf = pytest.mark.skipif(not VMLINUX.exists(), reason=f"this kernel has no {VMLINUX}")


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own, named by --btf, is his mistake; the kernel's own says what it lacks."""
    with pytest.raises(UsageError, match=r"--btf: can't read .*none: No such file"):
        Btf(tmp_path / "none")
    monkeypatch.setattr("dynstack_probe.kernel.btf.VMLINUX", tmp_path / "none")
    with pytest.raises(UnmeasurableError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"rubbish" * 99, b"\x9f\xeb\x01\x00" + b"\xff" * 200])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "btf"
    path.write_bytes(content)
    with pytest.raises(UnmeasurableError, match="is not valid BTF"):
        Btf(path)


@needs_btf
def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "btf"
    path.write_bytes(VMLINUX.read_bytes()[:100_000])
    with pytest.raises(UnmeasurableError, match="is not valid BTF"):
        Btf(path)


@needs_btf
def test_all_offsets_within_50_ms() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with Btf() as btf:
            probe_macros(btf)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.05


def test_nested_and_anonymous_fields(tmp_path: Path) -> None:
    """A field of a struct within a struct, and of one without a name."""
    path = tmp_path / "btf"
    path.write_bytes(
        a_btf_file(
            {
                "thread_struct": {"x": 0, "sp": 8},
                "task_struct": {"stack": 0, "thread": ("thread_struct", 16), "": ("hidden", 64)},
                "hidden": {"pid": 4},
            }
        )
    )
    with Btf(path) as btf:
        nested, anonymous = btf.find("task_struct.thread.sp"), btf.find("task_struct.pid")
        assert nested is not None
        assert anonymous is not None
        assert (nested.offset_bytes, anonymous.offset_bytes) == (24, 68)
        assert btf.find("task_struct.none") is None
        assert btf.find("none.pid") is None


@needs_btf
@needs("bpftool", "bpftool")
def test_per_cpu_variables_lie_where_bpftool_says() -> None:
    listed = subprocess.run(
        ["bpftool", "btf", "dump", "file", str(VMLINUX)], capture_output=True, text=True, check=True
    ).stdout
    section = listed[listed.index("DATASEC '.data..percpu'") :]
    found = {
        name: int(offset)
        for offset, name in re.findall(r"offset=(\d+) size=\d+ \(VAR '(\w+)'\)", section)
    }
    with Btf() as btf:
        for name in ("runqueues", "__preempt_count", "pcpu_hot", "nothing_of_that_name"):
            assert btf.per_cpu_offset(name) == found.get(name)
        assert preemption_macros(btf)
