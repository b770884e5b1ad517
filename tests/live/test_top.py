# SPDX-License-Identifier: GPL-2.0-or-later
"""`top` in a real terminal: tmux draws it, sends keys, resizes it."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from dynstack_probe.capture import CaptureWriter, read_frames
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.top.view import BLOCKS, Glyphs, History, Moment, Status, View, render
from tests import ROOT
from tests.factory import a_frame, some_stacks
from tests.live.machine import run, sleepers

TOP = f"{shlex.quote(sys.executable)} -m dynstack_probe top"
UTF8 = {"LANG": "en_US.UTF-8", "LC_ALL": "", "LC_CTYPE": "", "TZ": "UTC", "NO_COLOR": ""}

MODES = "#{alternate_on} #{cursor_flag} #{wrap_flag}"


@pytest.fixture(autouse=True)
def everybodys_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Same time zone in expected() as in the terminal."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", UTF8["TZ"])
        time.tzset()
        yield
    time.tzset()


class Terminal:
    """A tmux server of our own with one shell in it."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._command = ["tmux", "-S", str(folder / "socket"), "-f", "/dev/null", "-u"]
        self._folder = folder
        size = ("-x", str(columns), "-y", str(rows))
        self.tmux("new-session", "-d", *size, "-c", str(ROOT), "env PS1='$ ' sh")

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def start(self, command: str, **environment: str) -> None:
        """Run it in the shell, which saves `stty -a` from before and after, and the exit code."""
        before, after, code = (self._folder / name for name in ("before", "after", "code"))
        code.unlink(missing_ok=True)
        settings = shlex.join(f"{k}={v}" for k, v in {**UTF8, **environment}.items())
        script = self._folder / "script"
        script.write_text(
            f"stty -a > {before}\nenv {settings} {command}\ncode=$?\nstty -a > {after}\n"
            f"echo $code > {code}.new; mv {code}.new {code}\n"
        )
        self.tmux("send-keys", f"clear; . {script}", "Enter")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def lines(self) -> list[str]:
        return self.tmux("capture-pane", "-p").split("\n")[:-1]

    def text(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, shown: str | Callable[[str], bool], seconds: float = 15) -> str:
        """What the screen shows once it shows that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.text()
            if shown(text) if callable(shown) else shown in text:
                return text
            time.sleep(0.05)
        raise AssertionError(f"{shown} not on the screen:\n{self.text()}")

    def pid(self) -> int:
        """Of the command that the shell runs."""
        shell = int(self.tmux("list-panes", "-F", "#{pane_pid}"))
        (child,) = psutil.Process(shell).children()
        return child.pid

    def end(self) -> int:
        """Wait for the command's end; its exit code. Terminal settings must be restored."""
        code = self._folder / "code"
        for _ in range(300):
            if code.exists():
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"it did not end:\n{self.text()}")
        before, after = (
            re.sub(r"rows \d+; columns \d+", "", (self._folder / name).read_text())
            for name in ("before", "after")
        )
        assert before == after
        assert self.tmux("display", "-p", MODES) == "0 1 1\n"
        return int(code.read_text())


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path, 80, 24)
    yield made
    made.tmux("kill-server")


def known_frames() -> list[Frame]:
    """Three frames 30 s apart, with tasks going deeper and names of all kinds."""
    frames = []
    for number in range(3):
        stacks = some_stacks(
            [min(16000, 900 * n + 2500 * number) for n in range(1, 13)],
            comms=[b"plain-%d" % n for n in range(1, 9)]
            + [b"\x1b[31mred", "日本語".encode(), b"a\nb", "e\u0301e\u0301".encode()],
            cgroup_ids=[n % 4 for n in range(12)],
            kinds=[Kind(n % 3) for n in range(12)],
            depths=[100 * n for n in range(12)],
        )
        frame = a_frame(stacks, boot_ns=10**12 + number * 30 * 10**9, taken_at=1.7e9)
        paths = {n: f"/group-{n}" for n in range(4)}
        frames.append(replace(frame, cgroup_paths=paths, taken_at=1.7e9 + number * 30))
    return frames


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "known.dsp"
    with CaptureWriter(path) as writer:
        for frame in known_frames():
            writer.add(frame)
    return path


def expected(
    capture: Path,
    number: int,
    view: View | None = None,
    size: tuple[int, int] = (80, 24),
    glyphs: Glyphs = BLOCKS,
) -> list[str]:
    """The expected screen for the frame with that number."""
    history = History(BUILT_IN["rfc-v1"])
    moments: list[Moment] = [history.add(f) for f in read_frames(capture)]
    last = ", the last" if number == len(moments) - 1 else ""
    where = f"frame {number + 1}{last}"
    status = Status(capture.name, where, can_step=True, of_series=True)
    lines = render(view or View(), history, moments[number], size, glyphs, status)
    return [line.plain.rstrip() for line in lines]


