# SPDX-License-Identifier: GPL-2.0-or-later
"""Cgroup paths, by the kernel's cgroup ids."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dynstack_probe.kernel.features import Root

# Version 1 controllers by which tasks may be grouped: the first mounted one is used.
V1_CONTROLLERS = ("memory", "pids")

# The root of each hierarchy, since Linux 5.5 (kernfs ids start at 1).
ROOT_ID = 1


class Hierarchy(NamedTuple):
    """Where cgroups are looked up: None, ""; a cgroup2 mount, ""; or a v1 mount, controller."""

    mount: Path | None
    controller: str


def hierarchy(root: Root | None = None) -> Hierarchy:
    """cgroup2 if it is in use, else the mount of a version 1 controller.

    In use: it has a group below its root, or nothing else is mounted. Containers are often grouped
    by version 1 alone, beside an unused cgroup2 mount.
    """
    found: dict[str, Path] = {}
    unified: Path | None = None
    for line in ((root or Root()).read("proc/self/mountinfo") or "").splitlines():
        fields, _, rest = line.partition(" - ")
        # proc(5): space, tab, newline and backslash are octal escapes
        mount = Path(fields.split()[4].encode().decode("unicode_escape"))
        kind, _, options = (*rest.split(" ", 2), "", "")[:3]
        if kind == "cgroup2":
            unified = unified or mount
        if kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, mount)
    controller = next((name for name in V1_CONTROLLERS if name in found), "")
    if unified is not None and (not controller or _has_groups(unified)):
        return Hierarchy(unified, "")
    return Hierarchy(found.get(controller), controller)


def _has_groups(mount: Path) -> bool:
    try:
        with os.scandir(mount) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False


def paths_by_id(ids: Iterable[int], mount: Path | None = None) -> dict[int, str]:
    """Paths below the mount, "/" for its root, of those of `ids` that still exist.

    A cgroup's id is its inode number (kernfs, on 64 bits). Raises nothing: a cgroup removed
    meanwhile is left out.
    """
    mount = mount or hierarchy().mount
    wanted = set(ids)
    found: dict[int, str] = {}
    if mount is None:
        return {ROOT_ID: "/"} if ROOT_ID in wanted else found
    pending = [mount]
    while pending and len(found) < len(wanted):
        folder = pending.pop()
        try:
            inode = folder.stat().st_ino
            if inode in wanted:
                found[inode] = "/" + str(folder.relative_to(mount)).removeprefix(".")
            with os.scandir(folder) as entries:
                pending.extend(Path(e.path) for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue
    return found
