# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one load runs: its cgroup, its files, its processes; all of it is undone at the end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# On disk: what lies in a tmpfs never reaches a file system's write path.
DISK = Path("/var/tmp")
CLIENTS = Path(__file__).parent / "clients"
CGROUP = "dynstack-results"
SET_UP_TIMEOUT_SECONDS = 180
PORT_TIMEOUT_SECONDS = 30
END_TIMEOUT_SECONDS = 20


class SetUpError(Exception):
    """This machine can't run a load; says what failed."""


class Place:
    """Enter it, start a load in it, leave it.

    Processes start in a cgroup of their own where the host mounts cgroup v2 (with or
    without controllers), and are ended through it or by their process groups.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cgroup: Path | None = None
        self._undo = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._v1_groups: list[Path] = []

    def __enter__(self) -> Place:
        with self._undo:  # undone too where the set-up ends half-way
            self.files = Path(tempfile.mkdtemp(prefix=f"dynstack-{self.name}-", dir=DISK))
            self._undo.callback(shutil.rmtree, self.files, ignore_errors=True)
            self.files.chmod(0o755)
            self.log = self.files / "log"
            self.log.touch()
            root = _cgroup2()
            if root is not None:
                self.cgroup = root / CGROUP / self.name
                self.cgroup.mkdir(parents=True, exist_ok=True)
                self._undo.callback(_remove_cgroup, self.cgroup)
            self._undo = self._undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.callback(self._end_processes)  # before what they use is taken away
        self._undo.close()

    def undo(self, *argv: str | Path) -> None:
        """Run this command at the end, whatever it says."""
        self._undo.callback(self._try, [str(word) for word in argv])

    def undo_by(self, action: Callable[[], object]) -> None:
        self._undo.callback(action)

    def run(self, *argv: str | Path) -> str:
        """A command of the set-up. Raises SetUpError where it fails."""
        try:
            result = subprocess.run(
                [str(word) for word in argv],
                capture_output=True,
                text=True,
                timeout=SET_UP_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SetUpError(f"{argv[0]}: {error}") from error
        if result.returncode:
            said = (result.stderr.strip() or result.stdout.strip()).splitlines()
            raise SetUpError(f"{argv[0]}: {said[-1] if said else f'code {result.returncode}'}")
        return result.stdout

    def start(
        self, *argv: str | Path, user: str | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A process of the load, in its cgroup."""
        words = [str(word) for word in argv]
        if user is not None:
            words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words]
        groups = [str(one / "cgroup.procs") for one in self._cgroups()]
        enter = "".join(f'echo $$ > "{group}"; ' for group in groups)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", f'{enter}exec "$@"', "sh", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=cwd or self.files,
            )
        self._processes.append(process)
        return process

    def shell(self, script: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """The same of a shell script; $1 and so on are the arguments."""
        return self.start("sh", "-c", script, "sh", *arguments)

    def wait_for_port(self, port: int) -> None:
        """Until something listens there."""
        end = time.monotonic() + PORT_TIMEOUT_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise SetUpError(f"nothing listens on port {port}: {self.said()}")

    def said(self) -> str:
        """The last line that the load's processes printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def check(self) -> None:
        """Raises SetUpError where a process of the load has failed."""
        for process in self._processes:
            if process.poll() not in (None, 0):
                words = process.args
                assert isinstance(words, list)
                name = Path(str(words[4])).name  # sh -c SCRIPT sh NAME
                raise SetUpError(f"{name} ended with {process.returncode}: {self.said()}")

    def file_system(self, kind: str, mib: int, below: Path | None = None) -> Path:
        """A new file system of that kind on a loop device over a file, mounted; `below`: where
        that file lies."""
        image = (below or self.files) / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(mib << 20)
        force = "-F" if kind == "ext4" else "-f"
        self.run(f"mkfs.{kind}", "-q", force, image)
        where = self.files / f"on-{kind}-{len(list(self.files.glob('on-*')))}"
        where.mkdir()
        self.run("mount", "-o", "loop", image, where)
        self.undo("umount", where)
        return where

    def mounted(self, *argv: str | Path) -> Path:
        """Mount by a command that gets the folder as its last word."""
        where = self.files / f"on-{len(list(self.files.glob('on-*')))}"
        where.mkdir()
        self.run(*argv, where)
        self.undo("umount", where)
        return where

    def setting(self, path: str, value: str) -> None:
        """Of /proc/sys, put back at the end."""
        file = Path(path)
        before = file.read_text()
        file.write_text(value)
        self._undo.callback(file.write_text, before)

    def limit_memory(self, mib: int) -> None:
        """All that is started from now on, to that much memory (without swap)."""
        v1 = Path("/sys/fs/cgroup/memory")
        if self.cgroup is not None and "memory" in _words(self.cgroup / "cgroup.controllers"):
            (self.cgroup / "memory.max").write_text(str(mib << 20))
        elif v1.is_dir():
            group = v1 / f"{CGROUP}-{self.name}"
            group.mkdir(exist_ok=True)
            self._undo.callback(_remove_cgroup, group)
            (group / "memory.limit_in_bytes").write_text(str(mib << 20))
            self._v1_groups.append(group)
        else:
            raise SetUpError("no memory controller")

    def _cgroups(self) -> list[Path]:
        return [*([self.cgroup] if self.cgroup else []), *self._v1_groups]

    def _end_processes(self) -> None:
        """By SIGTERM, then by SIGKILL of all that is left in the cgroup or in their groups."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + 3
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                (self.cgroup / "cgroup.kill").write_text("1")
        for process in self._processes:
            process.wait(END_TIMEOUT_SECONDS)
        self._processes.clear()
        if self.cgroup is not None:
            _wait_until_empty(self.cgroup)

    @staticmethod
    def _try(argv: Sequence[str]) -> None:
        for _ in range(50):  # a file system may be busy for a moment
            if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)


def _cgroup2() -> Path | None:
    found = re.search(r"^\S+ (\S+) cgroup2 ", Path("/proc/mounts").read_text(), re.MULTILINE)
    root = Path(found[1]) if found else None
    if root is not None and "memory" in _words(root / "cgroup.controllers"):
        for group in (root, root / CGROUP):
            group.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text("+memory")
    return root


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _wait_until_empty(group: Path) -> None:
    end = time.monotonic() + END_TIMEOUT_SECONDS
    while time.monotonic() < end and any(_words(p) for p in group.rglob("cgroup.procs")):
        time.sleep(0.05)
    # daemonized processes, on a host without cgroup.kill
    for procs in group.rglob("cgroup.procs"):
        for pid in _words(procs):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _remove_cgroup(group: Path) -> None:
    for _ in range(50):
        with contextlib.suppress(OSError):
            for child in sorted(group.rglob("*/"), reverse=True):
                if child.is_dir():
                    child.rmdir()
            group.rmdir()
            break
        time.sleep(0.1)
    with contextlib.suppress(OSError):
        group.parent.rmdir()


@dataclass(frozen=True)
class Load:
    """What runs, in words for the table, and which Debian packages it needs.

    versions: of these packages the version is stated. recorded_seconds: of the series.
    """

    name: str
    says: str
    packages: tuple[str, ...]
    start: Callable[[Place], None]
    recorded_seconds: int
    interval_seconds: int


LOADS: dict[str, Load] = {}


def load(
    name: str, says: str, *packages: str, seconds: int = 10, interval: int = 2
) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    """Declare a load: the function starts it and returns while it runs."""

    def declare(start: Callable[[Place], None]) -> Callable[[Place], None]:
        LOADS[name] = Load(name, says, packages, start, seconds, interval)
        return start

    return declare