def wait_until_shows(terminal: Terminal, wanted: list[str]) -> None:
    wanted_text = "\n".join(wanted).rstrip()
    try:
        terminal.wait_for(lambda text: text.rstrip() == wanted_text, 5)
    except AssertionError:
        assert terminal.text().rstrip() == wanted_text  # pytest shows the difference


def test_replay_shows_what_is_recorded(terminal: Terminal, capture: Path) -> None:
    terminal.start(f"{TOP} --replay {capture}")
    wait_until_shows(terminal, expected(capture, 0))
    terminal.press("s")
    sorted_by = View()
    for sort in ("now", "age", "name", "mark"):
        sorted_by = replace(sorted_by, sort=type(sorted_by.sort)(sort))
        wait_until_shows(terminal, expected(capture, 0, sorted_by))
        terminal.press("s" if sort != "mark" else "r")
    wait_until_shows(terminal, expected(capture, 0, View(reverse=True)))
    terminal.press("r", "c", "c", "c")
    wait_until_shows(terminal, expected(capture, 0, View(group="kind")))
    terminal.press("c", "Right")
    wait_until_shows(terminal, expected(capture, 1))
    terminal.press("Right", "Right", "Right")
    wait_until_shows(terminal, expected(capture, 2))
    terminal.press("Left", "Left")
    wait_until_shows(terminal, expected(capture, 0))

    terminal.type("/PLAIN-")
    wait_until_shows(terminal, expected(capture, 0, View(typing="PLAIN-")))
    terminal.press("Enter", "Down", "Down")
    wait_until_shows(terminal, expected(capture, 0, View(filter_text="PLAIN-", scroll=2)))
    terminal.press("F5", "Escape")
    wait_until_shows(terminal, expected(capture, 0))
    terminal.press("?")
    wait_until_shows(terminal, expected(capture, 0, View(help=True)))
    terminal.press("?")

    for size in ((40, 10), (20, 5), (200, 60), (1, 1), (80, 24)):
        terminal.resize(*size)
        wait_until_shows(terminal, expected(capture, 0, size=size))
    terminal.press("q")
    assert terminal.end() == 0


def test_replay_goes_on_by_itself_and_waits_at_the_end(terminal: Terminal, capture: Path) -> None:
    terminal.start(f"{TOP} --replay {capture} --interval 0.3")
    wait_until_shows(terminal, expected(capture, 2))
    terminal.press("C-c")
    assert terminal.end() == 0

    terminal.start(f"{TOP} --replay {capture} --interval 1")
    terminal.wait_for("frame 1")
    terminal.press("Space")
    paused = expected(capture, 0, View(paused=True))
    wait_until_shows(terminal, paused)
    time.sleep(1.2)
    assert terminal.lines() == paused
    terminal.press("p")
    wait_until_shows(terminal, expected(capture, 1))
    terminal.press("q")
    assert terminal.end() == 0


def test_the_live_host(terminal: Terminal) -> None:
    with sleepers(37, b"top-sleeper") as pid:
        terminal.start(f"{TOP} --interval 0.3")
        text = terminal.wait_for(lambda text: "created" in text and "q quit" in text)
        assert re.search(r"^Saving    \d+\.\d\d% \(rfc-v1\): \d+ KiB would be \d+", text, re.M)
        assert re.search(r"^Trend     .*over", text, re.M)
        assert re.search(r"^Coverage  \d+ stacks of \d+, \d+ missed", text, re.M)
        assert re.search(r"^A second  faults [\d.]+ \(modelled\), created", text, re.M)
        assert len(re.findall(r"^ \d pages? +\d+ +[\d.]+%", text, re.M)) == 4
        assert "by cgroup" in text

        terminal.type("/top-sl")
        text = terminal.wait_for("37 with top-sl")
        rows = [line for line in text.split("\n") if line.endswith("top-sleeper")]
        assert len(rows) >= 5
        tids = {int(line.split()[5]) for line in rows}
        assert tids <= {thread.id for thread in psutil.Process(pid).threads()}
        terminal.press("Enter")
        terminal.press("p")
        paused = terminal.wait_for("PAUSED")
        time.sleep(1)
        assert terminal.text() == paused
        terminal.press("p")
        terminal.wait_for(lambda text: "PAUSED" not in text and text != paused)
        terminal.press("Escape")
        terminal.wait_for("by mark")
        terminal.press("q")
        assert terminal.end() == 0


