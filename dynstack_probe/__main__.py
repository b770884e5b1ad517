# SPDX-License-Identifier: GPL-2.0-or-later
"""Entry point of the command and of `python -m dynstack_probe`; Ctrl-C prints one line."""

import os
import sys

from dynstack_probe.interrupts import leave, quit_at_once


def _scans_this_host(words: list[str]) -> bool:
    """Whether the arguments are an `estimate` of the live host, whose child can start early."""
    return words[:1] == ["estimate"] and all(
        word.startswith("-") and word not in ("-h", "--help") for word in words[1:]
    )


def _standard_streams_open() -> bool:
    """If not, the child's socket would get the descriptor number of the closed one."""
    try:
        return all(os.fstat(fd) for fd in range(3))
    except OSError:
        return False


def main() -> int:
    quit_at_once()  # before the imports below, most of the startup time
    if _scans_this_host(sys.argv[1:]) and _standard_streams_open():
        from dynstack_probe.loader import start_early

        start_early()
    from dynstack_probe import cli

    return cli.main()


if __name__ == "__main__":
    leave(main())
