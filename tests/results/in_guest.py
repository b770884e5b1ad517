# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a virtual machine: loads one after the other, and a frame of each.

Only records; guests.py writes it down on the host. Prints one JSON document, by load.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.results import place
from tests.results.counters import used_seconds
from tests.results.loads import __all__ as _declared  # noqa: F401
from tests.results.place import LOADS, Place, SetUpError

# Of emulated CPU time, or so long at most where the host has little to give.
LOAD_CPU_SECONDS, LOAD_TIMEOUT_SECONDS = 30, 300
TOOL_TIMEOUT_SECONDS = 400


def main(names: list[str]) -> None:
    place.DISK = Path("/tmp/disk")  # nothing else is writable but tmpfs
    place.DISK.mkdir()
    for command in (["mkfs.ext4", "-q", "/dev/vda"], ["mount", "/dev/vda", str(place.DISK)]):
        subprocess.run(command, check=True, stdout=sys.stderr)
    print(json.dumps({name: recorded(name) for name in names}), flush=True)


def recorded(name: str) -> dict[str, Any]:
    """Its capture in base64, or why there is none."""
    print(f"guest: {name}", file=sys.stderr, flush=True)
    try:
        with Place(name) as there:
            LOADS[name].start(there)
            assert there.cgroup is not None
            cpu_seconds = work(there.cgroup)
            there.check()
            # Marks stay; else the probe's compilation would get a few % of an emulated CPU.
            (there.cgroup / "cgroup.freeze").write_text("1")
            capture = there.files / "capture.dsp"
            result = subprocess.run(
                [sys.executable, "-m", "dynstack_probe", "record", str(capture)],
                capture_output=True,
                text=True,
                timeout=TOOL_TIMEOUT_SECONDS,
                check=False,
            )
            if result.returncode:
                return {"not_run": f"record: {result.stderr.strip()}"}
            (there.cgroup / "cgroup.freeze").write_text("0")
            data = base64.b64encode(capture.read_bytes()).decode("ascii")
            return {"capture": data, "cpu_seconds": cpu_seconds}
    except (SetUpError, OSError, subprocess.TimeoutExpired) as error:
        return {"not_run": str(error)}


def work(cgroup: Path) -> float:
    """Wait until the load has worked; returns its CPU time. One that sleeps gets 60 s."""
    began = time.monotonic()
    while True:
        time.sleep(2)
        used, waited = used_seconds(cgroup), time.monotonic() - began
        idle = waited > 60 and used < 1
        if idle or used > LOAD_CPU_SECONDS or waited > LOAD_TIMEOUT_SECONDS:
            return used


if __name__ == "__main__":
    main(sys.argv[1:])
