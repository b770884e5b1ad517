# SPDX-License-Identifier: GPL-2.0-or-later
"""From probe source to open file descriptors, without bcc in this process.

A child process (child.py, under a Python that has the real bcc) compiles, loads and
attaches a probe, hands the descriptors back over a Unix socket and exits: bcc's LLVM
costs 120 MB, and only the child needs capabilities. The kernel frees everything when
the last descriptor is closed, so nothing outlives this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Self

from dynstack_probe.errors import NotPermittedError, ProbeError, UnmeasurableError
from dynstack_probe.kernel import capabilities
from dynstack_probe.kernel.capabilities import explain_refusal, explain_refused_perf_event
from dynstack_probe.kernel.features import IN_LOCKDOWN, Features, check_machine
from dynstack_probe.kernel.host import possible_cpus
from dynstack_probe.loader.refusal import compiler_words, verifier_words

CHILD = Path(__file__).with_name("child.py")
PYTHON_VARIABLE = "DYNSTACK_PROBE_PYTHON"
TIMEOUT_VARIABLE = "DYNSTACK_PROBE_TIMEOUT"
DEFAULT_TIMEOUT_SECONDS = 60.0
INSTALL_BCC = "apt install python3-bpfcc (Fedora: dnf install python3-bcc)"
REPORT = "please report this release to us, with the log that dynstack-probe -v shows"
_MAX_MESSAGE_BYTES = 1 << 16
_MAX_FDS = 64


def probes_dir() -> Path:
    """The folder of BPF sources: in the package when installed, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "probes"
    return inside if inside.is_dir() else package.parent / "probes"


def python_candidates() -> list[str]:
    """Interpreters that may have bcc, likeliest first.

    The system's comes first, whatever environment this tool is installed in:
    distributions package bcc for no other.
    """
    chosen = os.environ.get(PYTHON_VARIABLE)
    if chosen:
        return [chosen]
    found = ["/usr/bin/python3", sys.executable, shutil.which("python3")]
    return list(dict.fromkeys(path for path in found if path and Path(path).exists()))


def timeout_seconds() -> float:
    """How long the child may take; DYNSTACK_PROBE_TIMEOUT for slow machines."""
    try:
        return float(os.environ[TIMEOUT_VARIABLE])
    except (KeyError, ValueError):
        return DEFAULT_TIMEOUT_SECONDS


@dataclass(frozen=True)
class Iterator:
    """A BPF iterator program of a probe: its C function and, for map elements, the map."""

    name: str
    function: str
    map: str | None = None


@dataclass(frozen=True)
class PerfEvent:
    """A perf event on every online CPU, and the C function that it calls.

    type and config as in linux/perf_event.h; called each `period` events, or if that is 0
    `frequency` times a second. An optional one may be refused: it then has no descriptor.
    """

    name: str
    type: int
    config: int
    function: str
    period: int = 0
    frequency: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Bcc:
    """The bcc that a child found."""

    version: str
    path: str
    python: str


