# SPDX-License-Identifier: GPL-2.0-or-later
"""What stacks hold and would hold: the only place where a saving is computed."""

from __future__ import annotations

from dataclasses import dataclass


def saving_ratio(base: float, dynamic: float) -> float:
    """1 - dynamic / base, of sizes in one unit; 0 where there is nothing to save on."""
    return 1 - dynamic / base if base else 0.0


@dataclass(frozen=True)
class Savings:
    """Of some stacks: base_kib at full size (measured), dynamic_kib under a policy (modelled).

    reserve_kib is what the policy keeps aside, 0 for a part of a host; it is never in
    dynamic_kib or saving_ratio, only in the figures named `with_reserve`. mem_total_kib is
    all memory of the hosts that these stacks are of.
    """

    stacks: int = 0
    base_kib: int = 0
    dynamic_kib: int = 0
    reserve_kib: int = 0
    mem_total_kib: int = 0

    def __add__(self, other: Savings) -> Savings:
        return Savings(
            self.stacks + other.stacks,
            self.base_kib + other.base_kib,
            self.dynamic_kib + other.dynamic_kib,
            self.reserve_kib + other.reserve_kib,
            self.mem_total_kib + other.mem_total_kib,
        )

    @property
    def saved_kib(self) -> int:
        """Base - dynamic; negative where the policy needs more."""
        return self.base_kib - self.dynamic_kib

    @property
    def saving_ratio(self) -> float:
        """Of base: the RFC table's column."""
        return saving_ratio(self.base_kib, self.dynamic_kib)

    @property
    def saving_with_reserve_ratio(self) -> float:
        """Of base, once the reserve is paid: negative if it costs more than it saves."""
        return saving_ratio(self.base_kib, self.dynamic_kib + self.reserve_kib)

    @property
    def saving_of_ram_ratio(self) -> float:
        """Of all memory, without the reserve."""
        return self.saved_kib / self.mem_total_kib if self.mem_total_kib else 0.0

    @property
    def saving_with_reserve_of_ram_ratio(self) -> float:
        """Of all memory, once the reserve is paid."""
        paid = self.saved_kib - self.reserve_kib
        return paid / self.mem_total_kib if self.mem_total_kib else 0.0
