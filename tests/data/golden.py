# SPDX-License-Identifier: GPL-2.0-or-later
"""How the captures beside this file were made.

Usage: python -m tests.data.golden here|6.1|6.12 (as root, under a modest load)

Writes NAME.dsp, in which no name of a user task is left; test_golden.py says what the
figures are, and `python -m tests.data.golden figures` writes those that it compares with.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from dynstack_probe.capture import CaptureWriter, read_frames
from dynstack_probe.measure.stack_scan import take_frame
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.stacks import Kind
from tests.vm.machine import boot, get_kernel

FOLDER = Path(__file__).parent
# deep: walking a file tree, starting programs; stress-ng's sockets and pages go deeper still
LOADS = (
    ["find", "/usr", "-xdev", "-type", "f", "-size", "+1M"],
    ["sh", "-c", "while :; do ls -laR /usr/lib/python3 >/dev/null; done"],
    ["stress-ng", "--quiet", "--timeout", "8", "--sock", "1", "--sock-ops", "2000", "--mmap", "1"],
)


def nameless(frame: Frame) -> Frame:
    """Without what is this machine's own: names of user tasks, cgroups, the command line."""
    stacks = frame.stacks
    kept = (Kind.KTHREAD, Kind.IDLE)
    numbers: dict[bytes, bytes] = {}
    comms = [
        comm if kind in kept else numbers.setdefault(comm, b"task-%d" % len(numbers))
        for comm, kind in zip(stacks.comms, stacks.kinds, strict=True)
    ]
    ids: dict[int, int] = {}
    cgroup_ids = [ids.setdefault(number, len(ids) + 1) for number in stacks.cgroup_ids]
    return replace(
        frame,
        stacks=replace(stacks, comms=comms, cgroup_ids=cgroup_ids),
        cgroup_paths={number: f"/group-{number}" for number in ids.values()},
        kernel=replace(frame.kernel, command_line="quiet"),
    )


def write(name: str, frames: list[Frame]) -> None:
    path = FOLDER / f"{name}.dsp"
    with CaptureWriter(path, force=True, anonymized=True) as writer:
        for frame in frames:
            writer.add(nameless(frame))
    print(f"{path}: {path.stat().st_size} bytes, {[len(s.stacks) for s in frames]} stacks")


def of_this_machine() -> list[Frame]:
    """Two frames, three seconds apart."""
    loads = [subprocess.Popen(load, stdout=subprocess.DEVNULL) for load in LOADS]
    try:
        frames = []
        for _ in range(2):
            time.sleep(3)
            frames.append(take_frame(with_cgroup_paths=True))
        return frames
    finally:
        for load in loads:
            load.kill()
            load.wait()


def of_a_guest(series: str) -> list[Frame]:
    """What tests/vm/guest.py took under a kernel of Debian's."""
    facts = boot(get_kernel(series), "2", ["capture"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(base64.b64decode(facts["capture"]["base64"]))
        return list(read_frames(path))


if __name__ == "__main__":
    which = sys.argv[1]
    if which == "figures":
        from tests.data.test_golden import write_figures

        write_figures()
    else:
        write(f"linux-{which}", of_this_machine() if which == "here" else of_a_guest(which))
