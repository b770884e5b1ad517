"""A series of snapshots of this host, with what was counted in between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dynstack_probe.kernel.btf import VMLINUX
from dynstack_probe.kernel.features import Features
from dynstack_probe.loader import Loader
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.measure.sample import Lifecycle
from dynstack_probe.measure.snapshot import Snapshot
from dynstack_probe.measure.stack_scan import Scanner, check_machine


def record(
    stop: threading.Event,
    duration_seconds: float = 0.0,
    interval_seconds: float = 10.0,
    btf_path: Path = VMLINUX,
) -> Iterator[tuple[Snapshot, Lifecycle | None]]:
    """Snapshots from now until `stop` is set, one at each interval; one only without a duration.

    A series counts tasks created and exited from its first snapshot on. Raises
    UnmeasurableError, NotPermittedError or ProbeError, each saying why.
    """
    features = Features()
    check_machine(features)
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
            yield scanner.scan(with_cgroup_paths=True), lifecycle
            due = max(due + interval_seconds, time.monotonic())
            if due > started + duration_seconds:
                return
            stop.wait(due - time.monotonic())
