# SPDX-License-Identifier: GPL-2.0-or-later
"""stress-ng's classes: each of their stressors that runs here, one second after the other."""

from __future__ import annotations

from tests.results.place import Place, load

MIB = 2048


def _class(place: Place, name: str) -> None:
    # The same class again if it should end before the recording does. No file larger than
    # the file system: one stressor was seen to fill the host's own for a second.
    place.shell(
        f"ulimit -f {MIB << 11}; "  # in blocks of 512 bytes
        'while :; do stress-ng --class "$1" --sequential 2 --timeout 1 --metrics-brief'
        ' --temp-path "$2"; done',
        name,
        place.file_system("ext4", MIB),
    )


def _says(name: str) -> str:
    return f"stress-ng --class {name} --sequential 2, 1 s a stressor, on ext4 over loop"


@load("stress-filesystem", _says("filesystem"), "stress-ng", "e2fsprogs", seconds=54, interval=2)
def stress_filesystem(place: Place) -> None:
    _class(place, "filesystem")


@load("stress-network", _says("network"), "stress-ng", "e2fsprogs", seconds=24, interval=2)
def stress_network(place: Place) -> None:
    _class(place, "network")


@load("stress-scheduler", _says("scheduler"), "stress-ng", "e2fsprogs", seconds=52, interval=2)
def stress_scheduler(place: Place) -> None:
    _class(place, "scheduler")


@load("stress-memory", _says("memory"), "stress-ng", "e2fsprogs", seconds=58, interval=2)
def stress_memory(place: Place) -> None:
    _class(place, "memory")


@load("stress-interrupt", _says("interrupt"), "stress-ng", "e2fsprogs", seconds=32, interval=2)
def stress_interrupt(place: Place) -> None:
    _class(place, "interrupt")
