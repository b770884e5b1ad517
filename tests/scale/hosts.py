# SPDX-License-Identifier: GPL-2.0-or-later
"""Synthetic hosts: each a /metrics page made from a real one, with figures of its own.

Run as a program it serves N of them: the page of host 7 is /host/7/metrics.

    python tests/scale/hosts.py TEMPLATE N [PORTS] [--moving]

TEMPLATE is a page of a real daemon. Once it serves it prints "ready" and its ports. A
host's figures follow from its number alone, so whoever knows the number knows what its own
`estimate` would say: `host(7).estimate()`. They stand still; with --moving the other series
change from scrape to scrape as those of a real host do.
"""

from __future__ import annotations

import asyncio
import functools
import random
import re
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from dynstack_probe.analysis.estimate import Estimate, estimate
from dynstack_probe.model.host import Host
from dynstack_probe.model.shapes import Shape, ShapeCounts
from dynstack_probe.policy import BUILT_IN

CGROUPS = 20  # the daemon's default top_cgroups
MODELS = (  # name, CPUs, GiB
    ("AMD EPYC 9654", 384, 1536),
    ("AMD EPYC 7B12", 256, 1024),
    ("Intel Xeon Platinum 8480+", 224, 1024),
    ("Intel Xeon Gold 6230", 80, 384),
    ("AMD EPYC 7571", 64, 256),
    ("Intel Xeon E5-2686 v4", 36, 128),
)
KERNELS = ("5.15.0-119-generic", "6.1.0-25-amd64", "6.8.0-45-generic", "6.12.9+deb13-amd64")
SHARES = ((0.01, 0.2), (0.0, 0.01), (0.0, 0.001))  # of stacks that use 2, 3, 4 pages
SERIES = re.compile(r"(\w+)(\{.*\})? (\S+)")
SCRAPED_EVERY_SECONDS = 15.0


@dataclass(frozen=True)
class SyntheticHost:
    """What there is to know of a host: living stacks by pages down to the mark, 1 to 4."""

    number: int
    cpu_model: str
    kernel_release: str
    cpus: int
    memory_kib: int
    tasks: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"host-{self.number}"

    def estimate(self, policy: str = "rfc-v1") -> Estimate:
        """What `dynstack-probe estimate` would say there."""
        shapes = ShapeCounts()
        for pages, count in enumerate(self.tasks, start=1):
            shapes[Shape(pages, (1 << pages) - 1)] += count
        machine = Host(self.cpu_model, self.cpus, self.kernel_release, 16384, self.memory_kib)
        return estimate(BUILT_IN[policy], shapes, machine)


@functools.cache
def host(number: int) -> SyntheticHost:
    """The host of that number, always the same."""
    chance = random.Random(number)
    model, cpus, gib = chance.choice(MODELS)
    stacks = int(cpus * chance.uniform(12, 40)) + 400
    deeper = [int(stacks * chance.uniform(low, high)) for low, high in SHARES]
    return SyntheticHost(
        number,
        model,
        chance.choice(KERNELS),
        cpus,
        gib << 20,
        (stacks - sum(deeper), deeper[0], deeper[1], deeper[2]),
    )


def with_cgroups(page: str) -> str:
    """The page as a host with many cgroups has it: the top 20, and `other`."""
    lines = []
    for line in page.splitlines():
        found = re.match(r"(dynstack_cgroup(?:_policy)?_stack_bytes)\{cgroup=\"[^\"]*\"(.*)", line)
        if found is None:
            lines.append(line)
        elif not any(other.startswith(found[1] + "{") for other in lines):
            names = [f"/system.slice/service-{n:02}.service" for n in range(CGROUPS)]
            lines += [f'{found[1]}{{cgroup="{name}"{found[2]}' for name in [*names, "other"]]
    return "\n".join(lines) + "\n"


def series_of(page: str) -> list[str]:
    """The lines of a page that are series."""
    return [line for line in page.splitlines() if line and not line.startswith("#")]


class Template:
    """A page of which each host gets its own, with its own values."""

    def __init__(self, page: str, moving: bool) -> None:
        self._page = page
        self._moving = moving
        self._pages: dict[int, _Page] = {}

    def page(self, number: int, seconds: float) -> str:
        """The page of a host that many seconds after its start."""
        if number not in self._pages:
            self._pages[number] = self._make(number)
        return self._pages[number].at(seconds)

    def _make(self, number: int) -> _Page:
        figures = _figures(number)
        lines, values = [], []
        for line in self._page.splitlines():
            found = SERIES.fullmatch(line)
            if line.startswith("#") or found is None:
                lines.append(line.replace("%", "%%"))
                continue
            name, labels = found[1], found[2] or ""
            if name == "dynstack_host_info":
                labels = _info_labels(number)
            value = _moving_value(name, labels, number)
            if value is None:
                fixed = figures.get((name, labels), STANDING.get(name, 0))
                lines.append(f"{name}{labels} {fixed:.0f}".replace("%", "%%"))
                continue
            if not self._moving and not value.rate:
                value = _Value(value.base, 0.0, 0.0)
            lines.append(f"{name}{labels} ".replace("%", "%%") + _format_of(name))
            values.append(value)
        return _Page("\n".join(lines) + "\n", values, number)


class _Value(NamedTuple):
    """A series that changes: a second's rise, and how far chance moves it."""

    base: float
    rate: float
    spread: float