class Closing:
    """A context manager that calls close() on exit."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


@dataclass
class LoadedProbe(Closing):
    """Descriptors of a loaded probe, by name.

    `links` keep iterators attached, and bpf.create_iterator() starts a scan of one; `maps` are
    those requested; `tracepoints` and `perf_events`, one per CPU, keep programs attached while they
    are open; `programs` are loaded, and bpf.attach_raw_tracepoint()
    attaches them.

    child_start_seconds, compile_seconds and load_seconds say what the child did;
    child_peak_rss_kib is its VmHWM.
    """

    links: dict[str, int]
    maps: dict[str, int]
    tracepoints: dict[str, int]
    child_start_seconds: float
    compile_seconds: float
    load_seconds: float
    child_peak_rss_kib: int
    native_output: str
    perf_events: dict[str, list[int]] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)

    def detach(self) -> None:
        """Detach the programs from tracepoints and perf events; maps stay readable."""
        for fd in (*self.tracepoints.values(), *chain(*self.perf_events.values())):
            os.close(fd)
        self.tracepoints.clear()
        self.perf_events.clear()

    def close(self) -> None:
        """Close all descriptors; the kernel then frees the programs and maps."""
        self.detach()
        for fds in (self.links, self.maps, self.programs):
            for fd in fds.values():
                os.close(fd)
            fds.clear()


_EPERM = "Operation not permitted"


class _NoBccError(ProbeError):
    """This interpreter has no usable bcc: try the next."""


class Child:
    """One child process. It starts at once; send() tells it later what to load."""

    def __init__(self, python: str) -> None:
        """Start `python` on child.py; ProbeError if that can't be done."""
        self.python = python
        self._source = ""
        self.started = time.monotonic()
        self._deadline = self.started + timeout_seconds()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output: IO[bytes] = os.fdopen(os.memfd_create("bcc-output", os.MFD_CLOEXEC), "w+b")
        command = [python, "-I", str(CHILD), str(theirs.fileno()), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                process_group=0,  # Ctrl-C is ours: we end the child
            )
        except OSError as error:
            self._socket.close()
            self._output.close()
            raise ProbeError(
                f"can't start the BPF loader with {python}: {error.strerror}"
            ) from error
        finally:
            theirs.close()

    def close(self) -> None:
        """Kill the child if it is still running, and reap it."""
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._output.close()

    def wait(self) -> None:
        """Wait for it to exit, so that a scan does not count it; kill it if it lingers."""
        try:
            self._process.wait(max(0.001, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def native_output(self) -> str:
        """What bcc and LLVM printed so far, without control characters."""
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text).strip()

    def failed(self, what: str) -> ProbeError:
        """An error that says what this child did, with its output."""
        return ProbeError(f"the BPF loader ({self.python}) {what}", self.native_output())

    def send(self, job: Mapping[str, Any]) -> None:
        """Tell the child what to load. A dead child is detected in receive()."""
        self._source = Path(str(job.get("source", ""))).name
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.send(json.dumps(job).encode())

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The child's answer and the descriptors that came with it.

        Raises ProbeError if it died, hung or sent a malformed answer; _NoBccError,
        NotPermittedError or UnmeasurableError if the answer says so.
        """
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            try:
                data, fds, flags, _ = self._receive_once()
            except ConnectionResetError:  # it exited without reading its job: an answer
                data, fds, flags, _ = self._receive_once()  # may be queued behind it
        except TimeoutError:
            seconds = self._deadline - self.started
            raise self.failed(
                f"did not answer within {seconds:g} s; set {TIMEOUT_VARIABLE} to wait longer"
            ) from None
        try:
            answer = self._parse(data, flags)
            self._receive_rest(fds, answer.get("fds", 0))
        except (ProbeError, OSError) as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, ProbeError):
                raise
            raise self.failed("stopped in the middle of its answer") from error
        return answer, fds

    def _receive_rest(self, fds: list[int], count: object) -> None:
        """Descriptors that did not fit into the first message."""
        while isinstance(count, int) and len(fds) < count:
            data, more, _, _ = self._receive_once()
            if not data:
                return  # too few: _loaded() notices
            fds += more

    def _receive_once(self) -> tuple[bytes, list[int], int, Any]:
        return socket.recv_fds(self._socket, _MAX_MESSAGE_BYTES, _MAX_FDS)

    def _parse(self, data: bytes, flags: int) -> dict[str, Any]:
        if not data:
            status = self._process.wait()
            how = f"was killed by signal {-status}" if status < 0 else f"exited with code {status}"
            raise self.failed(f"{how} before it had loaded anything")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise self.failed("sent a malformed answer")
        if "error" in answer:
            raise self._error(str(answer["error"]), str(answer.get("message", "")))
        return answer

    def _error(self, kind: str, message: str) -> ProbeError:
        if kind in ("no-bcc", "wrong-bcc"):
            return _NoBccError(f"{self.python}: {message}")
        output = self.native_output()
        # A seccomp filter stops bcc at its first map, which only its output shows.
        if kind == "permission" or ("could not open bpf map" in output and _EPERM in output):
            what, _, _ = message.partition("\n")
            return NotPermittedError(
                f"the kernel refused to load BPF programs ({what}): {explain_refusal()}"
                if not capabilities.missing_for_bpf()
                else capabilities.explain_missing(),
                output,
            )
        if kind == "perf-permission":
            return NotPermittedError(
                f"the kernel refused the perf event for {message}: {explain_refused_perf_event()}",
                output,
            )
        if kind == "unsupported":
            return UnmeasurableError(message)
        if kind == "compile":
            words = compiler_words(output) or message.partition("\n")[0]
            return ProbeError(
                f"{self._source} could not be compiled by the bcc of {self.python}: {words}", output
            )
        return self._refused_by_kernel(kind, message, output)

    def _refused_by_kernel(self, kind: str, message: str, output: str) -> ProbeError:
        release = os.uname().release
        if kind == "attach":
            what = f"can't attach {self._source} to {message}"
            return UnmeasurableError(f"Linux {release} {what}; {REPORT}", output)
        words = verifier_words(output)
        if "bpf_probe_read_kernel" in words and Features().lockdown() in (None, "confidentiality"):
            return UnmeasurableError(IN_LOCKDOWN, output)
        said = f": {words}" if words else ""
        return UnmeasurableError(
            f"Linux {release} refused {message} of {self._source}{said}; {REPORT}", output
        )


_early: Child | None = None


def start_early() -> None:
    """Start the child for the next Loader early; unused, it ends with this process.

    For commands that will need one, to overlap with their imports. Errors are ignored here: the
    Loader runs into them again and reports them.
    """
    global _early
    candidates = python_candidates()
    if candidates and _early is None:
        with contextlib.suppress(ProbeError):
            _early = Child(candidates[0])


def _first_child(python: str) -> Child:
    global _early
    early, _early = _early, None
    return early or Child(python)


class Loader(Closing):
    """Starts a child at once, so that bcc's start-up overlaps with other work."""

    def __init__(self, *, check_capabilities: bool = True) -> None:
        """Start the first candidate.

        Raises UnmeasurableError or NotPermittedError first where loading can't succeed;
        `check_capabilities=False` skips these checks.
        """
        if check_capabilities:
            check_machine(Features())
            if capabilities.missing_for_bpf():
                raise NotPermittedError(capabilities.explain_missing())
        self._candidates = python_candidates()
        self._child = _first_child(self._candidates.pop(0))

    def close(self) -> None:
        self._child.close()

    def load(
        self,
        source: Path,
        macros: Mapping[str, int],
        iterators: Sequence[Iterator],
        *,
        maps: Sequence[str] = (),
        tracepoints: Mapping[str, str] | None = None,
        perf_events: Sequence[PerfEvent] = (),
        programs: Sequence[str] = (),
    ) -> LoadedProbe:
        """Compile and attach `source`; tries each interpreter until one has bcc.

        POSSIBLE_CPUS, the length of maps with one element per CPU, is added to `macros`. `maps` are
        those whose descriptors are wanted; `tracepoints` are raw ones, each with the function to
        attach; `perf_events` are attached on every online CPU; `programs` are functions for raw
        tracepoints, only loaded.

        Raises UnmeasurableError if none has, else what Child.receive() raises.
        """
        job = {
            "source": str(source),
            "stubs": str(probes_dir() / "stubs"),
            "cflags": [
                f"-I{probes_dir()}",
                f"-DPOSSIBLE_CPUS={possible_cpus()}",
                *(f"-D{name}={value}" for name, value in macros.items()),
            ],
            "iterators": [[i.name, i.function, i.map] for i in iterators],
            "maps": list(maps),
            "tracepoints": list((tracepoints or {}).items()),
            "perf_events": [asdict(event) for event in perf_events],
            "programs": list(programs),
        }
        answer, fds = self._ask(job)
        self._child.wait()
        return self._loaded(
            answer,
            fds,
            [[i.name for i in iterators], list(maps), list(tracepoints or {}), list(programs)],
            [event.name for event in perf_events],
        )

    def find_bcc(self) -> Bcc:
        """Which bcc would be used; UnmeasurableError if there is none."""
        answer, _ = self._ask({})
        try:
            found = answer["bcc"]
            return Bcc(str(found["version"]), str(found["path"]), self._child.python)
        except (KeyError, TypeError) as error:
            raise self._child.failed("sent a malformed answer") from error

    def _ask(self, job: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        tried: list[str] = []
        while True:
            self._child.send(job)
            try:
                return self._child.receive()
            except _NoBccError as error:
                tried.append(str(error))
            if not self._candidates:
                raise UnmeasurableError(f"no bcc found ({'; '.join(tried)}): {INSTALL_BCC}")
            self._child.close()
            self._child = Child(self._candidates.pop(0))

    def _loaded(
        self,
        answer: dict[str, Any],
        fds: list[int],
        names: list[list[str]],
        perf_events: Sequence[str] = (),
    ) -> LoadedProbe:
        try:
            cpus = [int(count) for count in answer["cpus"]]
            if len(fds) != sum(map(len, names)) + sum(cpus):
                raise ValueError(fds)
            remaining = iter(fds)
            named = [{name: next(remaining) for name in group} for group in names]
            events = {
                name: list(islice(remaining, count))
                for name, count in zip(perf_events, cpus, strict=True)
            }
            seconds = answer["seconds"]
            return LoadedProbe(
                links=named[0],
                maps=named[1],
                tracepoints=named[2],
                programs=named[3],
                child_start_seconds=float(seconds["ready_at"]) - self._child.started,
                compile_seconds=float(seconds["compile"]),
                load_seconds=float(seconds["load"]),
                child_peak_rss_kib=int(answer["peak_rss_kib"]),
                native_output=self._child.native_output(),
                perf_events=events,
            )
        except (KeyError, TypeError, ValueError) as error:
            for fd in fds:
                os.close(fd)
            raise self._child.failed("sent a malformed answer") from error
