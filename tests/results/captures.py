# SPDX-License-Identifier: GPL-2.0-or-later
"""The committed captures, and what the commands say of them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynstack_probe.capture import CaptureWriter, read_frames
from dynstack_probe.capture.anonymize import Anonymizer
from dynstack_probe.cli import app as dynstack_probe
from dynstack_probe.model.stacks import Kind
from tests.results.place import LOADS

FOLDER = Path(__file__).parents[2] / "docs" / "results"
# How run.py makes them; the document says so.
WARM_UP_SECONDS, FAULTS_SECONDS, COUNTED_SECONDS = 2.0, 5, 1.5
SAMPLES_A_SECOND = 1999
# At the end of a guest's folder that was booted with randomize_kstack_offset=off.
WITHOUT_OFFSET = "no-offset"


def keep_own_names(raw: Path, out: Path, own: str) -> set[str]:
    """Rewrite a capture so that it names only the kernel's threads, the idle tasks and what
    ran in the cgroup `own` or below; all other names become tokens.

    Returns the names that stayed.
    """
    anonymizer = Anonymizer()
    kept: set[str] = set()
    with CaptureWriter(out, force=True, anonymized=True) as writer:
        for frame in read_frames(raw):
            own_ids = {
                number
                for number, path in frame.cgroup_paths.items()
                if path == own or path.startswith(f"{own}/")
            }
            hidden = anonymizer.frame(frame)
            stacks = frame.stacks
            stay = [
                kind in (Kind.KTHREAD, Kind.IDLE) or cgroup in own_ids
                for kind, cgroup in zip(stacks.kinds, stacks.cgroup_ids, strict=True)
            ]
            comms = [
                known if staying else token
                for known, token, staying in zip(
                    stacks.comms, hidden.stacks.comms, stay, strict=True
                )
            ]
            kept.update(
                comm.decode(errors="replace")
                for comm, staying in zip(comms, stay, strict=True)
                if staying
            )
            paths = {
                number: path if number in own_ids or path == "/" else hidden.cgroup_paths[number]
                for number, path in frame.cgroup_paths.items()
            }
            writer.add(
                replace(hidden, stacks=replace(hidden.stacks, comms=comms), cgroup_paths=paths)
            )
    return kept


@dataclass(frozen=True)
class Measured:
    """A load of which there is a capture, and its note."""

    name: str
    folder: Path
    note: dict[str, Any]

    @property
    def capture(self) -> Path:
        return self.folder / f"{self.name}.dsp"

    @functools.cached_property
    def estimate(self) -> dict[str, Any]:
        return ask("estimate", self.capture, "--depths", "--by", "cgroup")

    @functools.cached_property
    def policies(self) -> dict[str, Any]:
        return ask("policies", self.capture)

    @functools.cached_property
    def cost(self) -> dict[str, Any]:
        return ask("cost", self.capture)

    @property
    def rfc_v1(self) -> dict[str, float]:
        """What `estimate` says of the headline policy."""
        found: dict[str, float] = self.estimate["policies"][0]
        return found

    @property
    def user_marks(self) -> list[int]:
        """High-water marks of user threads in the first frame, bytes."""
        stacks = next(iter(read_frames(self.capture))).stacks
        return [
            mark
            for mark, kind in zip(stacks.mark_bytes, stacks.kinds, strict=True)
            if kind == Kind.USER
        ]


# Kernel and loads, of guests.
Guests = Sequence[tuple[str, Sequence[Measured]]]


def ask(command: str, capture: Path, *options: str) -> dict[str, Any]:
    """What `dynstack-probe COMMAND CAPTURE ... --format json` prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        dynstack_probe([command, str(capture), *options, "--format", "json"], standalone_mode=False)
    answer: dict[str, Any] = json.loads(output.getvalue())
    return answer


def measured(folder: Path = FOLDER) -> list[Measured]:
    """In the order in which the loads are declared, what nobody declares at the end."""
    order = {name: number for number, name in enumerate(LOADS)}
    found = [Measured(path.stem, folder, note_of(path)) for path in folder.glob("*.dsp")]
    return sorted(found, key=lambda one: (order.get(one.name, len(order)), one.name))


def note_of(capture: Path) -> dict[str, Any]:
    """What stands beside a capture; of one that was sent in, that nothing does."""
    taken = next(iter(read_frames(capture))).taken_at
    note: dict[str, Any] = {
        "says": "sent in",
        "versions": {},
        "taken": datetime.fromtimestamp(taken, UTC).isoformat(timespec="seconds"),
        "load_average": 0.0,
        "beside": {},
        "system_calls_per_second": None,
    }
    with contextlib.suppress(FileNotFoundError):
        note |= json.loads(capture.with_suffix(".json").read_text())
    watch: dict[str, Any] = {
        "host": {"pages": 0},
        "rfc_v1": None,
        "own_calls": {},
        "own_contexts": {},
        "deepest_paths": [],
    }
    return {**note, "faults": watch | note.get("faults", {})}


def not_run(folder: Path = FOLDER) -> Iterator[tuple[str, str]]:
    """Loads that could not run where the captures were made, and why."""
    for path in sorted(folder.glob("*.json")):
        note = json.loads(path.read_text())
        if "not_run" in note:
            yield note["load"], note["not_run"]
