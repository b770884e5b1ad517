# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m dynstack_probe`, and the command: Ctrl-C is told in a line from here on."""

import os
import sys

from dynstack_probe.interrupts import leave, quit_at_once


def _scans_this_host(words: list[str]) -> bool:
    """Whether `estimate` will load a probe, as far as words tell: else that begins later."""
    return words[:1] == ["estimate"] and all(
        word.startswith("-") and word not in ("-h", "--help") for word in words[1:]
    )


def _streams_are_open() -> bool:
    """Else the child's socket would take the number of one that the caller has closed."""
    try:
        return all(os.fstat(number) for number in range(3))
    except OSError:
        return False


def main() -> int:
    quit_at_once()  # before the imports below, which take most of the start
    if _scans_this_host(sys.argv[1:]) and _streams_are_open():
        from dynstack_probe.loader import start_early

        start_early()
    from dynstack_probe import cli

    return cli.main()


if __name__ == "__main__":
    leave(main())
