# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings of `doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.Enum):
    """The state of a precondition. A note is not fatal, but changes the meaning of figures."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One precondition: what was found and, unless all is well, a hint at the fix.

    exit_code is that of a command that lacks it: 4 where only this user may not, 3 where
    this machine can't. `is_command`: it is a command that was tried, and the others that
    work do so without it.
    """

    name: str
    status: Status
    found: str
    hint: str = ""
    exit_code: int = 3
    is_command: bool = False
