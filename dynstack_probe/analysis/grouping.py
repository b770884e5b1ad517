# SPDX-License-Identifier: GPL-2.0-or-later
"""The name under which each stack of a frame is grouped."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from dynstack_probe.errors import UsageError
from dynstack_probe.model.containers import container_of
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.stacks import IA32_CALL, Kind, Stacks
from dynstack_probe.model.syscalls import syscall_name

_NO_CALL = {
    Kind.USER: "none (fault or interrupt)",
    Kind.USER_WORKER: "none (user worker)",
    Kind.KTHREAD: "none (kernel thread)",
    Kind.IDLE: "none (idle task)",
}


def group_names(frame: Frame, by: str) -> Iterable[str | bytes]:
    """One name a stack: its comm as bytes, cgroup's path, container, kind, or system call.

    Raises UsageError if the frame is one of a capture, which holds no system calls.
    """
    stacks = frame.stacks
    if by == "comm":
        return stacks.comms
    if by == "kind":
        return [Kind(kind).label for kind in stacks.kinds]
    if by in ("cgroup", "container"):
        paths = frame.cgroup_paths
        name = _cgroup if by == "cgroup" else _container
        names = {number: name(number, paths.get(number)) for number in set(stacks.cgroup_ids)}
        return list(map(names.__getitem__, stacks.cgroup_ids))
    if by == "syscall":
        return _syscalls(stacks)
    raise ValueError(by)


def _syscalls(stacks: Stacks) -> Iterable[str]:
    """The call in which each user task sleeps, or waits for a CPU."""
    if len(stacks.syscalls) != len(stacks):
        raise UsageError("--by syscall: captures hold no system calls; ask the live host")
    name = functools.cache(_syscall)
    rows = zip(stacks.syscalls, stacks.kinds, stacks.depth_bytes, strict=True)
    return [name(number, kind, depth == 0) for number, kind, depth in rows]


def _syscall(number: int, kind: int, on_cpu: bool) -> str:
    if number >= 0:
        return syscall_name(number & ~IA32_CALL, ia32=bool(number & IA32_CALL))
    return "running" if on_cpu and kind == Kind.USER else _NO_CALL[Kind(kind)]


def _container(cgroup_id: int, path: str | None) -> str:
    return (path and container_of(path)) or "none"


def _cgroup(cgroup_id: int, path: str | None) -> str:
    if path is not None:
        return path
    return f"cgroup:{cgroup_id}" if cgroup_id else "none (idle tasks)"
