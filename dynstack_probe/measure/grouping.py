"""The name under which each stack of a snapshot is grouped."""

from __future__ import annotations

from collections.abc import Iterable

from dynstack_probe.measure.snapshot import Kind, Snapshot


def group_names(snapshot: Snapshot, by: str) -> Iterable[str | bytes]:
    """One name a stack: its comm as bytes, its cgroup's path, or its kind's label."""
    stacks = snapshot.stacks
    if by == "comm":
        return stacks.comms
    if by == "kind":
        return [Kind(kind).label for kind in stacks.kinds]
    if by == "cgroup":
        paths = snapshot.cgroup_paths
        return [_cgroup(cgroup_id, paths.get(cgroup_id)) for cgroup_id in stacks.cgroup_ids]
    raise ValueError(by)


def _cgroup(cgroup_id: int, path: str | None) -> str:
    if path is not None:
        return path
    return f"cgroup:{cgroup_id}" if cgroup_id else "none (idle tasks)"
