# SPDX-License-Identifier: GPL-2.0-or-later
"""Free memory above the minimum watermarks, sampled from /proc/zoneinfo.

Memory that a stack's page may come from: GFP_KERNEL takes from every zone but Movable (and
Device). What lowmem_reserve_ratio withholds of the lower zones is not taken off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dynstack_probe.kernel.features import Features, Root
from dynstack_probe.model.headroom import Headroom

_NEVER = ("Movable", "Device")


@dataclass(frozen=True)
class Zone:
    """A zone's line of /proc/zoneinfo, in pages."""

    node: int
    name: str
    free: int
    min: int
    low: int


def read_zones(text: str) -> list[Zone]:
    """Those that hold memory of which a kernel stack may be made."""
    zones = []
    for part in re.split(r"^Node ", text, flags=re.MULTILINE)[1:]:
        head = re.match(r"(\d+), zone +(\w+)", part)
        found = dict(re.findall(r"^ +(?:pages )?(free|min|low|managed) +(\d+)$", part, re.M))
        if head and head[2] not in _NEVER and int(found.get("managed", 0)):
            free, at_least, low = (int(found[key]) for key in ("free", "min", "low"))
            zones.append(Zone(int(head[1]), head[2], free, at_least, low))
    return zones


def above_min_pages(zones: list[Zone]) -> int:
    """Free pages above the watermarks; a zone below its own takes nothing from the others."""
    return sum(max(0, zone.free - zone.min) for zone in zones)


class HeadroomSampler:
    """Gathers samples until they are taken; starts with one."""

    def __init__(self, root: Root | None = None) -> None:
        self._root = root or Root()
        self._features = Features(self._root)
        self._samples: list[int] = []
        self._below_low = 0
        self._counts = self._read_counts()
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
        """What was sampled since the last time; None if there was nothing."""
        counts, self._counts = self._counts, self._read_counts()
        samples, self._samples = tuple(self._samples), []
        below_low, self._below_low = self._below_low, 0
        if not samples:
            return None
        rise = [max(0, new - old) for old, new in zip(counts, self._counts, strict=True)]
        return Headroom(samples, below_low, *rise)

    def _read_counts(self) -> tuple[int, int, int]:
        counters = self._features.vmstat()
        return (
            sum(count for name, count in counters.items() if name.startswith("allocstall")),
            counters.get("pgsteal_direct", 0),
            counters.get("compact_fail", 0),
        )