@dataclass(frozen=True)
class _Page:
    """Text with a gap for each value that changes."""

    text: str
    values: Sequence[_Value]
    number: int

    def at(self, seconds: float) -> str:
        period = int(seconds / SCRAPED_EVERY_SECONDS)
        start = (self.number * 31 + period * 173) % (len(NOISE) // 2)
        noise = NOISE[start : start + len(self.values)]
        return self.text % tuple(
            base + rate * seconds + spread * chance
            for (base, rate, spread), chance in zip(self.values, noise, strict=True)
        )


NOISE = [random.Random(n).random() for n in range(4096)]
STARTED_AT = time.time()
# a second, on a host of the slowest kind
RATES = {
    "dynstack_created_tasks_total": 20.0,
    "dynstack_reused_stacks_total": 15.0,
    "dynstack_exited_tasks_total": 20.0,
    "dynstack_page_faults_total": 3000.0,
    "dynstack_bpf_runs_total": 40.0,
    "dynstack_bpf_run_seconds_total": 0.0001,
    "dynstack_late_growth_tasks_total": 0.1,
    "dynstack_policy_faults_total": 2.0,
    "dynstack_policy_fault_pages_total": 2.0,
    "dynstack_policy_avoided_fault_pages_total": 0.5,
    "process_cpu_seconds_total": 0.001,
}
# base and spread
GAUGES = {
    "dynstack_scan_reread_stacks": (40, 60),
    "dynstack_deepest_stack_bytes": (9000, 64),
    "dynstack_scan_duration_seconds": (0.001, 0.003),
    "process_resident_memory_bytes": (30_000_000, 40_000),
    "process_open_fds": (30, 3),
    "dynstack_memory_headroom_bytes": (3_000_000_000, 200_000_000),
}
STANDING = {
    "dynstack_calibrated_fault_seconds": 1.8e-6,
    "dynstack_calibrated_clear_page_seconds": 1.0e-7,
    "process_virtual_memory_bytes": 180_000_000,
    "process_start_time_seconds": STARTED_AT,
    "process_max_fds": 1024,
    "dynstack_bpf_memory_bytes": 2_700_000,
}
WEIGHTS = {'{pages="2"}': 0.1, '{pages="3"}': 0.001, '{pages="4"}': 0.0}


def _moving_value(name: str, labels: str, number: int) -> _Value | None:
    """None for a series that stands still, as most of a page do."""
    if name == "dynstack_scan_timestamp_seconds":
        return _Value(STARTED_AT, 1.0, -5.0)
    if name in RATES:
        # hosts differ; chance never makes a counter fall
        rate = RATES[name] * WEIGHTS.get(labels, 1.0) * (1 + number % 7)
        return _Value(0.0, rate, rate * SCRAPED_EVERY_SECONDS / 2)
    if name in GAUGES:
        return _Value(GAUGES[name][0], 0.0, GAUGES[name][1])
    if name.startswith("dynstack_cgroup_") and labels:
        stacks = 3 + (number + 7 * zlib.crc32(labels.encode())) % 90
        return _Value(stacks * 16384, 0.0, 3 * 16384)
    return None


def _format_of(name: str) -> str:
    return "%.4f" if "_seconds" in name else "%d"


def _info_labels(number: int) -> str:
    this = host(number)
    return (
        f'{{cpu_model="{this.cpu_model}",kernel_release="{this.kernel_release}"'
        ',thread_size_bytes="16384"}'
    )


def _figures(number: int) -> dict[tuple[str, str], float]:
    """The series whose values follow from the host's figures."""
    this = host(number)
    stacks = sum(this.tasks)
    rfc = this.estimate()
    policy = '{policy="rfc-v1"}'
    figures: dict[tuple[str, str], float] = {
        ("dynstack_build_info", '{version="0.1.0"}'): 1,
        ("dynstack_host_info", _info_labels(number)): 1,
        ("dynstack_stack_bytes", ""): rfc.base_kib * 1024,
        ("dynstack_stacks_read", ""): stacks,
        ("dynstack_kernel_stacks", ""): stacks + number % 30,
        ("dynstack_host_cpus", ""): this.cpus,
        ("dynstack_host_memory_bytes", ""): this.memory_kib * 1024,
        ("dynstack_thread_size_bytes", ""): 16384,
        ("dynstack_policy_stack_bytes", policy): rfc.dynamic_kib * 1024,
        ("dynstack_policy_reserve_bytes", policy): rfc.reserve_kib * 1024,
        ("dynstack_policy_over_limit_tasks", policy): rfc.over_limit_tasks,
    }
    for pages, count in enumerate(this.tasks, start=1):
        figures["dynstack_tasks", f'{{kind="user",pages="{pages}"}}'] = count
    return figures


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a Prometheus needs it: GETs, one after the other."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            assert self._transport is not None
            self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        number = int(head.split(b"/", 3)[2])
        body = self._template.page(number, time.time() - STARTED_AT).encode()
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


async def serve(template: Template, ports: int) -> None:
    """Serve all hosts on each of so many free ports, for ever."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: _Connection(template), "127.0.0.1", 0, backlog=4096)
        for _ in range(ports)
    ]
    print("ready", *(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--moving"]
    path, hosts = Path(arguments[0]), int(arguments[1])
    ports = int(arguments[2]) if len(arguments) > 2 else 1
    template = Template(with_cgroups(path.read_text()), "--moving" in sys.argv)
    for number in range(hosts):
        template.page(number, 0.0)
    asyncio.run(serve(template, ports))


if __name__ == "__main__":
    main()
