# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C: one line and exit code 130, at whichever moment it comes.

Standard library only, and little of it: this is imported before anything else.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

EXIT_CODE = 130
_LINE = b"dynstack-probe: interrupted\n"


def _quit(*_: object) -> NoReturn:
    try:
        os.write(2, _LINE)
    finally:
        os._exit(EXIT_CODE)


def _is_ignored() -> bool:
    """Whether our caller wants it so, as a shell does for what runs in its background."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def quit_at_once() -> None:
    """From now on Ctrl-C ends the process: for as long as there is nothing to clean up."""
    if not _is_ignored():
        signal.signal(signal.SIGINT, _quit)


def raise_interrupt() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that files and children are seen to.

    Where Python can't raise it, as in a callback, it would print a traceback and go on: there
    the process ends at once.
    """
    if _is_ignored():
        return

    def unraisable(what: sys.UnraisableHookArgs, /) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            _quit()
        sys.__unraisablehook__(what)

    sys.unraisablehook = unraisable
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore() -> None:
    """From now on Ctrl-C does nothing: all is done but for Python's own end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End the process with this exit code, for what `python -m` runs.

    Of a KeyboardInterrupt that left code given to exec(), as a dataclass is made by, `python -m`
    kills itself with SIGINT at its end, though it was caught (pymain_run_python() and
    exit_sigint() of CPython's Modules/main.c): then it must not get there.
    """
    if code == EXIT_CODE:
        os._exit(code)
    sys.exit(code)
