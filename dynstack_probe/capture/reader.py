# SPDX-License-Identifier: GPL-2.0-or-later
"""Read captures. Their contents are untrusted until validated."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from dynstack_probe.capture.gzip_lines import DamagedError, gzip_lines
from dynstack_probe.capture.lines import COLUMNS, FORMAT, MOST_SAMPLES, MOST_STACKS, VERSION
from dynstack_probe.errors import UsageError
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Cost, Coverage, Frame
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.model.host import PAGE_BYTES, Host, KernelFacts
from dynstack_probe.model.interval import PageFaults
from dynstack_probe.model.lifecycle import GROWTH_AGES, Lifecycle
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Stacks

_U64 = (1 << 64) - 1
_EXACT = 1 << 53  # integers that any JSON reader keeps
_T = TypeVar("_T")


class Capture:
    """The frames of a file, which can be walked through several times.

    What can be read only once, such as a pipe, is kept in a temporary file meanwhile.
    Options and errors as of read_frames().
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self._path, self._partial = path, partial
        self._kept: IO[bytes] | None = None

    def __iter__(self) -> Iterator[Frame]:
        return read_frames(self._path, partial=self._partial, file=self._open())

    def _open(self) -> IO[bytes]:
        try:
            if self._path.is_file():
                return self._path.open("rb")
            if self._kept is None:
                self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - as long as we
                with self._path.open("rb") as file:
                    shutil.copyfileobj(file, self._kept)
            self._kept.seek(0)
            return os.fdopen(os.dup(self._kept.fileno()), "rb")
        except OSError as error:
            raise UsageError(f"can't read {self._path}: {error.strerror}") from error


def read_frames(
    path: Path, *, partial: bool = False, file: IO[bytes] | None = None
) -> Iterator[Frame]:
    """Each frame in turn; with `partial` also of a damaged file, up to the damage.

    `file` is read instead, and closed, if it is given. Raises UsageError, one line that
    names file and place, for whatever is wrong.
    """
    try:
        file = file or path.open("rb")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    frames = 0
    with file:
        parser = _Parser()
        try:
            for line in gzip_lines(file):
                if line is not None:
                    parser.take(line)
                else:
                    for frame in parser.member_end():
                        frames += 1
                        yield frame
            parser.end()
        except (DamagedError, _BadLineError, OSError) as error:
            place = f"line {parser.line}: " if isinstance(error, _BadLineError) else ""
            if not partial:
                has_some = frames or parser.has_rows()
                advice = "; --partial reads what came before" if has_some else ""
                raise UsageError(f"{path}: {place}{error}{advice}") from None
            for frame in parser.cut(f"{place}{error}"):
                yield frame


class _BadLineError(Exception):
    """A line is invalid."""


@dataclass
class _Names:
    """Names in one buffer: an object for each would take ten times the space."""

    text: bytearray = field(default_factory=bytearray)
    count: int = 0

    def add(self, names: list[bytes]) -> None:
        """Names can't contain a NUL, as the kernel's don't."""
        self.text += b"".join(name + b"\0" for name in names)
        self.count += len(names)

    def all(self) -> list[bytes]:
        return bytes(self.text).split(b"\0")[:-1]


@dataclass
class _Pending:
    """A snapshot still being read. A cgroup without a path has an empty one."""

    frame: Frame
    stacks: int
    columns: dict[str, array[int]] = field(
        default_factory=lambda: {name: array(code) for name, (code, _) in COLUMNS.items()}
    )
    comms: _Names = field(default_factory=_Names)
    cgroups: array[int] = field(default_factory=lambda: array("Q"))
    cgroup_paths: _Names = field(default_factory=_Names)


