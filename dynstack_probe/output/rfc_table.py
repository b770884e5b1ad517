# SPDX-License-Identifier: GPL-2.0-or-later
"""The RFC's own table, quoted: five machines, idle and freshly booted.

Source: Pasha Tatashin, "[RFC 00/14] Dynamic Kernel Stacks", 11 March 2024. The saving
there leaves the per-CPU reserve out, as our column of that name does.
"""

from __future__ import annotations

from typing import NamedTuple


class QuotedRow(NamedTuple):
    """One machine of the table; `saving` is as printed there."""

    cpu: str
    cores: int
    stacks: int
    base_kib: int
    dynamic_kib: int
    saving: str


QUOTED = (
    QuotedRow("AMD Genoa", 384, 5786, 92576, 23388, "74.74%"),
    QuotedRow("Intel Skylake", 112, 3182, 50912, 12860, "74.74%"),
    QuotedRow("AMD Rome", 128, 3401, 54416, 14784, "72.83%"),
    QuotedRow("AMD Rome", 256, 4908, 78528, 20876, "73.42%"),
    QuotedRow("Intel Haswell", 72, 2644, 42304, 10624, "74.89%"),
)
