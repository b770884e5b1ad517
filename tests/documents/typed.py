# SPDX-License-Identifier: GPL-2.0-or-later
"""What README, the documents and `--help` tell a reader to type, and a place to type it in."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import typer

from dynstack_probe.cli import app
from tests import ROOT
from tests.documents.blocks import DOCUMENTS, blocks
from tests.live.machine import free_port

OURS = re.compile(r"(?m)^ *(sudo )?(\$P|dynstack-probe|\.venv/bin/dynstack-probe) ")
SERIES = ROOT / "tests/output/paper_check.dsp"
GUEST = next((ROOT / "docs/results/guests").glob("6.1.*/*.dsp")).relative_to(ROOT)


class Machine(Protocol):
    """Another root on this machine."""

    @property
    def root(self) -> Path: ...

    def enter(self, folder: str) -> list[str]: ...


INSTANCE = "web1:10016"
POLICY = 'name = "mine"\nmodel = "grow-only"\npreallocated_pages = 2\n'
SECONDS = 600.0  # for what hangs; doctor takes minutes where many others compile
RANGE = re.compile(r"(record|report) ")


@dataclass(frozen=True)
class Line:
    """One line, where `\\` goes on with the next and a loop is one; `where` is the first place."""

    where: str
    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_ours(self) -> bool:
        return OURS.search(self.text) is not None


def _lines(text: str) -> list[str]:
    """A block with an indented line, such as a loop, is one."""
    joined = [line for line in text.replace("\\\n", " ").splitlines() if line]
    return ["\n".join(joined)] if any(line.startswith(" ") for line in joined) else joined


def _of_documents() -> Iterator[Line]:
    for path in DOCUMENTS:
        for block in blocks(path):
            if block.language is None:
                for text in _lines(block.text):
                    yield Line(str(block), text)


def _of_help() -> Iterator[Line]:
    """The examples."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for text in re.findall(r"(?m)^ +(?:sudo )?dynstack-probe .*$", command.help or ""):
            yield Line(f"{name} --help", text.strip())


def lines() -> list[Line]:
    """Each that is typed anywhere, once."""
    found: dict[str, Line] = {}
    for line in [*_of_documents(), *_of_help()]:
        text = re.sub(r" {2,}", " ", line.text)
        found.setdefault(text, Line(line.where, text))
    return list(found.values())


@dataclass
class Desk:
    """A folder to type in, and the installation that is typed at: a command, maybe elsewhere."""

    folder: Path
    command: str
    prometheus: str
    machine: Machine | None = None
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        for name in ("bin", ".venv/bin"):
            (self.folder / name).mkdir(parents=True)
            self._script(f"{name}/dynstack-probe", f'exec {self.command} "$@"')
        self._script("bin/sudo", 'exec "$@"')

    def _script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def adapted(self, text: str) -> str:
        """The line with this machine's names, and seconds for minutes."""
        text = text.replace("docs/results/LOAD.dsp", "docs/results/idle.dsp")
        text = text.replace("docs/results/guests/KERNEL/LOAD.dsp", str(GUEST))
        text = text.replace("/var/lib/node_exporter/", "")
        text = re.sub(r"http://[\w.$-]+:9090", self.prometheus, text)
        text = re.sub(r"(--instance) \S+", rf"\1 {INSTANCE}", text)
        if "--prometheus" in text or "fleet" in text:
            return re.sub(
                r"fleet (?!.*--prometheus)", rf"fleet --prometheus {self.prometheus} ", text
            )
        text = re.sub(r"(--duration|-d) \d+[smh]", r"\1 2s", text)
        text = re.sub(r" --interval \S+", " --interval 1s", text)
        if "--interval" not in text:  # those two need one that is shorter than that
            text = re.sub(r"(?=--duration)", "--interval 1s ", text) if RANGE.search(text) else text
        if "serve" in text:
            return re.sub(r" --listen \S+", "", text) + f" --listen 127.0.0.1:{self.port}"
        if ".dsp" not in text and "2s" not in text:
            text = re.sub(r"(cost|faults)(?= --|;|$)", r"\1 --duration 2s", text)
        return text

    def lay(self, text: str) -> None:
        """The files that the line reads: captures, our results, configurations."""
        for name in re.findall(r"(?<![\w*/])[\w-]+\.dsp", text):
            if f"record {name}" not in text:
                shutil.copy(SERIES, self.folder / name)
        if "docs/results" in text and not (self.folder / "docs").exists():
            shutil.copytree(ROOT / "docs/results", self.folder / "docs/results")
        (self.folder / "web.yml").write_text("{}\n")
        (self.folder / "mine.toml").write_text(POLICY)

    def clear(self) -> None:
        """As before the first line."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()

    def try_out(self, line: Line) -> None:
        """Type it, and fail if it does."""
        text = self.adapted(line.text)
        self.clear()
        self.lay(text)
        if "serve" in text:
            assert "dynstack_stacks_read" in self.serve(text)
        elif " top" in text and "--once" not in text:
            assert self.watch(text) == 0
        else:
            result = self.run(text)
            assert result.returncode == 0, f"{line.where}: {text}: {result.stderr}"
            assert "Traceback" not in result.stderr

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._shell(text),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=self._environment(),
            cwd=self.folder,
        )

    def _shell(self, text: str) -> list[str]:
        where, enter = self.folder, []
        if self.machine:
            where = Path("/") / self.folder.relative_to(self.machine.root)
            enter = self.machine.enter(str(where))
        script = f"cd {where} && PATH={where}/bin:$PATH && P=.venv/bin/dynstack-probe\n{text}"
        return [*enter, "sh", "-c", script]

    def _environment(self) -> dict[str, str]:
        kept = {"LANG": "C.UTF-8", "TERM": "xterm", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return {**kept, "HOME": "/root"}

    def watch(self, text: str) -> int:
        """For `top`: on a terminal, until it has drawn, then q. The exit code."""
        ours, its = pty.openpty()
        with subprocess.Popen(
            self._shell(f"stty rows 24 columns 80; {text}"),
            stdin=its,
            stdout=its,
            stderr=its,
            env=self._environment(),
            start_new_session=True,
        ) as process:
            os.close(its)
            seen = b""
            while b"\x1b[?1049h" not in seen:  # the alternate screen
                seen += os.read(ours, 65536)
            os.write(ours, b"q")
            while _read(ours):
                pass
            code = process.wait(SECONDS)
        os.close(ours)
        return code

    def serve(self, text: str) -> str:
        """For `serve`: until it has answered, then as Ctrl-C does it. The page."""
        with subprocess.Popen(
            self._shell(f"exec {text}"), env=self._environment(), cwd=self.folder
        ) as process:
            try:
                page = self._page(process)
                process.send_signal(signal.SIGINT)
                assert process.wait(SECONDS) == 0
            finally:
                process.kill()
        return page

    def _page(self, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
                    return str(answer.read().decode())
            except urllib.error.URLError:
                time.sleep(0.1)
        raise AssertionError(f"no answer on port {self.port}, exit code {process.poll()}")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: the other side has closed it
        return b""
