# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C: one line and exit code 130, whenever it comes.

Imports as little as possible: this is loaded before anything else.
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
    """Whether our caller ignores SIGINT, as a shell does for background jobs."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def quit_at_once() -> None:
    """From now on Ctrl-C ends the process at once: for while there is nothing to clean up."""
    if not _is_ignored():
        signal.signal(signal.SIGINT, _quit)


def raise_interrupt() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that files and children are cleaned up.

    Where Python can't propagate it, as from a callback, it would print a traceback and
    continue: there the process ends at once.
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
    """From now on Ctrl-C does nothing: only interpreter shutdown is left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(code: int) -> NoReturn:
    """End the process with this exit code, even under `python -m`.

    Once a KeyboardInterrupt has passed through exec(), which dataclasses use, `python -m` ends
    by SIGINT even though it was caught (pymain_run_python() and exit_sigint() in CPython's
    Modules/main.c). os._exit() skips that.
    """
    if code == EXIT_CODE:
        os._exit(code)
    sys.exit(code)
