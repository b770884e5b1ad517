# SPDX-License-Identifier: GPL-2.0-or-later
"""Headroom from /proc/zoneinfo: made up ones, and this machine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynstack_probe.kernel.features import Root
from dynstack_probe.measure.headroom import HeadroomSampler, above_min_pages, read_zones
from dynstack_probe.model.headroom import Headroom

# Cut from Linux 6.12: two nodes, one zone without memory, one that is Movable.
ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 25351
  pages free     2816
        boost    0
        min      16
        low      20
        high     24
        spanned  4095
        present  3997
        managed  3840
        protection: (0, 2948, 15888, 15888, 15888)
      nr_free_pages 2816
  pagesets
    cpu: 0
              count: 5
              high:  14
Node 0, zone   Normal
  pages free     500
        boost    0
        min      600
        low      750
        high     900
        spanned  3342336
        managed  3275012
        protection: (0, 0, 0, 0, 0)
Node 0, zone  Movable
  pages free     100000
        min      32
        low      32
        high     32
        managed  100000
Node 1, zone   Normal
  pages free     {free}
        min      600
        low      750
        high     900
        managed  3275012
Node 1, zone   Device
  pages free     0
        min      0
        low      0
        high     0
        managed  0
"""


def write(root: Path, free: int, **counters: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/zoneinfo").write_text(ZONEINFO.format(free=free))
    lines = [f"{name} {count}" for name, count in counters.items()]
    (root / "proc/vmstat").write_text("\n".join(lines) + "\n")


def test_a_zone_below_its_watermark_takes_nothing_from_the_others() -> None:
    zones = read_zones(ZONEINFO.format(free=5000))
    assert [(zone.node, zone.name) for zone in zones] == [
        (0, "DMA"),
        (0, "Normal"),
        (1, "Normal"),
    ]
    assert above_min_pages(zones) == 2800 + 0 + 4400


def test_samples_and_counts_are_of_the_time_since_the_last(kernel_root: Path) -> None:
    write(kernel_root, 5000, allocstall_normal=10, allocstall_dma=1, pgsteal_direct=70)
    sampler = HeadroomSampler(Root(kernel_root))
    write(kernel_root, 740, allocstall_normal=12, allocstall_dma=2, pgsteal_direct=75)
    assert sampler.sample() == 2800 + 140
    assert sampler.take() == Headroom((7200, 2940), 2, 3, 5, 0)
    assert sampler.take() is None
    write(kernel_root, 900, allocstall_normal=12, allocstall_dma=2, compact_fail=4)
    sampler.sample()
    found = sampler.take()
    assert found == Headroom((3100,), 1, 0, 0, 4)
    assert found is not None
    both = Headroom((7200, 2940), 2, 3, 5, 0) + found
    assert (both.least_pages, both.median_pages, both.below_low) == (2940, 3100, 3)


def test_a_kernel_that_hides_it(kernel_root: Path) -> None:
    sampler = HeadroomSampler(Root(kernel_root))
    assert sampler.sample() is None
    assert sampler.take() is None


def test_this_machine_has_what_an_independent_reading_says() -> None:
    """Word by word, without a regular expression; memory moves, so around it."""

    def independent() -> int:
        total, zone, values = 0, "", dict[str, int]()
        for line in [*Path("/proc/zoneinfo").read_text().splitlines(), "Node"]:
            words = line.replace("pages", "").split()
            if line.startswith("Node"):
                if zone not in ("Movable", "Device") and values.get("managed"):
                    total += max(0, values["free"] - values["min"])
                zone, values = words[-1], {}
            elif len(words) == 2 and words[0] in ("free", "min", "managed"):
                values[words[0]] = int(words[1])
        return total

    sampler = HeadroomSampler()
    for _ in range(50):
        before, ours, after = independent(), sampler.sample(), independent()
        if before == after:
            break
    assert ours == pytest.approx(before, rel=0.01 if before != after else 0.001)
