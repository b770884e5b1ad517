# SPDX-License-Identifier: GPL-2.0-or-later
"""`serve`: load the probes, drop all privileges, then scan and serve until SIGTERM.

The main thread scans and handles signals; the web server's threads serve the last complete
scan, so that a scrape never waits for a scan.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector

from dynstack_probe.analysis.estimate import estimate
from dynstack_probe.errors import ProbeError, UsageError
from dynstack_probe.httpd.server import WebServer
from dynstack_probe.kernel.host import boot_time
from dynstack_probe.kernel.privileges import drop_privileges
from dynstack_probe.loader import Loader
from dynstack_probe.measure.calibration import calibrate
from dynstack_probe.measure.headroom import HeadroomSampler
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.measure.page_faults import DutyCycle, PageFaultCounter, count_page_faults
from dynstack_probe.model.calibration import Calibration
from dynstack_probe.model.growth import whole_shapes
from dynstack_probe.model.headroom import Headroom
from dynstack_probe.serve import sd_notify, textfile
from dynstack_probe.serve.activation import systemd_socket
from dynstack_probe.serve.collector import (
    CostInputs,
    HostCollector,
    Scan,
    ScanCounter,
    largest_cgroups,
)
from dynstack_probe.serve.config import configure
from dynstack_probe.serve.landing import landing_facts
from dynstack_probe.serve.options import Options
from dynstack_probe.text import percent, tell

if TYPE_CHECKING:
    from dynstack_probe.httpd.web_config import WebConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# /-/healthy fails once the last scan is older than this many intervals.
STALE_INTERVALS = 3


class Daemon:
    def __init__(self, options: Options) -> None:
        """Read the configuration and bind the port. Raises UsageError."""
        self._options = options
        self._config = configure(options)
        if options.textfile is not None:
            textfile.check(options.textfile)
        self._first: Scan | None = None
        self._newest: Scan | None = None
        self._scans = ScanCounter()
        # Not from the first scan's CPU time: only that scan reads all stacks.
        self._interval_seconds = self._config.scan_interval_seconds(0.0)
        self._cgroup_paths: Mapping[int, str] = {}
        self._page_faults: PageFaultCounter | None = None
        self._headroom_sampler = HeadroomSampler(limits=False)
        self._headroom: Headroom | None = None
        self._calibration: Calibration | None = None
        self._registry = CollectorRegistry()
        self._registry.register(
            HostCollector(
                newest=lambda: self._newest,
                policies=lambda: self._config.chosen_policies(),
                top_cgroups=lambda: self._config.top_cgroups,
                cgroup_paths=lambda: self._cgroup_paths,
                costs=self._cost_inputs,
                boot_time=boot_time(),
            )
        )
        ProcessCollector(registry=self._registry)
        self._web = WebServer(
            systemd_socket() if options.systemd_socket else self._config.listen,
            self._registry,
            landing=self._landing,
            ready=lambda: self._newest is not None,
            healthy=self._is_healthy,
            web_config=_web_config(options),
        )

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code.

        Raises ProbeError if the probes can't be loaded or a scan fails.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._web.stop)
            with Loader() as loader:
                lifecycle = stack.enter_context(load_lifecycle(loader))
            if self._config.page_faults:
                self._count_page_faults(stack)
            drop_privileges()
            with contextlib.suppress(OSError):  # out of memory
                self._calibration = calibrate()
            # Blocked before any thread starts, so that only the main thread receives them.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            sampler = stack.enter_context(Sampler(lifecycle))
            self._scan(sampler)
            self._web.start()
            tell(f"serving {self._web.url}metrics")
            sd_notify.ready(self._status())
            self._loop(sampler)
            sd_notify.stopping()
        return 0

    def _count_page_faults(self, stack: contextlib.ExitStack) -> None:
        """Count intermittently until `stack` unwinds; if that fails, say why and serve without."""
        try:
            with Loader() as loader:
                self._page_faults = count_page_faults(loader, DutyCycle())
            stack.callback(self._page_faults.close)
        except ProbeError as error:
            tell(f"{error}; serving without page faults")

    def _loop(self, sampler: Sampler) -> None:
        due = time.monotonic() + self._interval_seconds
        watchdog = sd_notify.watchdog_interval_seconds()
        while True:
            # Only this thread feeds the watchdog, so that a hung scan trips it.
            sd_notify.watchdog()
            toggle_at = self._page_faults.due_at() if self._page_faults else None
            wake_at = due if toggle_at is None else min(due, toggle_at)
            pause = max(0.0, wake_at - time.monotonic())
            received = signal.sigtimedwait(SIGNALS, min(pause, watchdog or pause))
            if received is not None and received.si_signo == signal.SIGHUP:
                self._reload()
            elif received is not None:
                return
            if self._page_faults and toggle_at is not None and time.monotonic() >= toggle_at:
                self._toggle_counting(self._page_faults)
            if time.monotonic() >= due:
                began = time.thread_time()
                self._scan(sampler)
                cpu_seconds = time.thread_time() - began
                self._interval_seconds = self._config.scan_interval_seconds(cpu_seconds)
                sd_notify.status(self._status())
                due = max(due + self._interval_seconds, time.monotonic())

    def _toggle_counting(self, counter: PageFaultCounter) -> None:
        """Start or stop counting page faults; for good if the kernel refuses."""
        self._headroom_sampler.sample()
        try:
            counter.turn()
        except OSError as error:
            self._page_faults = None
            tell(f"can't count page faults any more: {error}")

    def _scan(self, sampler: Sampler) -> None:
        self._headroom_sampler.sample()
        self._headroom = self._headroom_sampler.take()
        sampler.prove_by(self._config.proving_exits)
        sample = sampler.take()
        wanted = largest_cgroups(sample, self._config.top_cgroups)
        known = {cgroup: path for cgroup, path in self._cgroup_paths.items() if cgroup in wanted}
        unknown = [cgroup for cgroup in wanted if cgroup not in known]
        self._cgroup_paths = known | (sampler.cgroup_paths(unknown) if unknown else {})
        policies = self._config.chosen_policies()
        self._newest = self._scans.add(sample, policies, self._calibration)
        self._first = self._first or self._newest
        if self._options.textfile is not None:
            textfile.write(self._options.textfile, self._registry)

    def _reload(self) -> None:
        """Reload the configuration; keep the old one if the new one is invalid."""
        sd_notify.reloading()
        try:
            fresh = configure(self._options)
            if (fresh.listen, fresh.page_faults) != (
                self._config.listen,
                self._config.page_faults,
            ):
                raise UsageError("changing listen or page_faults needs a restart")
            self._web.reload()
            self._config = fresh
        except UsageError as error:
            tell(f"not reloaded: {error}")
        else:
            tell("configuration reloaded")
        sd_notify.ready(self._status())

    def _cost_inputs(self) -> CostInputs:
        counter = self._page_faults
        return CostInputs(
            counter.read() if counter else None,
            counter.method if counter else "",
            self._headroom,
            self._calibration,
        )

    def _is_healthy(self) -> bool:
        newest = self._newest
        max_age_seconds = STALE_INTERVALS * self._interval_seconds
        return newest is not None and time.time() - newest.sample.taken_at < max_age_seconds

    def _status(self) -> str:
        if self._newest is None:
            return "waiting for the first scan"
        sample = self._newest.sample
        shapes = whole_shapes(sample.living.all_shapes())
        result = estimate(self._config.chosen_policies()[0], shapes, sample.host)
        return (
            f"{result.stacks} stacks, {result.base_kib} KiB; {result.policy} would save"
            f" {percent(result.saving_ratio)}"
        )

    def _landing(self) -> Iterator[tuple[str, str]]:
        if self._first is None or self._newest is None:
            return iter([("", "The first scan is in progress.")])
        policy = self._config.chosen_policies()[0]
        return landing_facts(self._first, self._newest, policy, self._headroom, time.time())


def _web_config(options: Options) -> WebConfig | None:
    if options.web_config_file is None:
        return None
    # here, since it imports OpenSSL, 4 MB
    from dynstack_probe.httpd.web_config import WebConfig

    return WebConfig(options.web_config_file)
