# SPDX-License-Identifier: GPL-2.0-or-later
"""Container ids in cgroup paths, in the usual short form."""

from __future__ import annotations

import re

# Where the runtimes put a container: systemd scopes, and plain folders of cgroupfs.
_SCOPE = re.compile(r"/(docker|cri-containerd|crio|libpod)-([0-9a-f]{12})[0-9a-f]{52}\.scope$")
_FOLDER = re.compile(
    r"/(docker|kubepods[^/]*|libpod_parent)(?:/[^/]+)*?/([0-9a-f]{12})[0-9a-f]{52}$"
)
_RUNTIMES = {"cri-containerd": "containerd", "crio": "cri-o", "libpod": "podman"}


def short_name(path: str) -> str:
    """`docker:0123456789ab` for a container's cgroup, else the path itself."""
    scope = _SCOPE.search(path)
    if scope:
        return f"{_RUNTIMES.get(scope[1], scope[1])}:{scope[2]}"
    folder = _FOLDER.search(path)
    if folder:
        runtime = {"libpod_parent": "podman", "docker": "docker"}.get(folder[1], "containerd")
        return f"{runtime}:{folder[2]}"
    return path


def container_of(path: str) -> str | None:
    """`docker:0123456789ab` if the path, or one above it, is a container's cgroup."""
    while path not in ("", "/"):
        name = short_name(path)
        if name != path:
            return name
        path = path.rpartition("/")[0]
    return None
