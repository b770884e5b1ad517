# SPDX-License-Identifier: GPL-2.0-or-later
"""Headroom from /proc/zoneinfo: made up ones, and this machine's own."""

from __future__ import annotations

import shutil
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
Node 0, zone    DMA32
  pages free     0
        boost    0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 12940, 12940, 12940)
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
    # of DMA 15,888 pages are kept for others, more than it has
    assert [zone.withheld for zone in zones] == [15888, 0, 0]
    assert above_min_pages(zones) == 0 + 0 + 4400


def test_what_a_lower_zone_keeps_for_others_is_not_free() -> None:
    """By the place of Normal among the zones, here the third of five."""
    text = ZONEINFO.format(free=5000).replace("2948, 15888, 15888, 15888", "200, 300, 400, 400")
    assert above_min_pages(read_zones(text)) == 2800 - 300 + 4400
    # and where it can't be told nothing is taken off
    assert above_min_pages(read_zones(text.replace("protection", "x"))) == 2800 + 4400


def test_samples_and_counts_are_of_the_time_since_the_last(kernel_root: Path) -> None:
    write(kernel_root, 5000, allocstall_normal=10, allocstall_dma=1, pgsteal_direct=70)
    sampler = HeadroomSampler(Root(kernel_root))
    write(kernel_root, 740, allocstall_normal=12, allocstall_dma=2, pgsteal_direct=75)
    assert sampler.sample() == 140
    assert sampler.take() == Headroom((4400, 140), 2, 3, 5, 0)
    assert sampler.take() is None
    write(kernel_root, 900, allocstall_normal=12, allocstall_dma=2, compact_fail=4)
    sampler.sample()
    found = sampler.take()
    assert found == Headroom((300,), 1, 0, 0, 4)
    assert found is not None
    both = Headroom((4400, 140), 2, 3, 5, 0, 7, 1) + found
    assert (both.least_pages, both.median_pages, both.below_low) == (140, 300, 3)
    assert (both.limit_hits, both.limit_failures) == (7, 1)
    assert (found.limit_hits, (both + both).limit_failures) == (None, 2)


def test_who_met_a_limit_is_counted_where_the_zones_say_nothing(kernel_root: Path) -> None:
    write(kernel_root, 5000)
    mount = kernel_root / "sys/fs/cgroup"
    mountinfo = kernel_root / "proc/self/mountinfo"
    mountinfo.write_text("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n")

    def events(name: str, hits: int, failures: int) -> None:
        (mount / name).mkdir(parents=True, exist_ok=True)
        (mount / name / "memory.events").write_text(
            f"low 1\nhigh 2\nmax {hits}\noom {failures}\noom_kill 9\n"
        )

    events("old.slice", 100, 10)
    events("gone.slice", 50, 5)
    sampler = HeadroomSampler(Root(kernel_root))
    events("old.slice", 107, 11)
    events("new.slice", 3, 0)
    shutil.rmtree(mount / "gone.slice")
    found = sampler.take()
    assert found is not None
    assert (found.limit_hits, found.limit_failures) == (10, 1)
    # version 1 has no such sum
    mountinfo.write_text("31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
    sampler.sample()
    found = sampler.take()
    assert found is not None
    assert (found.limit_hits, found.limit_failures) == (None, None)


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
                    total += max(0, values["free"] - values["min"] - values["kept"])
                zone, values = words[-1], {}
            elif words[0] == "protection:":  # of DMA, DMA32, Normal, ...
                values["kept"] = int(words[3].strip("(,)"))
            elif len(words) == 2 and words[0] in ("free", "min", "managed"):
                values[words[0]] = int(words[1])
        return total

    sampler = HeadroomSampler()
    for _ in range(50):
        before, ours, after = independent(), sampler.sample(), independent()
        if before == after:
            break
    assert ours == pytest.approx(before, rel=0.01 if before != after else 0.001)
