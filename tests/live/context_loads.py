# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads with known contexts, and samples of them; needs no pytest.

Sending a datagram to oneself runs with bottom halves off (__dev_queue_xmit()), and its softirq then
runs on the CPU's own stack (do_softirq_own_stack()), not on the task's. Looking up files
takes no such lock for long.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dynstack_probe.loader import Loader
from dynstack_probe.measure.call_paths import Sampling, load_call_paths
from dynstack_probe.measure.contexts import Context

SECONDS = 4


def look_up_files(ends: float) -> None:
    here = str(Path(__file__).resolve())
    while time.monotonic() < ends:
        os.stat(here)  # noqa: PTH116


def send_to_oneself(ends: float) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        while time.monotonic() < ends:
            sender.send(b"x" * 1000)
            receiver.recv(2000)


def contexts_under(
    load: Callable[[float], None], seconds: float = SECONDS
) -> tuple[Counter[Context], int]:
    """Contexts of this process's samples, and the number of samples on a per-CPU stack."""
    found: Counter[Context] = Counter()
    with (
        Loader() as loader,
        load_call_paths(loader, rate_hz=997, deeper_than=500) as probe,
        Sampling(probe) as sampling,
    ):
        thread = threading.Thread(target=load, args=(time.monotonic() + seconds,), name="load")
        thread.start()
        while thread.is_alive():
            time.sleep(0.2)
            tasks = {int(task.name) for task in Path("/proc/self/task").iterdir()}
            found.update(s.context for s in sampling.read() if s.tid in tasks)
        elsewhere = sampling.counters().elsewhere
    return found, elsewhere