class _Parser:
    def __init__(self) -> None:
        self.line = 0
        self._host: Host | None = None
        self._kernel = KernelFacts()
        self._pending: _Pending | None = None
        self._frames = 0
        self._ended = False

    def has_rows(self) -> bool:
        """Whether an unfinished snapshot has some stacks."""
        return self._pending is not None and min(self._lengths()) > 0

    def take(self, raw: bytes) -> None:
        self.line += 1
        if self._ended:
            raise _BadLineError("something follows the end")
        line = _Object(_parse(raw), "line")
        kind = line.text("type")
        if self._host is None:
            self._header(kind, line)
        elif kind == "snapshot":
            self._begin(line)
        elif kind in ("stacks", "names"):
            if self._pending is None:
                raise _BadLineError(f"{kind} outside a snapshot")
            (self._column if kind == "stacks" else self._names)(self._pending, line)
        elif kind == "end":
            if line.integer("snapshots", _EXACT) != self._frames or self._pending:
                raise _BadLineError("it says that it ends, but snapshots are missing")
            self._ended = True
        else:
            raise _BadLineError(f"unknown type {kind[:40]!a}")

    def _header(self, kind: str, line: _Object) -> None:
        if kind != FORMAT:
            raise _BadLineError("not a capture of dynstack-probe")
        version, tool = line.integer("version", _EXACT), line.text("tool")
        if version != VERSION:
            raise _BadLineError(
                f"version {version} of the format, made by {tool[:60]!a}: this"
                f" program reads version {VERSION}, a newer one may read it"
            )
        self._host = _host(line.object("host"))
        self._kernel = _kernel(line.object("kernel"))

    def _begin(self, line: _Object) -> None:
        if self._pending is not None:
            raise _BadLineError("a snapshot begins within another")
        assert self._host is not None
        stacks = line.integer("stacks", MOST_STACKS)
        frame = Frame(
            host=replace(self._host, cpus=line.integer("cpus", 1 << 16, 1)),
            stacks=_no_stacks(),
            coverage=_coverage(line.object("coverage")),
            cost=_cost(line.object("cost")),
            caveats=tuple(_texts(line.array("caveats"), "caveats")),
            grown_kib=line.optional("grown_kib", line.integer),
            kernel=self._kernel,
            taken_at=line.number("taken_at"),
            boot_ns=line.integer("boot_ns"),
            context_switches=line.optional("context_switches", line.integer),
            lifecycle=line.optional("lifecycle", lambda name: _lifecycle(line.object(name))),
            page_faults=line.optional("page_faults", lambda name: _faults(line.object(name))),
            headroom=line.optional("headroom", lambda name: _headroom(line.object(name))),
            calibration=line.optional("calibration", lambda name: _calibration(line.object(name))),
        )
        self._pending = _Pending(frame, stacks)

    def _names(self, pending: _Pending, line: _Object) -> None:
        values = line.array("values")
        of = line.text("of")
        if of == "comms":
            pending.comms.add([_name(name, of) for name in values])
        elif of == "cgroups":
            cgroups = [_cgroup(value) for value in values]
            pending.cgroups.extend(number for number, _ in cgroups)
            pending.cgroup_paths.add([path for _, path in cgroups])
        else:
            raise _BadLineError(f"names of unknown {of[:40]!a}")
        if max(pending.comms.count, pending.cgroup_paths.count) > pending.stacks:
            raise _BadLineError(f"{of}: more names than stacks")

    def _column(self, pending: _Pending, line: _Object) -> None:
        name = line.text("column")
        code, most = COLUMNS.get(name, ("", 0))
        if not code:
            return  # of a later tool: known ones suffice
        if name in ("mark_bytes", "depth_bytes"):
            most = pending.frame.host.thread_size_bytes
        try:
            values = array(code, line.array("values"))
        except (TypeError, OverflowError):
            raise _BadLineError(
                f"{name}: holds a value that is not a whole number in range"
            ) from None
        if values and max(values) > most:
            raise _BadLineError(f"{name}: {max(values)} is more than {most}")
        column = pending.columns[name]
        if len(column) + len(values) > pending.stacks:
            raise _BadLineError(f"{name}: more than the {pending.stacks} stacks announced")
        column.extend(values)

    def _lengths(self) -> list[int]:
        assert self._pending is not None
        return [len(column) for column in self._pending.columns.values()]

    def member_end(self) -> Iterator[Frame]:
        """The current snapshot, which must be complete."""
        if self._pending is None:
            return
        for name, length in zip(COLUMNS, self._lengths(), strict=True):
            if length != self._pending.stacks:
                raise _BadLineError(
                    f"{name} has {length} values, announced were {self._pending.stacks}"
                )
        pending, self._pending = self._pending, None
        self._frames += 1
        yield _finished(pending, pending.stacks)

    def end(self) -> None:
        if not self._ended:
            raise DamagedError("it ends before its last line")

    def cut(self, why: str) -> Iterator[Frame]:
        """What was read of the damaged snapshot."""
        if self._pending is None:
            return
        rows = min(self._lengths())
        if not rows:
            return
        try:
            frame = _finished(self._pending, rows)
        except _BadLineError:
            return  # damaged in what every row needs
        missing = self._pending.stacks - rows
        yield replace(
            frame,
            coverage=replace(frame.coverage, read=rows),
            caveats=(
                *frame.caveats,
                f"The capture is damaged: {missing} of {self._pending.stacks} stacks are lost"
                f" ({why}).",
            ),
        )


