# SPDX-License-Identifier: GPL-2.0-or-later
"""A load leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.results.place import Place


@pytest.mark.live
def test_a_place_ends_also_what_has_detached_itself() -> None:
    with Place("test") as place:
        place.shell("setsid sleep 300 & sleep 300")
        where, cgroup = place.files, place.cgroup
        if cgroup is None:
            pytest.skip("no cgroup v2 is mounted here: what detaches itself is not found")
        end = time.monotonic() + 10
        while len((cgroup / "cgroup.procs").read_text().split()) < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
        pids = [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]

    assert not where.exists()
    assert not cgroup.exists()
    assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    """A zombie, which waits for this machine's PID 1, does not: it has no command line."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.live
def test_file_systems_of_a_place_are_gone_afterwards() -> None:
    with Place("test") as place:
        mounted = place.file_system("ext4", 64)
        place.shell('while :; do date > "$1/file"; done', mounted)
        assert os.path.ismount(mounted)

    assert str(mounted) not in Path("/proc/mounts").read_text()
    assert (
        str(place.files)
        not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    )
