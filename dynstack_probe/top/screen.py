# SPDX-License-Identifier: GPL-2.0-or-later
"""A full-screen terminal: draws lines, reads keys, and restores its state on exit.

Control sequences come from terminfo. A terminal that it does not know is assumed to speak
ECMA-48, as all do that are newer than a host's terminfo.
"""

from __future__ import annotations

import contextlib
import curses
import io
import os
import re
import select
import signal
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from dynstack_probe.errors import UsageError
from dynstack_probe.output.tables import buffered
from dynstack_probe.top.keys import KeyDecoder

DEFAULT_SIZE = (80, 24)
LONGEST_LINE = 1000
ESCAPE_SECONDS = 0.05  # within which the rest of an escape sequence follows

# terminfo's names, and ECMA-48 with xterm's alternate screen
_STRINGS = {
    "smcup": "\x1b[?1049h",
    "rmcup": "\x1b[?1049l",
    "civis": "\x1b[?25l",
    "cnorm": "\x1b[?25h",
    "rmam": "\x1b[?7l",  # no wrapping: where a terminal finds a name wider than we did
    "smam": "\x1b[?7h",
    "clear": "\x1b[H\x1b[2J",
    "el": "\x1b[K",
}
_DELAY = re.compile(rb"\$<[^>]*>")  # terminfo's padding, for terminals of the 1970s