def _finished(pending: _Pending, rows: int) -> Frame:
    """The snapshot with its first `rows` stacks."""

    def column(name: str) -> array[int]:
        values = pending.columns[name]
        return values if len(values) == rows else values[:rows]

    def named(name: str, names: Sequence[_T]) -> list[_T]:
        places = column(name)
        if rows and max(places) >= len(names):
            raise _BadLineError(f"{name}: {max(places)} has no name")
        return list(map(names.__getitem__, places))

    numbers = {name: column(name) for name in COLUMNS if name not in ("comms", "cgroups")}
    numbers["asleep_seconds"] = _possible_sleep(
        numbers["asleep_seconds"], numbers["start_boot_ns"], pending.frame.boot_ns
    )
    stacks = Stacks(
        **numbers,
        comms=named("comms", pending.comms.all()),
        cgroup_ids=array("Q", named("cgroups", pending.cgroups)),
    )
    named_cgroups = zip(pending.cgroups, pending.cgroup_paths.all(), strict=True)
    paths = {n: path.decode("utf-8", "surrogateescape") for n, path in named_cgroups if path}
    return replace(pending.frame, stacks=stacks, cgroup_paths=paths)


def _possible_sleep(asleep: array[int], starts: array[int], boot_ns: int) -> array[int]:
    """Unknown where a task claims to have slept for longer than it has existed.

    Earlier tools wrote so where the kernel had forgotten when it last ran.
    """
    pairs = zip(asleep, starts, strict=True)
    return array(
        asleep.typecode,
        [s if s * 10**9 <= max(0, boot_ns - start) else ASLEEP_UNKNOWN for s, start in pairs],
    )


def _no_stacks() -> Stacks:
    names = {name: () for name in COLUMNS if name not in ("cgroups", "comms")}
    return Stacks(**names, comms=(), cgroup_ids=())


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise _BadLineError("is not valid JSON") from None


