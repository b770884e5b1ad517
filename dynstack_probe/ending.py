# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command ends, whichever process it is: a line on stderr and an exit code.

It knows no command line's library, as the daemon has none.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator

from dynstack_probe import interrupts
from dynstack_probe.errors import ProbeError
from dynstack_probe.output.writing import StandardOutput
from dynstack_probe.text import printable, say

REPORT = "report this, with the traceback that `dynstack-probe -v ...` shows"


def is_verbose() -> bool:
    """Whether -v was given, also where the command line itself was wrong."""
    return bool({"-v", "--verbose"} & set(sys.argv[1:]))


def _complain(message: str, details: str = "") -> None:
    """One line; what is behind it only for those who ask."""
    say(f"dynstack-probe: {message}")
    if details and is_verbose():
        say(details)


def _open_standard_streams() -> None:
    """Put something where the caller closed 0, 1 or 2 (`>&-`), before a file takes the number.

    Writing to 1 then fails as it should; what goes to 2 is lost, as it should.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)  # of itself: the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.__stdout__ in (sys.stdout, None):
        sys.stdout = StandardOutput(sys.stdout)


def _settle_output() -> None:
    """What can't be written of stdout's buffer is lost: no second error at Python's end."""
    try:
        sys.stdout.flush()
    except (OSError, ProbeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def run(command: Callable[[], int]) -> int:
    """What the command returns, or its error's exit code. Users never see a traceback."""
    _open_standard_streams()
    try:
        interrupts.raise_interrupt()
        code = command()
        interrupts.ignore()
    except BaseException as error:
        interrupts.ignore()
        return _end_of(error)
    return code


def _end_of(error: BaseException) -> int:
    """Tell in one line what ended the command; returns the exit code."""
    _settle_output()
    notes = getattr(error, "__notes__", ())
    if isinstance(error, ProbeError):
        _complain("; ".join((str(error), *notes)), error.details)
        return error.exit_code
    # While a class is being made Python raises another error from it, as in an import.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
        _complain("; ".join(("interrupted", *notes)))
        return interrupts.EXIT_CODE
    if isinstance(error, BrokenPipeError):  # `dynstack-probe estimate | head`
        return 0
    if isinstance(error, SystemExit):  # shell completion
        return error.code if isinstance(error.code, int) else 0
    # A usage error of click, which newer typers carry inside: known by its shape.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        _complain(f"{describe()} (see dynstack-probe --help)")
        return 2
    return _unforeseen(error, notes)


def _unforeseen(error: BaseException, notes: Iterable[str]) -> int:
    """The last line of defence."""
    log = "".join(traceback.format_exception(error)).rstrip()
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = f"{where}{error.strerror or error}"
    else:
        said = printable(str(error)) if str(error) else ""
        what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    _complain("; ".join((f"unexpected error: {what}", *notes, f"please {REPORT}")), log)
    return 1


class Ending(threading.Event):
    """Set when a command is to end; `worthwhile` once there is something that it can keep."""

    def __init__(self) -> None:
        super().__init__()
        self.worthwhile = False


@contextlib.contextmanager
def ended_by_signal(*, worthwhile: bool = False) -> Iterator[Ending]:
    """Set by Ctrl-C or SIGTERM: both end what the command does, not the program.

    Before it is worthwhile they raise KeyboardInterrupt.
    """
    stop = Ending()
    stop.worthwhile = worthwhile

    def end(*_: object) -> None:
        if not stop.worthwhile:
            raise KeyboardInterrupt
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
