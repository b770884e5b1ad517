# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory pressure: reclaim in the task that asks for memory, and swap."""

from __future__ import annotations

from pathlib import Path

from tests.results.loads.storage import run_fio
from tests.results.place import Place, SetUpError, load

ZRAM = Path("/sys/class/zram-control")


@load(
    "reclaim",
    "fio as above on xfs over loop over btrfs and stress-ng --vm 2 (300 MiB), in a cgroup of"
    " 192 MiB, swap on zram",
    *("fio", "stress-ng", "xfsprogs", "btrfs-progs", "util-linux"),
)
def reclaim(place: Place) -> None:
    swap_on_zram(place, 512)
    xfs = place.file_system("xfs", 1024, place.file_system("btrfs", 2048))
    place.limit_memory(192)
    run_fio(place, xfs)
    place.start(
        "stress-ng", "--vm", "2", "--vm-bytes", "150m", "--vm-keep", "--temp-path", place.files
    )


def swap_on_zram(place: Place, mib: int) -> None:
    try:
        number = (ZRAM / "hot_add").read_text().strip()
    except OSError as error:
        raise SetUpError(f"no zram: {error.strerror}") from error
    place.undo_by(lambda: (ZRAM / "hot_remove").write_text(number))
    device = Path(f"/dev/zram{number}")
    Path(f"/sys/block/zram{number}/disksize").write_text(f"{mib}M")
    place.undo("sh", "-c", f"echo 1 > /sys/block/zram{number}/reset")
    place.run("mkswap", device)
    place.run("swapon", device)
    place.undo("swapoff", device)
