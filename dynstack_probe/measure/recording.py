# SPDX-License-Identifier: GPL-2.0-or-later
"""A series of frames of this host, with the counts in between."""

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
from typing import Any, Self

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel.btf import VMLINUX
from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import Loader
from dynstack_probe.measure.calibration import calibrate
from dynstack_probe.measure.headroom import HeadroomSampler
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.measure.page_faults import PageFaultCounter, count_page_faults
from dynstack_probe.measure.stack_scan import Scanner
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.frame import Frame

# Between samples of free memory, at most: else a tenth of the interval.
LONGEST_PAUSE_SECONDS = 1.0


def record(
    stop: threading.Event,
    duration_seconds: float = 0.0,
    interval_seconds: float = 10.0,
    btf_path: Path = VMLINUX,
) -> Iterator[Frame]:
    """Frames from now until `stop` is set, one per interval; a single one without a duration.

    A series counts tasks created and exited and page faults from its first frame on,
    samples free memory, and calibrates this host first. Raises
    UnmeasurableError, NotPermittedError or ProbeError, each saying why.
    """
    features = Features()
    with contextlib.ExitStack() as stack:
        loader = stack.enter_context(Loader())
        scanner = stack.enter_context(Scanner(loader, features, btf_path))
        counts = None
        if duration_seconds > 0:
            pause = min(LONGEST_PAUSE_SECONDS, max(0.2, interval_seconds / 10))
            counts = stack.enter_context(_Counts(btf_path, pause))
        started = due = time.monotonic()
        taken = 0
        while not stop.is_set():
            # Read before the scan: a task that exits during it is missed once, not counted twice.
            changes = counts.take() if counts else {}
            frame = scanner.scan(with_cgroup_paths=True)
            if counts:
                changes["caveats"] = (*frame.caveats, *counts.caveats)
            yield replace(frame, **changes)
            taken += 1
            due = max(due + interval_seconds, time.monotonic())
            # On a host so busy that the first took the whole duration, there still is a second.
            if due > started + duration_seconds and (counts is None or taken > 1):
                return
            if counts is None:
                stop.wait(due - time.monotonic())
            else:
                counts.wait(stop, due)


class _Counts:
    """What is counted and sampled between frames."""

    def __init__(self, btf_path: Path, pause_seconds: float) -> None:
        """pause_seconds: between samples of free memory."""
        self._btf_path, self._pause_seconds = btf_path, pause_seconds
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Both start their children at once.
            loaders = [stack.enter_context(Loader()) for _ in range(2)]
            self._calibration: Calibration | None = calibrate()
            probe = stack.enter_context(load_lifecycle(loaders[0], btf_path=self._btf_path))
            self._sampler = stack.enter_context(Sampler(probe))
            self._page_faults: PageFaultCounter | None = None
            self.caveats: tuple[str, ...] = ()
            try:
                self._page_faults = count_page_faults(loaders[1])
                stack.callback(self._page_faults.close)
            except ProbeError as error:
                self.caveats = (f"Page faults were not counted: {error}",)
            self._headroom = HeadroomSampler()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> dict[str, Any]:
        """Fields of the next Frame; the calibration only in the first."""
        calibration, self._calibration = self._calibration, None
        self._headroom.sample()
        return {
            "lifecycle": self._sampler.lifecycle(),
            "page_faults": self._page_faults.read() if self._page_faults else None,
            "headroom": self._headroom.take(),
            "calibration": calibration,
        }

    def wait(self, stop: threading.Event, due: float) -> None:
        while (left := due - time.monotonic()) > 0 and not stop.wait(
            min(left, self._pause_seconds)
        ):
            self._headroom.sample()


class Watch:
    """Endless record() in a thread, so that a user interface never waits for a scan.

    fileno() is readable when there is something to take().
    """

    def __init__(self, interval_seconds: float, btf_path: Path = VMLINUX) -> None:
        """Starts when entered; take() raises its errors."""
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
        return self._event

    def take(self, *, wait: bool = False) -> Iterator[Frame]:
        """The frames since the last call; with `wait` at least one. Raises as record()."""
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
                self._put(frame)
        except BaseException as error:
            self._put(error)

    def _put(self, frame: Frame | BaseException) -> None:
        self._frames.put(frame)
        os.eventfd_write(self._event, 1)