class _Object:
    """A JSON object with typed access to its fields."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise _BadLineError(f"{name} is not an object")
        self._value = value

    def _get(self, name: str, *kinds: type) -> Any:
        value = self._value.get(name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _BadLineError(f"{name} is missing or of the wrong type")
        return value

    def text(self, name: str) -> str:
        """A string of at most 4096 characters."""
        value: str = self._get(name, str)
        _bytes(value, name)
        return value

    def integer(self, name: str, most: int = _U64, least: int = 0) -> int:
        value: int = self._get(name, int)
        if not least <= value <= most:
            raise _BadLineError(f"{name}: {str(value)[:30]} is not within {least} and {most}")
        return value

    def number(self, name: str) -> float:
        """A finite number, not negative."""
        value: float = self._get(name, int, float)
        if not 0 <= value <= _EXACT:  # nor is NaN
            raise _BadLineError(f"{name} is not a finite number, 0 or more")
        return value

    def flag(self, name: str) -> bool:
        value: bool = self._get(name, bool)
        return value

    def array(self, name: str) -> list[Any]:
        value: list[Any] = self._get(name, list)
        return value

    def counts(self, name: str, most: int) -> tuple[int, ...]:
        """Integers, at most that many."""
        values = self.array(name)
        if len(values) > most or not all(_is_count(value) for value in values):
            raise _BadLineError(f"{name} is not a list of counts")
        return tuple(values)

    def object(self, name: str) -> _Object:
        return _Object(self._value.get(name), name)

    def optional(self, name: str, get: Callable[[str], _T]) -> _T | None:
        """None where it is null or missing."""
        return None if self._value.get(name) is None else get(name)

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(self._value.items())


def _texts(values: list[Any], name: str) -> list[str]:
    for value in values:
        _bytes(value, name)
    return values


def _bytes(value: Any, name: str) -> bytes:
    """The bytes a string stands for (PEP 383)."""
    if not isinstance(value, str):
        raise _BadLineError(f"{name} holds a value that is not text")
    if len(value) > 4096:
        raise _BadLineError(f"{name} is too long")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _BadLineError(f"{name} holds half a character") from None


def _name(value: Any, name: str) -> bytes:
    data = _bytes(value, name)
    if b"\0" in data:
        raise _BadLineError(f"{name} holds a NUL")
    return data


def _cgroup(value: Any) -> tuple[int, bytes]:
    match value:
        case [int(number), None | str() as path] if 0 <= number <= _U64:
            return number, _name(path or "", "cgroups")
    raise _BadLineError("a cgroup is not a pair of number and path")


def _host(line: _Object) -> Host:
    thread_size = line.integer("thread_size_bytes", 1 << 16, PAGE_BYTES)
    if thread_size % PAGE_BYTES:
        raise _BadLineError("thread_size_bytes is not a multiple of a page")
    if line.integer("page_size_bytes") != PAGE_BYTES:
        raise _BadLineError(f"page_size_bytes is not {PAGE_BYTES}")
    return Host(
        cpu_model=line.text("cpu_model"),
        cpus=line.integer("cpus", 1 << 16, 1),
        kernel_release=line.text("kernel_release"),
        thread_size_bytes=thread_size,
        mem_total_kib=line.integer("mem_total_kib", _EXACT, 1),
    )


def _kernel(line: _Object) -> KernelFacts:
    config = dict(line.object("config").items())
    _texts(list(config.values()), "config")
    return KernelFacts(line.text("command_line"), config, line.optional("random_offset", line.flag))


def _coverage(line: _Object) -> Coverage:
    return Coverage(
        read=line.integer("read", _EXACT),
        unreadable=line.integer("unreadable", _EXACT),
        kernel_stacks=line.optional("kernel_stacks", line.integer),
        kernel_stack_kib=line.optional("kernel_stack_kib", line.integer),
        refreshed=line.flag("refreshed"),
        erased=line.integer("erased", _EXACT),
        boot_idle_mark_bytes=line.optional("boot_idle_mark_bytes", line.integer),
    )


def _cost(line: _Object) -> Cost:
    return Cost(
        line.number("child_start_seconds"),
        line.number("compile_seconds"),
        line.number("load_seconds"),
        line.number("scan_seconds"),
        line.integer("child_peak_rss_kib", _EXACT),
    )


def _faults(line: _Object) -> PageFaults:
    return PageFaults(line.integer("user"), line.integer("kernel"))


def _headroom(line: _Object) -> Headroom:
    samples = line.counts("above_min_pages", MOST_SAMPLES)
    if not samples:
        raise _BadLineError("above_min_pages holds no sample")
    return Headroom(
        above_min_pages=samples,
        below_low=line.integer("below_low", MOST_SAMPLES),
        stalls=line.integer("stalls"),
        direct_reclaimed_pages=line.integer("direct_reclaimed_pages"),
        compaction_failures=line.integer("compaction_failures"),
        limit_hits=line.optional("limit_hits", line.integer),
        limit_failures=line.optional("limit_failures", line.integer),
    )


def _calibration(line: _Object) -> Calibration:
    return Calibration(
        fault_ns=line.number("fault_ns"),
        bare_fault_ns=line.number("bare_fault_ns"),
        clear_page_ns=line.number("clear_page_ns"),
        syscall_ns=line.number("syscall_ns"),
        spread_ratio=line.number("spread_ratio"),
        runnable=line.integer("runnable"),
        pinned=line.flag("pinned"),
        cold_fault_ns=line.optional("cold_fault_ns", line.number),
    )


def _lifecycle(line: _Object) -> Lifecycle:
    exited: dict[tuple[int, int], int] = {}
    for row in line.array("exited")[:4096]:
        match row:
            case [int(mark), int(inherited), count] if (
                1 <= mark <= 16 and 1 <= inherited <= 16 and _is_count(count)
            ):
                exited[mark, inherited] = count
            case _:
                raise _BadLineError("exited is not a list of mark, inherited pages, count")
    lost = dict(line.object("lost").items())
    if len(lost) > 64 or not all(_is_count(value) for value in lost.values()):
        raise _BadLineError("lost is not a list of counts")
    return Lifecycle(
        created=line.integer("created"),
        reused=line.integer("reused"),
        exited=exited,
        skipped=line.counts("skipped", 16),
        growth_by_age=line.counts("growth_by_age", len(GROWTH_AGES)),
        lost=lost,
        runs=line.integer("runs"),
        run_seconds=line.number("run_seconds"),
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _U64
