# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's entry point; `dynstack-probe serve` execs it, see options.py."""

import contextlib
import signal
import sys
from pathlib import Path

from dynstack_probe.interrupts import leave, quit_at_once

NAME = "dynstack-probe"


def _serve() -> int:
    from dynstack_probe.serve.lean import import_prometheus_client

    import_prometheus_client()  # before any regular import of it
    from dynstack_probe.serve.daemon import Daemon
    from dynstack_probe.serve.options import Options

    return Daemon(Options.from_words(sys.argv[1:])).run()


def main() -> int:
    quit_at_once()  # before the imports below, which take most of the startup time
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # So that ps shows the command's name, not python3.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    from dynstack_probe import ending

    return ending.run(_serve)


if __name__ == "__main__":
    leave(main())
