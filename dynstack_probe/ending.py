# SPDX-License-Identifier: GPL-2.0-or-later
"""Top-level error handling of every process: one line on stderr and an exit code.

Does not import typer, which the daemon runs without.
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
    """Whether -v was given, even if the command line did not parse."""
    return bool({"-v", "--verbose"} & set(sys.argv[1:]))


def _complain(message: str, details: str = "") -> None:
    """Print one line; the details only with --verbose."""
    say(f"dynstack-probe: {message}")
    if details and is_verbose():
        say(details)


def _open_standard_streams() -> None:
    """Open /dev/null on any of 0, 1, 2 that the caller closed (`>&-`), before a file gets it.

    As intended, a write to 1 then fails, and one to 2 is discarded.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, flags), number)  # open() may have returned it already
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.__stdout__ in (sys.stdout, None):
        sys.stdout = StandardOutput(sys.stdout)


def _flush_or_discard() -> None:
    """Flush stdout; discard what can't be written, or Python would report it again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ProbeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def run(command: Callable[[], int]) -> int:
    """The command's exit code, or its error's. Users see a traceback only with --verbose."""
    _open_standard_streams()
    try:
        interrupts.raise_interrupt()
        code = command()
        interrupts.ignore()
    except BaseException as error:
        interrupts.ignore()
        return _report(error)
    return code


def _report(error: BaseException) -> int:
    """Report the error in one line; returns the exit code."""
    _flush_or_discard()
    notes = getattr(error, "__notes__", ())
    if isinstance(error, ProbeError):
        _complain("; ".join((str(error), *notes)), error.details)
        return error.exit_code
    # Ctrl-C during class creation, as in an import, comes wrapped in another error.
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
        _complain("; ".join(("interrupted", *notes)))
        return interrupts.EXIT_CODE
    if isinstance(error, BrokenPipeError):  # `dynstack-probe estimate | head`
        return 0
    if isinstance(error, SystemExit):  # shell completion
        return error.code if isinstance(error.code, int) else 0
    # A usage error of click; newer typers bundle their own copy, so recognise it by its method.
    describe = getattr(error, "format_message", None)
    if describe is not None:
        _complain(f"{describe()} (see dynstack-probe --help)")
        return 2
    return _report_unexpected(error, notes)


def _report_unexpected(error: BaseException, notes: Iterable[str]) -> int:
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
    """Set when a command is to stop; `worthwhile` is true once it has results to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.worthwhile = False


@contextlib.contextmanager
def ended_by_signal(*, worthwhile: bool = False) -> Iterator[Ending]:
    """An Ending that Ctrl-C or SIGTERM sets: they stop the measurement, not the program.

    Until it is worthwhile they raise KeyboardInterrupt.
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