def test_resized_in_the_middle_of_frames(terminal: Terminal) -> None:
    terminal.start(f"{TOP} --interval 0.1")
    terminal.wait_for("q quit")
    sizes = random.Random(1)
    for _ in range(25):
        terminal.resize(sizes.randint(1, 160), sizes.randint(1, 50))
    terminal.resize(80, 24)
    text = terminal.wait_for(lambda text: text.split("\n")[-1].startswith("q quit  p pause"))
    for section in ("Saving ", "Trend ", "Coverage ", "A second ", " 1 page ", "q quit"):
        assert len(re.findall(f"^{section}", text, re.M)) == 1, text
    terminal.press("q")
    assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_given_back_after_a_signal(
    terminal: Terminal, capture: Path, number: signal.Signals
) -> None:
    terminal.start(f"{TOP} --replay {capture}")
    terminal.wait_for("q quit")
    os.kill(terminal.pid(), number)
    assert terminal.end() == (0 if number == signal.SIGINT else 128 + number)


def test_ctrl_z_and_back(terminal: Terminal, capture: Path) -> None:
    terminal.start(f"{TOP} --replay {capture}")
    wait_until_shows(terminal, expected(capture, 0))
    terminal.press("C-z")
    terminal.wait_for(lambda text: "q quit" not in text)
    assert terminal.tmux("display", "-p", MODES) == "0 1 1\n"
    terminal.press("clear; stty -a | grep -o ' echo '; fg", "Enter")
    wait_until_shows(terminal, expected(capture, 0))
    terminal.press("q")
    terminal.wait_for(" echo")


def test_a_capture_damaged_in_the_middle(terminal: Terminal, capture: Path) -> None:
    """What can be read is shown; the damage is reported at exit, on a restored terminal."""
    raw = capture.read_bytes()
    capture.write_bytes(raw[: len(raw) * 2 // 3])
    terminal.start(f"{TOP} --replay {capture} --interval 0.1")
    terminal.wait_for("frame 1, then damage")
    terminal.press("q")
    assert terminal.end() == 2
    assert "Traceback" not in terminal.text()
    assert "--partial reads what came before" in terminal.text().replace("\n", "")
    terminal.start(f"{TOP} --replay {capture} --interval 0.1 --partial")
    terminal.wait_for("the last")
    terminal.press("q")
    assert terminal.end() == 0


def test_odd_terminals(terminal: Terminal, capture: Path) -> None:
    replay = f"{TOP} --replay {capture}"
    for kind in ("vt100", "vt52", "linux", "xterm-256color", "no-such-terminal"):
        terminal.start(replay, TERM=kind)
        terminal.wait_for("q quit")
        if kind != "vt52":  # its escape sequences are unknown to tmux
            wait_until_shows(terminal, expected(capture, 0))
        terminal.press("q")
        assert terminal.end() == 0
    terminal.start(replay, TERM="dumb")
    terminal.wait_for("TERM=dumb can't show a live view: use --once")
    assert terminal.end() == 2


def test_ascii_and_colours(terminal: Terminal, capture: Path) -> None:
    replay = f"{TOP} --replay {capture}"
    terminal.start(replay, LANG="C")
    assert terminal.wait_for("q quit").isascii()
    assert "\x1b[32m" in terminal.tmux("capture-pane", "-pe")
    terminal.press("q")
    assert terminal.end() == 0
    terminal.start(replay, NO_COLOR="1")
    terminal.wait_for("q quit")
    assert not re.search(r"\x1b\[[\d;]*3[1-7]", terminal.tmux("capture-pane", "-pe"))
    terminal.press("q")
    assert terminal.end() == 0


def test_once() -> None:
    result = run("top", "--once", "--interval", "0.2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 and "\x1b" not in line for line in lines)
    assert "(rfc-v1)" in result.stdout
    assert "created" in result.stdout


def test_once_of_a_capture(capture: Path) -> None:
    result = run("top", "--once", "--replay", str(capture), **UTF8)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1:9] == expected(capture, 2)[1:9]


def test_without_a_terminal() -> None:
    result = run("top")
    assert result.returncode == 2
    assert result.stderr == (
        "dynstack-probe: top needs a terminal for input and output: use --once without one\n"
    )


def test_wrong_uses(capture: Path, tmp_path: Path) -> None:
    for arguments in (
        ("--interval", "0.01"),
        ("--interval", "soon"),
        ("--policy", "nonsense"),
        ("--replay", str(tmp_path / "absent")),
    ):
        result = run("top", "--once", *arguments)
        assert result.returncode == 2, arguments
        assert result.stderr.count("\n") == 1


def test_replay_needs_nothing_that_reads_a_kernel(capture: Path) -> None:
    program = (
        "import sys; from dynstack_probe.cli import main; main();"
        "print([m for m in sys.modules if 'probe.loader' in m or 'stack_scan' in m])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "top", "--once", "--replay", str(capture)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.endswith("[]\n")


def test_sigterm_while_it_watches_the_host(terminal: Terminal) -> None:
    terminal.start(f"{TOP} --interval 0.2")
    terminal.wait_for("created")
    os.kill(terminal.pid(), signal.SIGTERM)
    assert terminal.end() == 128 + signal.SIGTERM
