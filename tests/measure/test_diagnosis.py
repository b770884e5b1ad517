# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor says that each command would end with."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynstack_probe.kernel.features import Features
from dynstack_probe.measure import diagnosis
from dynstack_probe.model.check import Check, Status


def test_what_stops_estimate_stops_the_commands_that_were_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under lockdown=confidentiality nothing is tried, and nothing would work."""
    monkeypatch.setattr(Features, "lockdown", lambda _: "confidentiality")
    btf = tmp_path / "btf"
    btf.write_bytes(b"not BTF")
    checks = diagnosis.examine(btf)
    assert [c.found for c in checks if c.is_command] == [diagnosis.NOT_TRIED] * len(
        diagnosis.TRIALS
    )
    codes = diagnosis.command_exit_codes(checks)
    assert codes == dict.fromkeys(["estimate", *(name for name, _ in diagnosis.TRIALS)], 3)


@pytest.mark.parametrize("code", [3, 4])
def test_a_command_that_is_refused_leaves_the_others(code: int) -> None:
    checks = [
        Check("bcc", Status.OK, "0.26"),
        Check("serve", Status.MISSING, "refused", exit_code=code, is_command=True),
        Check("faults", Status.NOTE, "works, but: not all", is_command=True),
    ]
    codes = diagnosis.command_exit_codes(checks)
    assert codes == {"estimate": 0, "serve": code, "faults": 0}
