# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from dynstack_probe.kernel.capabilities import missing_for_bpf

BPF, PERFMON, SYS_ADMIN = 1 << 39, 1 << 38, 1 << 21


@pytest.mark.parametrize(
    ("mask", "missing"),
    [
        (0, ["CAP_BPF", "CAP_PERFMON"]),
        (BPF, ["CAP_PERFMON"]),
        (PERFMON, ["CAP_BPF"]),
        (BPF | PERFMON, []),
        (SYS_ADMIN, []),
    ],
)
def test_missing(mask: int, missing: list[str]) -> None:
    assert missing_for_bpf(mask) == missing
