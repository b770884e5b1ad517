# SPDX-License-Identifier: GPL-2.0-or-later
"""The verifier's or compiler's own error message, extracted from its log."""

from __future__ import annotations

import re

# The verifier logs each instruction and the state of the registers.
_TRACE = re.compile(r"^(\d+: [(\[R]|R\d+|from \d+|last_idx|regs=|parent |; |\(\w+\) |func#|HINT)")
_SUMMARY = re.compile(r"^(processed \d+ insns|verification time|stack depth|max_states)")
MAX_WORDS = 200


def verifier_words(log: str) -> str:
    """Why the verifier refused a program: the last line that is not a trace; "" if none.

    `log` is what bcc printed; the verifier ends its own with "processed N insns".
    """
    lines = [line.strip() for line in log.splitlines()]
    ends = [at for at, line in enumerate(lines) if line.startswith("processed ")]
    if ends:
        lines = lines[: ends[-1]]
    said = [
        line
        for line in lines
        if line and not _TRACE.match(line) and not _SUMMARY.match(line) and line[-1] != ":"
    ]
    return said[-1][:MAX_WORDS] if said and "Failed to load program" not in said[-1] else ""


def compiler_words(log: str) -> str:
    """The first error of clang; "" if there is none."""
    found = re.search(r"^\S+:\d+:\d+: (?:fatal )?error: (.*)$", log, re.MULTILINE)
    return found[1][:MAX_WORDS] if found else ""
