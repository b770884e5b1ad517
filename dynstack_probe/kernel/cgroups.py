"""Names of cgroups (version 2): from the id that the kernel uses to the path people know."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dynstack_probe.kernel.features import Root


def mount_point(root: Root | None = None) -> Path | None:
    """Where the cgroup2 file system is mounted; None if it is not."""
    for line in ((root or Root()).read("proc/self/mountinfo") or "").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split(" ", 1)[0] == "cgroup2":
            # proc(5): space, tab, newline and backslash are octal
            return Path(fields.split()[4].encode().decode("unicode_escape"))
    return None


def paths_by_id(ids: Iterable[int], mount: Path | None = None) -> dict[int, str]:
    """Paths below the mount, "/" for its root, of those of `ids` that still exist.

    A cgroup's id is its inode number (kernfs, on 64 bits). Raises nothing: a cgroup
    which goes away meanwhile is left out.
    """
    mount = mount or mount_point()
    wanted = set(ids)
    found: dict[int, str] = {}
    if mount is None or not wanted:
        return found
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
