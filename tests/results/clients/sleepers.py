# SPDX-License-Identifier: GPL-2.0-or-later
"""So many threads that sleep for good.

Usage: sleepers.py THREADS
"""

from __future__ import annotations

import sys
import threading


def main() -> None:
    threading.stack_size(32 << 10)
    never = threading.Event()
    for _ in range(int(sys.argv[1])):
        threading.Thread(target=never.wait, daemon=True).start()
    print("all asleep", flush=True)
    never.wait()


if __name__ == "__main__":
    main()
