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
    """One precondition: what was found and, unless all is well, how to mend it.

    `permission` tells what is missing only for this user from what this machine lacks.
    """

    name: str
    status: Status
    found: str
    mend: str = ""
    permission: bool = False
