# SPDX-License-Identifier: GPL-2.0-or-later
"""Write captures: gzip'd lines of JSON, one gzip member a frame."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from dynstack_probe import __version__
from dynstack_probe.capture.lines import CHUNK, COLUMNS, FORMAT, LONGEST_LINE, VERSION
from dynstack_probe.errors import ProbeError, UsageError, WriteError
from dynstack_probe.files import cannot_write, create_beside, put_in_place, reason
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.stacks import Stacks
from dynstack_probe.text import counted

_LEVEL = 6
_NAMES = LONGEST_LINE // (4096 * len("\\u0000")) - 1


class CaptureWriter:
    """Writes FILE.part, which close() renames to FILE: atomic file creation.

    After each frame the part on disk can be read (with --partial), should the machine
    die before the end.
    """

    def __init__(
        self, path: Path, *, force: bool = False, anonymized: bool = False, scratch: bool = False
    ) -> None:
        """Raises UsageError or WriteError if the folder can't be written.

        scratch: nobody will look for the part after a failure.
        """
        self._path, self._force, self._anonymized = path, force, anonymized
        self._tell = not scratch  # what is left after a failure
        self._complete = False
        self._frames = self._good_bytes = 0
        try:
            self._file, self.part = create_beside(path, hidden=False)
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *_: object
    ) -> None:
        if error is not None:
            self._leave(error)
            return
        try:
            self.close()
        except ProbeError as failed:
            self._leave(failed)
            raise

    def _leave(self, error: BaseException) -> None:
        """A FILE.part with a frame is kept, as `error` then says; otherwise it is removed."""
        with contextlib.suppress(OSError):  # a full disk: the end is cut off below
            self._file.close()
        with contextlib.suppress(OSError):
            if self._frames:
                os.truncate(self.part, self._good_bytes)
            else:
                self.part.unlink(missing_ok=True)
        if self._frames and self._tell:
            error.add_note(self._what_is_left())

    def add(self, frame: Frame) -> None:
        lines: list[Mapping[str, Any]] = []
        if not self._frames:
            lines.append(_header(frame, self._anonymized))
        comms, comm_of = _numbered(frame.stacks.comms)
        cgroups, cgroup_of = _numbered(frame.stacks.cgroup_ids)
        lines.append(_frame_line(frame))
        lines += _names("comms", [_text(comm) for comm in comms])
        lines += _names("cgroups", [[n, frame.cgroup_paths.get(n)] for n in cgroups])
        self._member(lines, _columns(frame.stacks, comm_of, cgroup_of))
        self._frames += 1

    def close(self) -> None:
        """Write the end and give the file its final name.

        Raises UsageError if that name is taken, WriteError if the file can't be written.
        """
        self._member([{"type": "end", "snapshots": self._frames}], ())
        try:
            self._file.close()
            self._complete = True
            put_in_place(self.part, self._path, force=self._force)
        except FileExistsError:
            self._tell = False
            raise UsageError(
                f"{self._path} exists: the capture is in {self.part}; or use --force"
            ) from None
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _what_is_left(self) -> str:
        if self._complete:
            return f"the whole capture ({self._good_bytes} bytes) is in {self.part}"
        count = counted(self._frames, "frame")
        return (
            f"{count} ({self._good_bytes} bytes) kept in {self.part}:"
            f" read with `estimate {self.part} --partial`, or remove it"
        )

    def _member(
        self, lines: Iterable[Mapping[str, Any]], columns: Iterable[Mapping[str, Any]]
    ) -> None:
        try:
            with gzip.GzipFile(
                filename="", fileobj=self._file, mode="wb", compresslevel=_LEVEL, mtime=0
            ) as member:
                for line in (*lines, *columns):
                    text = json.dumps(line, separators=(",", ":"), allow_nan=False)
                    member.write(text.encode("ascii") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._good_bytes = self._file.tell()
        except OSError as error:
            raise WriteError(f"can't write {self.part}: {reason(error)}") from error


def _numbered(values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The distinct values, and for each element the index of its value."""
    number: dict[Any, int] = {}
    places = [number.setdefault(value, len(number)) for value in values]
    return list(number), places


def _text(name: bytes) -> str:
    """Any bytes as a JSON string (PEP 383)."""
    return name.decode("utf-8", "surrogateescape")


def _header(frame: Frame, anonymized: bool) -> Mapping[str, Any]:
    return {
        "type": FORMAT,
        "version": VERSION,
        "tool": f"dynstack-probe {__version__}",
        "anonymized": anonymized,
        "host": asdict(frame.host),
        "kernel": asdict(frame.kernel),
    }


def _frame_line(frame: Frame) -> Mapping[str, Any]:
    counted, lifecycle = None, frame.lifecycle
    if lifecycle is not None:
        counted = asdict(lifecycle)
        del counted["exit_reads"]  # the daemon's own matter
        counted["exited"] = [
            [mark, inherited, count] for (mark, inherited), count in lifecycle.exited.items()
        ]
    cost = asdict(frame.cost)
    del cost["native_output"]
    return {
        "type": "snapshot",
        "taken_at": frame.taken_at,
        "boot_ns": frame.boot_ns,
        "stacks": len(frame.stacks),
        "cpus": frame.host.cpus,
        "context_switches": frame.context_switches,
        "grown_kib": frame.grown_kib,
        "coverage": asdict(frame.coverage),
        "cost": cost,
        "caveats": list(frame.caveats),
        "lifecycle": counted,
        "page_faults": frame.page_faults and frame.page_faults._asdict(),
        "headroom": frame.headroom and asdict(frame.headroom),
        "calibration": frame.calibration and asdict(frame.calibration),
    }


def _names(of: str, values: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
    """Lines of names, each well below LONGEST_LINE: a path has at most 4096 bytes."""
    for start in range(0, len(values), _NAMES):
        yield {"type": "names", "of": of, "values": values[start : start + _NAMES]}


def _columns(
    stacks: Stacks, comm_of: Sequence[int], cgroup_of: Sequence[int]
) -> Iterable[Mapping[str, Any]]:
    for start in range(0, len(stacks), CHUNK):
        for name in COLUMNS:
            column = {"comms": comm_of, "cgroups": cgroup_of}.get(name)
            values = getattr(stacks, name) if column is None else column
            yield {"type": "stacks", "column": name, "values": list(values[start : start + CHUNK])}
