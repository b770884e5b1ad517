# SPDX-License-Identifier: GPL-2.0-or-later
"""One scan of the daemon: living stacks by shape, and the counters when it began.

Nothing in it grows with the number of tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dynstack_probe.model.frame import Coverage
from dynstack_probe.model.host import Host
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.stacks import Kind


@dataclass(frozen=True)
class Living:
    """The stacks of one scan. Shapes as in Lifecycle.exited."""

    shapes: Mapping[Kind, Mapping[tuple[int, int], int]]
    skipped: tuple[int, ...]
    growth_by_age: tuple[int, ...]
    reread: int
    uncounted_cgroups: int = 0  # stacks whose cgroup did not fit into the map
    deepest_mark_bytes: int = 0

    def stacks(self) -> int:
        return sum(sum(counts.values()) for counts in self.shapes.values())

    def all_shapes(self) -> dict[tuple[int, int], int]:
        total = Counter[tuple[int, int]]()
        for counts in self.shapes.values():
            total.update(counts)
        return total


@dataclass(frozen=True)
class Sample:
    """One scan of living stacks, and the counters when it began.

    The counters are read first: a task that exits during the scan is missing from one
    sample rather than counted twice. cgroups: stacks by pages held (index 0: one page)
    under a grow-only kernel, for each cgroup id.
    """

    host: Host
    living: Living
    lifecycle: Lifecycle
    coverage: Coverage
    cgroups: Mapping[int, tuple[int, ...]]
    scan_seconds: float
    taken_at: float  # time.time()
    kernel_counters: Mapping[str, int]
    bpf_memory_bytes: int
