# SPDX-License-Identifier: GPL-2.0-or-later
"""Free memory above the minimum watermarks, sampled from /proc/zoneinfo.

Memory that a stack's page may come from: GFP_KERNEL allocates from every zone but Movable (and
Device), and from lower zones only what lowmem_reserve_ratio does not protect (__zone_watermark_ok()
in mm/page_alloc.c). Pages on per-CPU lists are not counted.

A kernel stack is charged to its task's memory cgroup, and a charge above memory.max reclaims
in that cgroup, however much is free elsewhere. No zone counter shows it (allocstall and
pgsteal_direct count global reclaim only: mm/vmscan.c, cgroup_reclaim()), so it is read from the
cgroups' own memory.events.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dynstack_probe.kernel.cgroups import hierarchy
from dynstack_probe.kernel.features import Features, Root
from dynstack_probe.model.headroom import Headroom

_NEVER = ("Movable", "Device")
# GFP_KERNEL's highest zone: its entry in a zone's `protection` is what that one withholds.
_HIGHEST = "Normal"


@dataclass(frozen=True)
class Zone:
    """A zone's line of /proc/zoneinfo, in pages. withheld: reserved against GFP_KERNEL."""

    node: int
    name: str
    free: int
    min: int
    low: int
    withheld: int = 0


def read_zones(text: str) -> list[Zone]:
    """Zones with memory that kernel stacks may be allocated from."""
    parts = re.split(r"^Node ", text, flags=re.MULTILINE)[1:]
    heads = [re.match(r"(\d+), zone +(\w+)", part) for part in parts]
    names = list(dict.fromkeys(head[2] for head in heads if head))
    zones = []
    for head, part in zip(heads, parts, strict=True):
        found = dict(re.findall(r"^ +(?:pages )?(free|min|low|managed) +(\d+)$", part, re.M))
        if head and head[2] not in _NEVER and int(found.get("managed", 0)):
            free, at_least, low = (int(found[key]) for key in ("free", "min", "low"))
            withheld = _withheld(part, names)
            zones.append(Zone(int(head[1]), head[2], free, at_least, low, withheld))
    return zones


def _withheld(part: str, names: list[str]) -> int:
    """From a zone's `protection`, which has an entry for each possible zone."""
    protection = re.search(r"protection: \(([\d, ]*)\)", part)
    figures = re.findall(r"\d+", protection[1]) if protection else []
    at = names.index(_HIGHEST) if _HIGHEST in names else len(figures)
    return int(figures[at]) if at < len(figures) else 0


def above_min_pages(zones: list[Zone]) -> int:
    """Free pages above the watermarks; a zone below its own subtracts nothing."""
    return sum(max(0, zone.free - zone.min - zone.withheld) for zone in zones)


# Per cgroup: how often it hit memory.max, and how often reclaim did not help.
_Limits = Mapping[str, tuple[int, int]]


def read_limits(root: Root | None = None) -> _Limits | None:
    """From memory.events of the top-level cgroups, which include their descendants.

    None without the version 2 memory controller: version 1 has no hierarchical count.
    """
    mount, controller = hierarchy(root)
    if mount is None or controller:
        return None
    folder = (root or Root()).path / str(mount).lstrip("/")
    found = {}
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return None
    for name in names:
        text = Root(folder).read(f"{name}/memory.events")
        if text is not None:
            counts = dict(re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE))
            found[name] = int(counts.get("max", 0)), int(counts.get("oom", 0))
    return found or None


def _risen(before: _Limits | None, now: _Limits | None) -> tuple[int | None, int | None]:
    """Summed over all cgroups; the counts of a removed one are lost."""
    if now is None:
        return None, None
    was = before or {}
    hits = failures = 0
    for name, (hit, failed) in now.items():
        old_hit, old_failed = was.get(name, (0, 0))
        hits += max(0, hit - old_hit)
        failures += max(0, failed - old_failed)
    return hits, failures


class HeadroomSampler:
    """Collects samples until take(); starts with one.

    limits: whether to count cgroups at their limits too, which reads a file of each top-level one
    at each take().
    """

    def __init__(self, root: Root | None = None, *, limits: bool = True) -> None:
        self._root = root or Root()
        self._counts_limits = limits
        self._features = Features(self._root)
        self._samples: list[int] = []
        self._below_low = 0
        self._counts = self._read_counts()
        self._limits = self._read_limits()
        self.sample()

    def sample(self) -> int | None:
        """Free pages above the minimum watermarks now; None if the kernel does not say."""
        zones = read_zones(self._root.read("proc/zoneinfo") or "")
        if not zones:
            return None
        pages = above_min_pages(zones)
        self._samples.append(pages)
        self._below_low += any(zone.free < zone.low for zone in zones)
        return pages

    def take(self) -> Headroom | None:
        """What was sampled since the last call; None if nothing was."""
        counts, self._counts = self._counts, self._read_counts()
        samples, self._samples = tuple(self._samples), []
        below_low, self._below_low = self._below_low, 0
        limits, self._limits = self._limits, self._read_limits()
        if not samples:
            return None
        stalls, reclaimed, failed = (
            max(0, new - old) for old, new in zip(counts, self._counts, strict=True)
        )
        hits, failures = _risen(limits, self._limits)
        return Headroom(samples, below_low, stalls, reclaimed, failed, hits, failures)

    def _read_limits(self) -> _Limits | None:
        return read_limits(self._root) if self._counts_limits else None

    def _read_counts(self) -> tuple[int, int, int]:
        counters = self._features.vmstat()
        return (
            sum(count for name, count in counters.items() if name.startswith("allocstall")),
            counters.get("pgsteal_direct", 0),
            counters.get("compact_fail", 0),
        )
