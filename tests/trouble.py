# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command that fails must fail."""

from __future__ import annotations

import re
from typing import Protocol


class Ended(Protocol):
    """A command that has ended, in a process of its own or in this one."""

    @property
    def returncode(self) -> int: ...

    @property
    def stdout(self) -> str: ...

    @property
    def stderr(self) -> str: ...


def complains(result: Ended, code: int, about: str) -> None:
    """One line on stderr that a person can read and that `about`, a pattern, is found in; nothing
    on stdout; the right exit code.
    """
    assert result.stdout == ""
    assert re.fullmatch(r"dynstack-probe: [^\n]+\n", result.stderr), result.stderr
    assert result.stderr.strip().isprintable()
    assert re.search(about, result.stderr), result.stderr
    assert result.returncode == code
