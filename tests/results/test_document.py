# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/results.md says what its captures say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import tests.results.loads  # noqa: F401 - declares them
from dynstack_probe.capture import read_frames
from dynstack_probe.model.stacks import Kind
from tests.results import document, mail, tables
from tests.results.captures import FOLDER, Measured, measured
from tests.results.place import CGROUP, LOADS
from tests.results.tables import Table

DOCS = FOLDER.parent


@pytest.fixture(scope="module")
def loads() -> list[Measured]:
    return measured()


@pytest.mark.parametrize("table", [tables.savings, tables.depths, tables.costs])
def test_a_table_of_the_document_is_what_the_captures_give(
    table: Callable[[Sequence[Measured]], Table], loads: list[Measured]
) -> None:
    assert "\n".join(table(loads).markdown()) in (DOCS / "results.md").read_text()


def test_the_mail_can_be_sent_as_it_is(loads: list[Measured]) -> None:
    text = (DOCS / "results-mail.txt").read_text()

    assert text == mail.text(loads, document.guests(FOLDER))
    assert text.isascii()
    assert max(map(len, text.splitlines())) < 72


def test_each_load_has_a_row_or_is_said_to_have_none(loads: list[Measured]) -> None:
    text = (DOCS / "results.md").read_text()
    have = {one.name for one in loads}

    for name in LOADS:
        assert (f"\n| {name} |" if name in have else f"\n- {name}: ") in text


def test_a_capture_without_a_note_makes_a_row(loads: list[Measured], tmp_path: Path) -> None:
    shutil.copy(loads[0].capture, tmp_path / "sent-in.dsp")

    row = tables.savings(measured(tmp_path)).rows[0]

    assert row[0] == "sent-in"
    assert row[4] == tables.savings(loads).rows[0][4]


def test_captures_name_nothing_but_the_kernel_and_the_load() -> None:
    for path in FOLDER.rglob("*.dsp"):
        for frame in read_frames(path):
            stacks, own = frame.stacks, f"/{CGROUP}/{path.stem}"
            for kind, comm, cgroup in zip(
                stacks.kinds, stacks.comms, stacks.cgroup_ids, strict=True
            ):
                token = comm.startswith((b"comm-", b"iou-wrk-", b"vcpu-"))
                inside = frame.cgroup_paths.get(cgroup, "").startswith(own)
                assert token or inside or kind in (Kind.KTHREAD, Kind.IDLE), (path, comm)
