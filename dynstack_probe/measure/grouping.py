"""The name under which each stack of a snapshot is grouped."""

from __future__ import annotations

from collections.abc import Iterable

from dynstack_probe.measure.containers import container_of
from dynstack_probe.measure.snapshot import Kind, Snapshot


def group_names(snapshot: Snapshot, by: str) -> Iterable[str | bytes]:
    """One name a stack: its comm as bytes, its cgroup's path, container, or its kind."""
    stacks = snapshot.stacks
    if by == "comm":
        return stacks.comms
    if by == "kind":
        return [Kind(kind).label for kind in stacks.kinds]
    if by in ("cgroup", "container"):
        paths = snapshot.cgroup_paths
        name = _cgroup if by == "cgroup" else _container
        names = {number: name(number, paths.get(number)) for number in set(stacks.cgroup_ids)}
        return list(map(names.__getitem__, stacks.cgroup_ids))
    raise ValueError(by)


def _container(cgroup_id: int, path: str | None) -> str:
    return (path and container_of(path)) or "none"


def _cgroup(cgroup_id: int, path: str | None) -> str:
    if path is not None:
        return path
    return f"cgroup:{cgroup_id}" if cgroup_id else "none (idle tasks)"
