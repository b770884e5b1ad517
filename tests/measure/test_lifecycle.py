# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel import bpf
from dynstack_probe.measure.lifecycle import Sampler, seen_slots


@pytest.mark.parametrize(
    ("mem_total_kib", "slots"),
    [(0, 4096), (512 << 10, 16384), (4 << 20, 1 << 17), (1 << 30, 1 << 17)],
)
def test_seen_slots(mem_total_kib: int, slots: int) -> None:
    assert seen_slots(mem_total_kib) == slots


def test_kernels_before_5_19(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(link_fd: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "create_iterator", refuse)
    sampler = object.__new__(Sampler)
    with pytest.raises(UnmeasurableError, match=r"Linux 5\.19"):
        sampler._scan(3)
