# SPDX-License-Identifier: GPL-2.0-or-later
"""How deep the same loads go on Debian's kernels, in emulated machines.

Usage: python -m tests.results.guests [--kernels 6.1,6.12] [--loads fio-nested,iperf3]

Distribution kernels build more in than this host's small one, so their stacks go deeper.
Depths only: an emulated CPU is some 20 times slower, so nothing per second means anything.
Captures go to docs/results/guests/KERNEL/, one boot a load.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.results.captures import FOLDER, WITHOUT_OFFSET, keep_own_names
from tests.results.place import CGROUP
from tests.vm.machine import (
    MODULES,
    GuestError,
    Kernel,
    Offer,
    UnavailableError,
    boot,
    check_host,
    offers,
    unpacked_kernel,
)

LOADS = ("idle", "fio-nested", "fio-overlay", "fio-nfs", "iperf3", "reclaim")
# The first of these is booted once more without the random offset.
KERNELS = ("6.12", "6.1", "newest")
LOAD_MODULES = (
    *("crc32c_generic", "virtio_blk", "loop", "ext4", "xfs", "btrfs", "overlay", "zram"),
    *("veth", "bridge", "nft_ct", "nfsd", "nfsv4"),
)
GUESTS = FOLDER / "guests"
DISK_BYTES = 8 << 30
MEMORY_MIB = 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernels", default=",".join(KERNELS), help="as 6.12, or newest")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--folder", default=str(GUESTS), help="where captures go")
    parser.add_argument("--no-offset", action="store_true", help="randomize_kstack_offset=off")
    arguments = parser.parse_args()
    try:
        check_host()
        for series in arguments.kernels.split(","):
            kernel = unpacked_kernel(offer_of(series), (*MODULES, *LOAD_MODULES))
            for name in arguments.loads.split(","):
                _one(kernel, name, Path(arguments.folder), with_offset=not arguments.no_offset)
    except UnavailableError as error:
        print(f"guests: {error}", file=sys.stderr)
        return 1
    return 0


def offer_of(series: str) -> Offer:
    """Of that series the newest plain kernel, or the newest of all. Raises UnavailableError."""
    plain = [one for one in offers() if one.package == "linux-image-amd64"]
    if series != "newest":
        plain = [one for one in plain if one.series == series]
    if not plain:
        raise UnavailableError(f"no linux-image-amd64 of Linux {series} in Debian's archive")
    return max(plain, key=lambda one: tuple(int(part) for part in one.series.split(".")))


def _one(kernel: Kernel, name: str, root: Path, *, with_offset: bool) -> None:
    """Boot, run the load, leave its capture and note."""
    began = time.monotonic()
    way = "on" if with_offset else "off"
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as disk:
        disk.truncate(DISK_BYTES)  # sparse
        drive = f"file={disk.name},format=raw,if=virtio,cache=unsafe"
        try:
            said = boot(
                kernel,
                "2",
                [name],
                f"randomize_kstack_offset={way}",
                module="tests.results.in_guest",
                devices=("-drive", drive, "-m", str(MEMORY_MIB)),
            )[name]
        except GuestError as error:
            said = {"not_run": str(error).splitlines()[0]}
            print(error, file=sys.stderr)
    release = kernel.release.removesuffix("-amd64")
    folder = root / (release if with_offset else f"{release} {WITHOUT_OFFSET}")
    folder.mkdir(parents=True, exist_ok=True)
    outcome = _keep(said, name, folder)
    seconds = time.monotonic() - began
    print(f"{folder.name}: {name}: {outcome}, {seconds:.0f} s", file=sys.stderr, flush=True)


def _keep(said: dict[str, Any], name: str, folder: Path) -> str:
    note: dict[str, Any] = {"load": name, "taken": datetime.now(UTC).isoformat(timespec="seconds")}
    capture = folder / f"{name}.dsp"
    capture.unlink(missing_ok=True)
    if "not_run" in said:
        note["not_run"] = said["not_run"]
    else:
        note["cpu_seconds"] = said["cpu_seconds"]
        with tempfile.TemporaryDirectory() as temporary:
            raw = Path(temporary) / "raw.dsp"
            raw.write_bytes(base64.b64decode(said["capture"]))
            keep_own_names(raw, capture, f"/{CGROUP}/{name}")
    (folder / f"{name}.json").write_text(json.dumps(note, indent=1) + "\n")
    return str(note.get("not_run") or f"{note['cpu_seconds']:.0f} s of CPU time")


if __name__ == "__main__":
    raise SystemExit(main())