_QUIT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HANDLED = (*_QUIT, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


def speaks_utf8(encoding: str | None, environment: Mapping[str, str]) -> bool:
    """Whether block characters can be shown.

    Python writes UTF-8 in the C locale too, and may have set LC_CTYPE for that (PEP 538,
    540): what the user chose is asked, not what it writes.
    """
    if (encoding or "").lower().replace("-", "") != "utf8":
        return False
    chosen = environment.get("LC_ALL")
    if not chosen:
        chosen = environment.get("LC_CTYPE", "")
        if chosen in ("", "C.UTF-8", "C.utf8", "UTF-8"):
            chosen = environment.get("LANG", "")
    return chosen not in ("", "C", "POSIX")


class Terminal:
    """What this kind of terminal understands. Raises UsageError if no line can be redrawn.

    strings: control sequences by terminfo's names; empty are those that it has not.
    """

    def __init__(self, kind: str, fd: int) -> None:
        """`kind` is TERM."""
        self.colours = 8
        self.strings = {name: text.encode() for name, text in _STRINGS.items()}
        self._cup: bytes | None = None
        try:
            curses.setupterm(kind or "dumb", fd)
        except curses.error:
            return
        self.colours = max(0, curses.tigetnum("colors"))
        self.strings = {
            name: _DELAY.sub(b"", curses.tigetstr(name) or b"") for name in self.strings
        }
        self._cup = curses.tigetstr("cup")
        if not self._cup or not self.strings["clear"]:
            raise UsageError(
                f"TERM={kind or 'dumb'} can't show a live view: use --once, or set TERM"
            )

    def move(self, row: int) -> bytes:
        """The cursor to the start of a row, 0 for the first."""
        if self._cup is None:
            return b"\x1b[%d;1H" % (row + 1)
        return _DELAY.sub(b"", curses.tparm(self._cup, row, 0))

    @property
    def color_system(self) -> str | None:
        """What rich calls it; None: not even bold."""
        if self.colours < 8:
            return None
        if os.environ.get("COLORTERM") in ("truecolor", "24bit"):
            return "truecolor"
        return "256" if self.colours >= 256 else "standard"


def encode(console: Console, line: Text) -> str:
    """One line with its control sequences, without a line feed."""
    buffer = console.file
    assert isinstance(buffer, io.StringIO)
    buffer.seek(0)
    buffer.truncate()
    console.print(line, end="", soft_wrap=True)
    return buffer.getvalue()


class Screen:
    """The terminal on standard input and output, for as long as it is entered.

    Meanwhile signals are noted instead of obeyed: `ended_by` is the one that asks to end.
    In the main thread only.
    """

    def __init__(self) -> None:
        """Raises UsageError if there is no terminal, or not one for a live view."""
        self._in, self._out = 0, 1
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise UsageError("top needs a terminal for input and output: use --once without one")
        self._terminal = Terminal(os.environ.get("TERM", ""), self._out)
        self._console = buffered(LONGEST_LINE, self._terminal.color_system)
        self.utf8 = speaks_utf8(sys.stdout.encoding, os.environ)
        self.ended_by: signal.Signals | None = None
        self._decoder = KeyDecoder()
        self._shown: list[str] = []
        self._stale = True
        self._stop_wanted = False
        self._modes: list[Any] = []
        self._old: dict[signal.Signals, Any] = {}
        self._wake_read = self._wake_write = -1

    def __enter__(self) -> Self:
        sys.stdout.flush()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._modes = termios.tcgetattr(self._in)
        self._old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _HANDLED:
            self._old[number] = signal.signal(number, self._note)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in _QUIT:
            self.ended_by = signal.Signals(number)
        elif number == signal.SIGTSTP:
            self._stop_wanted = True
        else:
            self._stale = True

    def _take(self) -> None:
        """Enter cbreak mode, without echo: Ctrl-C and Ctrl-Z still raise signals."""
        modes = [*self._modes[:6], list(self._modes[6])]
        modes[0] &= ~(termios.IXON | termios.ICRNL)
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._in, termios.TCSANOW, modes)
        self._send(b"".join(self._terminal.strings[name] for name in ("smcup", "civis", "rmam")))
        self._stale = True

    def _give_back(self) -> None:
        """Restore modes and screen as far as the terminal allows: it may have hung up."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._in, termios.TCSANOW, self._modes)
        with contextlib.suppress(OSError):
            last_row = self._terminal.move(max(0, terminal_size(self._out)[1] - 1))
            names = ("el", "smam", "cnorm", "rmcup")
            self._send(last_row + b"".join(self._terminal.strings[name] for name in names))

    def _send(self, raw: bytes) -> None:
        while raw:
            raw = raw[os.write(self._out, raw) :]

    def redraw(self) -> None:
        """Resend every line at the next draw()."""
        self._stale = True

    def draw(self, compose: Callable[[tuple[int, int]], Sequence[Text]]) -> None:
        """Show the lines which that makes of columns and rows; those that changed are sent.

        A resize after the size was read makes what is sent now worthless: it is noted
        again, and wait() will return at once.
        """
        stale, self._stale = self._stale, False
        width, height = terminal_size(self._out)
        lines = compose((width, height))
        fresh = [encode(self._console, line) for line in lines[:height]]
        fresh += [""] * (height - len(fresh))
        parts = []
        if stale or len(self._shown) != height:
            parts.append(self._terminal.strings["clear"])
            self._shown = [""] * height
        for row, (text, before) in enumerate(zip(fresh, self._shown, strict=True)):
            if text == before:
                continue
            parts += [self._terminal.move(row), text.encode("utf-8", "backslashreplace")]
            # Behind a full line the cursor still is on its last cell: nothing to erase
            if row >= len(lines) or lines[row].cell_len < width:
                parts.append(self._terminal.strings["el"])
        self._shown = fresh
        if parts:
            self._send(b"".join(parts))

    def wait(self, seconds: float | None, also: int | None = None) -> list[str]:
        """Keys typed within that time; at once when `also` can be read or a signal came."""
        watched = [self._in, self._wake_read, *([also] if also is not None else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        if self._stop_wanted:
            self._stop()
        return self._read_keys() if self._in in ready else []

    def _read_keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            try:
                raw = os.read(self._in, 4096)
            except OSError:
                raw = b""
            if not raw:  # hung up
                self.ended_by = signal.SIGHUP
                return keys
            keys += self._decoder.feed(raw)
            if not self._decoder.is_open:
                return keys
            if not select.select([self._in], [], [], ESCAPE_SECONDS)[0]:
                return keys + self._decoder.flush()

    def obey(self) -> None:
        """End by the signal that came, as whoever sent it expects; Ctrl-C only ended the view."""
        if self.ended_by in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(self.ended_by, signal.SIG_DFL)
            os.kill(os.getpid(), self.ended_by)

    def _stop(self) -> None:
        """Ctrl-Z: give the terminal back to the shell until it says to go on."""
        self._stop_wanted = False
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._modes = termios.tcgetattr(self._in)
        self._take()


def terminal_size(fd: int) -> tuple[int, int]:
    """Columns and rows; 80 x 24 where it reports none, as on a serial line."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return DEFAULT_SIZE
    return size.columns or DEFAULT_SIZE[0], size.lines or DEFAULT_SIZE[1]
