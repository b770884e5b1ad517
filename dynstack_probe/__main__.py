# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m dynstack_probe`, and the command: Ctrl-C is told in a line from here on."""

import sys

from dynstack_probe.interrupts import quit_at_once


def main() -> int:
    """Run the command line; returns the exit code."""
    quit_at_once()  # before the imports below, which take most of the start
    from dynstack_probe import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
