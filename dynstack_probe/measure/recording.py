"""A series of snapshots of this host, with what was counted in between."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from dynstack_probe.kernel.btf import VMLINUX
from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import Loader
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.measure.stack_scan import Scanner
from dynstack_probe.model.frame import Frame


def record(
    stop: threading.Event,
    duration_seconds: float = 0.0,
    interval_seconds: float = 10.0,
    btf_path: Path = VMLINUX,
) -> Iterator[Frame]:
    """Snapshots from now until `stop` is set, one at each interval; one only without a duration.

    A series counts tasks created and exited from its first snapshot on. Raises
    UnmeasurableError, NotPermittedError or ProbeError, each saying why.
    """
    features = Features()
    with contextlib.ExitStack() as stack:
        loader = stack.enter_context(Loader())
        scanner = stack.enter_context(Scanner(loader, features, btf_path))
        sampler = None
        if duration_seconds > 0:
            life_loader = stack.enter_context(Loader())
            probe = stack.enter_context(load_lifecycle(life_loader, btf_path=btf_path))
            sampler = stack.enter_context(Sampler(probe))
        started = due = time.monotonic()
        while not stop.is_set():
            # Counted before the scan: who exits during it is missing once, not there twice.
            lifecycle = sampler.lifecycle() if sampler else None
            yield replace(scanner.scan(with_cgroup_paths=True), lifecycle=lifecycle)
            due = max(due + interval_seconds, time.monotonic())
            if due > started + duration_seconds:
                return
            stop.wait(due - time.monotonic())


class Watch:
    """record() without end in a thread: whoever reads keys never waits for a pass.

    fileno() can be read when there is something to take().
    """

    def __init__(self, interval_seconds: float, btf_path: Path = VMLINUX) -> None:
        """Starts when entered; errors come out of take()."""
        self._interval, self._btf_path = interval_seconds, btf_path
        self._stop = threading.Event()
        self._frames: queue.SimpleQueue[Frame | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._event)

    def fileno(self) -> int:
        """Of an eventfd."""
        return self._event

    def take(self, *, wait: bool = False) -> Iterator[Frame]:
        """The frames since the last call; with `wait` one at least. Raises as record()."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with contextlib.suppress(queue.Empty):
            while True:
                frame = self._frames.get(block=wait)
                wait = False
                if isinstance(frame, BaseException):
                    raise frame
                yield frame

    def _run(self) -> None:
        try:
            for frame in record(self._stop, math.inf, self._interval, self._btf_path):
                self._tell(frame)
        except BaseException as error:
            self._tell(error)

    def _tell(self, frame: Frame | BaseException) -> None:
        self._frames.put(frame)
        os.eventfd_write(self._event, 1)
