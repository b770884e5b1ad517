# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that are not there: a page of metrics each, with the daemon's names, and rising counters.

Each host has one trait that an alert looks for, so that the alerts' expressions have
something to find.
"""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

PAGE_BYTES = 4096
THREAD_BYTES = 4 * PAGE_BYTES
STARTED = time.time()


@dataclass(frozen=True)
class SimulatedHost:
    """A host of which everything else follows."""

    cpu_model: str
    kernel_release: str
    cpus: int
    tasks_by_pages: tuple[int, int, int, int]
    memory_gib: int
    missed_stacks: int = 0
    deepest_bytes: int = 9000
    faults_per_second: float = 3.0
    lost_per_second: float = 0.0
    scans: bool = True

    @property
    def stacks(self) -> int:
        """How many were read."""
        return sum(self.tasks_by_pages)

    def held_pages(self) -> Mapping[str, int]:
        """Pages of all stacks, by policy."""
        grown = sum(pages * n for pages, n in enumerate(self.tasks_by_pages, start=1))
        return {"rfc-v1": grown, "static-8k": 2 * self.stacks}

    def page(self, now: float) -> str:
        """What a scrape gets at that time."""
        metrics = _Page()
        self._stacks(metrics)
        self._policies(metrics, now - STARTED)
        self._lifecycle(metrics, now - STARTED)
        self._own_cost(metrics, now)
        return metrics.text()

    def _stacks(self, metrics: _Page) -> None:
        metrics.gauge(
            "dynstack_host_info",
            1,
            cpu_model=self.cpu_model,
            kernel_release=self.kernel_release,
            thread_size_bytes=str(THREAD_BYTES),
        )
        metrics.gauge("dynstack_build_info", 1, version="0.1.0")
        metrics.gauge("dynstack_host_cpus", self.cpus)
        metrics.gauge("dynstack_host_boot_time_seconds", int(STARTED) - 3600)
        metrics.gauge("dynstack_host_memory_bytes", self.memory_gib << 30)
        metrics.gauge("dynstack_thread_size_bytes", THREAD_BYTES)
        metrics.gauge("dynstack_stack_bytes", self.stacks * THREAD_BYTES)
        metrics.gauge("dynstack_deepest_stack_bytes", self.deepest_bytes)
        metrics.gauge("dynstack_stacks_read", self.stacks)
        metrics.gauge("dynstack_kernel_stacks", self.stacks + self.missed_stacks)
        metrics.gauge("dynstack_stacks_unreadable", 0)
        metrics.gauge("dynstack_stacks_erased", 0)
        for pages, tasks in enumerate(self.tasks_by_pages, start=1):
            metrics.gauge("dynstack_tasks", tasks // 2, kind="kernel", pages=str(pages))
            metrics.gauge("dynstack_tasks", tasks - tasks // 2, kind="user", pages=str(pages))
        for cgroup, share in (("/system.slice", 0.5), ("/user.slice", 0.3), ("other", 0.2)):
            metrics.gauge(
                "dynstack_cgroup_stack_bytes", share * self.stacks * THREAD_BYTES, cgroup=cgroup
            )
            for policy, pages in self.held_pages().items():
                metrics.gauge(
                    "dynstack_cgroup_policy_stack_bytes",
                    share * pages * PAGE_BYTES,
                    cgroup=cgroup,
                    policy=policy,
                )
        metrics.gauge("dynstack_cgroup_uncounted_stacks", 0)
        metrics.gauge("dynstack_cgroups_in_other", 7)

    def _policies(self, metrics: _Page, seconds: float) -> None:
        reserves = {"rfc-v1": 3 * self.cpus, "static-8k": 0}
        too_deep = {"rfc-v1": 0, "static-8k": sum(self.tasks_by_pages[2:])}
        for policy, pages in self.held_pages().items():
            metrics.gauge("dynstack_policy_stack_bytes", pages * PAGE_BYTES, policy=policy)
            metrics.gauge(
                "dynstack_policy_reserve_bytes", reserves[policy] * PAGE_BYTES, policy=policy
            )
            metrics.gauge("dynstack_policy_over_limit_tasks", too_deep[policy], policy=policy)
        faults = self.faults_per_second * seconds
        metrics.counter("dynstack_policy_faults_total", faults, policy="rfc-v1")
        metrics.counter("dynstack_policy_fault_pages_total", 1.2 * faults, policy="rfc-v1")
        metrics.counter("dynstack_policy_avoided_fault_pages_total", 0.4 * faults, policy="rfc-v1")
        metrics.counter("dynstack_policy_fault_cpu_seconds_total", 2e-6 * faults, policy="rfc-v1")
        metrics.counter("dynstack_policy_fault_cpu_seconds_total", 0.0, policy="static-8k")
        for policy in self.held_pages():
            spared = 20 * seconds * 4e-7
            metrics.counter("dynstack_policy_fork_saved_cpu_seconds_total", spared, policy=policy)

    def _lifecycle(self, metrics: _Page, seconds: float) -> None:
        created = 20 * seconds
        metrics.counter("dynstack_created_tasks_total", created)
        metrics.counter("dynstack_reused_stacks_total", 0.7 * created)
        for pages, share in (("1", 0.8), ("2", 0.19), ("3", 0.01), ("4", 0.0)):
            metrics.counter("dynstack_exited_tasks_total", share * created, pages=pages)
        for age, share in (("1s", 0.05), ("+Inf", 0.01)):
            metrics.counter("dynstack_late_growth_tasks_total", share * created, age=age)
        for reason in ("exit_unread", "exit_pages_hidden", "inheritance_forgotten"):
            lost = self.lost_per_second * seconds
            metrics.counter("dynstack_lost_events_total", lost, reason=reason)
        metrics.counter("dynstack_page_faults_total", 900 * seconds, mode="user")
        metrics.counter("dynstack_page_faults_total", 40 * seconds, mode="kernel")
        metrics.gauge("dynstack_memory_headroom_bytes", 3e9)
        metrics.gauge("dynstack_calibrated_fault_seconds", 1.8e-6)
        metrics.gauge("dynstack_calibrated_clear_page_seconds", 1e-7)

    def _own_cost(self, metrics: _Page, now: float) -> None:
        seconds = now - STARTED
        metrics.gauge("dynstack_scan_duration_seconds", 3e-6 * self.stacks)
        metrics.gauge("dynstack_scan_timestamp_seconds", now if self.scans else STARTED)
        metrics.gauge("dynstack_scan_reread_stacks", self.stacks // 10)
        metrics.counter("dynstack_bpf_runs_total", 40 * seconds, program="stack_lifecycle")
        metrics.counter("dynstack_bpf_run_seconds_total", 8e-5 * seconds, program="stack_lifecycle")
        metrics.gauge("dynstack_bpf_memory_bytes", 2 << 20)
        metrics.gauge("process_resident_memory_bytes", 30 << 20)
        metrics.counter("process_cpu_seconds_total", 0.002 * seconds)


# Three CPU models, two kernel releases; the last four have one trait each.
HOSTS: Mapping[str, SimulatedHost] = {
    "plain": SimulatedHost("AMD Genoa", "6.12.9", 384, (5700, 80, 6, 0), 768),
    "missing": SimulatedHost("AMD Genoa", "6.18.4", 384, (4000, 90, 0, 0), 768, missed_stacks=400),
    "deep": SimulatedHost("Intel Skylake", "6.12.9", 112, (3000, 150, 20, 12), 384, 0, 15500),
    "stuck": SimulatedHost("Intel Haswell", "6.12.9", 72, (2600, 44, 0, 0), 256, scans=False),
    "losing": SimulatedHost("Intel Skylake", "6.18.4", 112, (3100, 82, 0, 0), 384,
                            faults_per_second=250, lost_per_second=2),
}  # fmt: skip


@dataclass
class _Page:
    """The text format."""

    types: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self._add("gauge", name, value, labels)

    def counter(self, name: str, value: float, **labels: str) -> None:
        self._add("counter", name, value, labels)

    def _add(self, kind: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        pairs = ",".join(f'{key}="{text}"' for key, text in labels.items())
        self.types[name] = kind
        self.samples.setdefault(name, []).append(f"{name}{{{pairs}}} {value!r}\n")

    def text(self) -> str:
        return "".join(
            f"# TYPE {name} {kind}\n" + "".join(self.samples[name])
            for name, kind in self.types.items()
        )


@contextlib.contextmanager
def served(hosts: Mapping[str, SimulatedHost]) -> Iterator[dict[str, str]]:
    """Serves each host on a port of its own; gives HOST:PORT by name."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(_served(host)) for name, host in hosts.items()}


@contextlib.contextmanager
def _served(host: SimulatedHost) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = host.page(time.time()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
