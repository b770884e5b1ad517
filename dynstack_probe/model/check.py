# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor finds."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Status(enum.Enum):
    """How a precondition stands. A note stops nothing, but changes what figures mean."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True)
class Check:
    """One precondition: what was found and, unless all is well, a hint how to fix it.

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
