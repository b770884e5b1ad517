# SPDX-License-Identifier: GPL-2.0-or-later
"""The columns in which every command reports what a policy would save."""

from __future__ import annotations

from dataclasses import asdict

from dynstack_probe.model.savings import Savings
from dynstack_probe.model.series import Series
from dynstack_probe.output.columns import Column, as_dict, ratio, ratio_of_ram
from dynstack_probe.text import counted

STACKS = Column[Savings]("stacks", lambda s: s.stacks, "#Stacks")
BASE = Column[Savings]("base_kib", lambda s: s.base_kib, "BASE(kb)")
DYNAMIC = Column[Savings]("dynamic_kib", lambda s: s.dynamic_kib, "Dynamic(kb)", modelled=True)
RESERVE = Column[Savings]("reserve_kib", lambda s: s.reserve_kib, "reserve", modelled=True)
SAVING: Column[Savings] = ratio("saving_ratio", lambda s: s.saving_ratio, "Saving")
NET: Column[Savings] = ratio(
    "saving_with_reserve_ratio", lambda s: s.saving_with_reserve_ratio, "net"
)
OF_RAM: Column[Savings] = ratio_of_ram("saving_of_ram_ratio", lambda s: s.saving_of_ram_ratio)
NET_OF_RAM: Column[Savings] = ratio_of_ram(
    "saving_with_reserve_of_ram_ratio", lambda s: s.saving_with_reserve_of_ram_ratio, "net of RAM"
)

# The RFC table's; the reserve is in none of them.
RFC: tuple[Column[Savings], ...] = (STACKS, BASE, DYNAMIC, SAVING)
# What a policy comes to, beside what is measured.
POLICY: tuple[Column[Savings], ...] = (DYNAMIC, RESERVE, SAVING, NET, OF_RAM, NET_OF_RAM)


NET_WORDS = "Saving: as in the RFC's table, without the reserve; net: with the reserve paid."


def reserve_in_words(savings: Savings, cpus: int, policy: str) -> str:
    """The reserve, and the saving net of it."""
    if not savings.reserve_kib:
        return f"none ({policy})"
    return (
        f"{savings.reserve_kib} KiB for {counted(cpus, 'CPU')} ({policy});"
        f" saving with it {NET.write(savings.saving_with_reserve_ratio)}"
    )


def memory_in_words(savings: Savings) -> str:
    """The saving as a share of all memory."""
    return (
        f"{savings.saved_kib} KiB saved is {OF_RAM.write(savings.saving_of_ram_ratio)} of all"
        f" {memory(savings.mem_total_kib)},"
        f" {OF_RAM.write(savings.saving_with_reserve_of_ram_ratio)} with the reserve"
    )


def memory(kib: int) -> str:
    """MiB, or GiB where those would be long."""
    return f"{kib >> 20} GiB" if kib >> 20 >= 100 else f"{kib >> 10} MiB"


def series_rows(series: Series) -> list[tuple[str, str]]:
    """The median behind the headline, and the range of the series."""
    saving, stacks, newest = series.saving, series.stacks, series.newest
    return [
        (
            "Series",
            f"the figures are those of the frame with the median saving (by time) of"
            f" {series.frames} over {series.seconds:.0f} s: {SAVING.write(saving.median)},"
            f" from {SAVING.write(saving.least)} to {SAVING.write(saving.most)};"
            f" {stacks.least:.0f} to {stacks.most:.0f} stacks, median {stacks.median:.0f}",
        ),
        (
            "Newest",
            f"{newest.stacks} stacks of {newest.base_kib} KiB would hold {newest.dynamic_kib} KiB,"
            f" {SAVING.write(newest.saving_ratio)} less",
        ),
    ]


def series_json(series: Series) -> dict[str, object]:
    return {
        "frames": series.frames,
        "seconds": series.seconds,
        "headline": "median saving by time",
        "saving_ratio": asdict(series.saving),
        "stacks": asdict(series.stacks),
        "newest": as_dict((STACKS, BASE, *POLICY), series.newest),
    }
