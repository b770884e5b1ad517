# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a real Prometheus that scrapes N synthetic hosts; write it into docs/scale.md.

Usage: python tests/scale/measure.py docs/scale.md [N ...]

Needs root, for the daemon whose page is the template, and Debian's prometheus.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host as machine  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.live.machine import free_port  # noqa: E402
from tests.live.test_serve import serving  # noqa: E402
from tests.prometheus_server import PrometheusServer, prometheus  # noqa: E402
from tests.scale.hosts import Template, host, series_of, with_cgroups  # noqa: E402

DEFAULT_HOSTS = (500, 2000, 8000, 16_000)
INTERVAL_SECONDS = 15
# what is measured once all hosts have been scraped
MEASURED_SECONDS = 45
SETTLE_SECONDS = 20
# so many connections to one address leave enough ports of our own
HOSTS_A_PORT = 5000
QUERIES = 3
RULES = ROOT / "grafana" / "rules"
# Times are the best of several: others work on the machine, and only add to them.
RULES_SECONDS = "sum(min_over_time(prometheus_rule_group_last_duration_seconds[60s]))"
# for bytes a sample: hosts and seconds of a block made offline
BLOCK_HOSTS = 20
BLOCK_SECONDS = 7200


@dataclass(frozen=True)
class Run:
    """What N hosts cost; times in seconds."""

    hosts: int
    up: int
    series: int
    samples_a_second: float
    rss_bytes: int
    cpus_used: float
    interval_p99_seconds: float
    scrape_seconds: float
    rules_seconds: float
    rules: int
    fleet_seconds: dict[str, float]
    query_seconds: dict[str, float]
    answer_bytes: dict[str, int]
    sum_is_right: bool


class Measured(PrometheusServer):
    """A running server and its own metrics."""

    def value(self, expression: str, default: float = 0.0) -> float:
        parameters = urllib.parse.urlencode({"query": expression})
        address = f"{self.url}/api/v1/query?{parameters}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
        return float(result[0]["value"][1]) if result else default

    def own(self, name: str) -> float:
        """One of its own metrics, as it stands now."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{re.escape(name)}(?:{{[^\n]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)


@contextlib.contextmanager
def generator(page: Path, hosts: int) -> Iterator[list[int]]:
    """Serve the synthetic hosts; gives the ports."""
    ports = -(-hosts // HOSTS_A_PORT)
    process = subprocess.Popen(
        [sys.executable, "tests/scale/hosts.py", str(page), str(hosts), str(ports),
         "--moving"],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready, *found = process.stdout.readline().split()
        assert ready == b"ready"
        yield [int(port) for port in found]
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def scraping(folder: Path, hosts: int, ports: Sequence[int]) -> Iterator[Measured]:
    """A Prometheus that scrapes them, evaluates the shipped rules, and itself."""
    address = f"127.0.0.1:{free_port()}"
    groups = [
        {
            "targets": [f"127.0.0.1:{ports[number % len(ports)]}"],
            "labels": {
                "__metrics_path__": f"/host/{number}/metrics",
                "instance": host(number).name,
            },
        }
        for number in range(hosts)
    ]
    (folder / "targets.json").write_text(json.dumps(groups))
    every = f"{INTERVAL_SECONDS}s"
    sd_configs = [{"files": [f"{folder}/targets.json"]}]
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": [f"{RULES}/*.yml"],
        "scrape_configs": [
            {"job_name": "dynstack", "file_sd_configs": sd_configs},
            {"job_name": "prometheus", "static_configs": [{"targets": [address]}]},
        ],
    }
    try:
        with prometheus(folder, config, address=address) as server:
            yield Measured(server.url, server.pid)
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)


def wait_for_all(server: Measured, hosts: int) -> None:
    """Until each host was scraped once, or for two minutes."""
    for _ in range(120):
        with contextlib.suppress(OSError):
            if server.value('count(dynstack_stack_bytes{job="dynstack"})') >= hosts:
                return
        time.sleep(1)


def timed_fleet(server: Measured, by: str) -> tuple[float, float, int]:
    """The whole command, its queries, and the bytes of their answers; the best times."""
    whole, queries, size = [], [], 0
    for _ in range(QUERIES):
        started = time.perf_counter()
        result = subprocess.run(
            [sys.executable, "-m", "dynstack_probe", "fleet", "--prometheus", server.url,
             "--by", by, "--format", "json", "--verbose", "--timeout", "110"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        whole.append(time.perf_counter() - started)
        told = re.findall(r"^([\d.]+) s, (\d+) bytes", result.stderr, re.MULTILINE)
        queries.append(sum(float(seconds) for seconds, _ in told))
        size = sum(int(count) for _, count in told)
    return min(whole), min(queries), size


def sum_is_right(server: Measured, hosts: int) -> bool:
    """Whether `fleet` says what the hosts' own estimates add up to."""
    result = subprocess.run(
        [sys.executable, "-m", "dynstack_probe", "fleet", "--prometheus", server.url,
         "--format", "json", "--timeout", "110"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    total = json.loads(result.stdout)["total"]
    estimates = [host(number).estimate() for number in range(hosts)]
    return bool(
        total["hosts"] == hosts
        and total["stacks"] == sum(estimate.stacks for estimate in estimates)
        and total["base_kib"] == sum(estimate.base_kib for estimate in estimates)
        and total["dynamic_kib"] == sum(estimate.dynamic_kib for estimate in estimates)
        and total["reserve_kib"] == sum(estimate.reserve_kib for estimate in estimates)
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(page: Path, hosts: int, folder: Path) -> Run:
    """One N, from start to end."""
    with generator(page, hosts) as ports, scraping(folder, hosts, ports) as server:
        wait_for_all(server, hosts)
        time.sleep(SETTLE_SECONDS)
        appended = "prometheus_tsdb_head_samples_appended_total"
        samples, cpu, at = server.own(appended), cpu_seconds(server.pid), time.monotonic()
        time.sleep(MEASURED_SECONDS)
        seconds = time.monotonic() - at
        samples, cpu = server.own(appended) - samples, cpu_seconds(server.pid) - cpu
        rss = int(server.own("process_resident_memory_bytes"))
        up = int(server.value('sum(up{job="dynstack"})'))
        timings = {by: timed_fleet(server, by) for by in ("cpu", "kernel", "host")}
        interval = server.value('prometheus_target_interval_length_seconds{quantile="0.99"}')
        return Run(
            hosts=hosts,
            up=up,
            series=int(server.own("prometheus_tsdb_head_series")),
            samples_a_second=samples / seconds,
            rss_bytes=rss,
            cpus_used=cpu / seconds,
            interval_p99_seconds=interval,
            scrape_seconds=server.value('quantile(0.5, scrape_duration_seconds{job="dynstack"})'),
            rules_seconds=server.value(RULES_SECONDS),
            rules=int(server.value("sum(prometheus_rule_group_rules)")),
            fleet_seconds={by: whole for by, (whole, _, _) in timings.items()},
            query_seconds={by: queries for by, (_, queries, _) in timings.items()},
            answer_bytes={by: size for by, (_, _, size) in timings.items()},
            sum_is_right=sum_is_right(server, hosts),
        )


def bytes_a_sample(page: Path, folder: Path) -> float:
    """What a sample takes in a block of two hours, chunks and index, made by promtool."""
    template = Template(page.read_text(), moving=True)
    text = folder / "metrics.txt"
    start = int(time.time()) // 7200 * 7200 - 4 * 7200
    samples = 0
    with text.open("w") as file:
        for at in range(0, BLOCK_SECONDS, INTERVAL_SECONDS):
            for number in range(BLOCK_HOSTS):
                for line in series_of(template.page(number, at)):
                    name, _, value = line.rpartition(" ")
                    labels = f'instance="{host(number).name}",job="dynstack"'
                    named = (
                        f"{name[:-1]},{labels}}}" if name.endswith("}") else f"{name}{{{labels}}}"
                    )
                    file.write(f"{named} {value} {start + at}\n")
                    samples += 1
        file.write("# EOF\n")
    blocks = folder / "blocks"
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(blocks)],
        check=True, capture_output=True,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
    return size / samples


def table(runs: Sequence[Run], series_a_host: int, sample_bytes: float) -> list[str]:
    """The figures, and what they say of one series."""

    def row(name: str, cells: Sequence[str]) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    first, last = runs[0], runs[-1]
    lines = [
        row("hosts", [f"{run.hosts:,}" for run in runs]),
        "|---|" + "---:|" * len(runs),
        row("of them up", [f"{run.up:,}" for run in runs]),
        row("series in the head", [f"{run.series:,}" for run in runs]),
        row("samples a second, ingested", [f"{run.samples_a_second:,.0f}" for run in runs]),
        row("Prometheus' RSS, MB", [f"{run.rss_bytes / 1e6:,.0f}" for run in runs]),
        row("its CPUs, of 2", [f"{run.cpus_used:.2f}" for run in runs]),
        row(
            f"time between scrapes, 99th percentile of {INTERVAL_SECONDS} s",
            [f"{run.interval_p99_seconds:.2f} s" for run in runs],
        ),
        row("a scrape, in the median", [f"{run.scrape_seconds * 1000:.1f} ms" for run in runs]),
        row("all shipped rules, evaluated once", [_rules(run) for run in runs]),
    ]
    for by in ("cpu", "kernel", "host"):
        cells = [
            f"{run.fleet_seconds[by]:.2f} s ({run.query_seconds[by] * 1000:.0f} ms,"
            f" {run.answer_bytes[by] / 1000:,.0f} kB)"
            for run in runs
        ]
        lines.append(row(f"`fleet --by {by}` (its queries, their answers)", cells))
    lines += [
        row("its total is the sum of the hosts'", [_yes(run.sum_is_right) for run in runs]),
        "",
        f"{series_a_host} series a host.",
    ]
    if last.series > first.series:
        more = (last.rss_bytes - first.rss_bytes) / (last.series - first.series)
        cpu = (last.cpus_used - first.cpus_used) / (last.samples_a_second - first.samples_a_second)
        lines.append(
            f"From {first.hosts:,} to {last.hosts:,} hosts: {more / 1000:.1f} kB of RSS a series,"
            f" {cpu * 1e6:.1f} us of CPU a sample."
        )
    lines.append(
        f"On disk: {sample_bytes:.2f} bytes a sample, in a block of {BLOCK_HOSTS} hosts and two"
        " hours that promtool made of the same pages, index and all."
    )
    return lines


def _rules(run: Run) -> str:
    return f"{run.rules} rules, {run.rules_seconds * 1000:.0f} ms" if run.rules else "no rules"


def _yes(verdict: bool) -> str:
    return "yes" if verdict else "NO"


def main() -> None:
    numbers = [int(argument) for argument in sys.argv[2:]] or list(DEFAULT_HOSTS)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # and end what we started
    # a connection a host, kept open
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    runs = []
    with tempfile.TemporaryDirectory(prefix="dynstack-scale.") as name:
        folder = Path(name)
        page = folder / "page"
        with serving() as daemon:
            page.write_text(with_cgroups(daemon.get("/metrics")))
        series_a_host = len(series_of(page.read_text()))
        sample_bytes = bytes_a_sample(page, folder)
        for hosts in numbers:
            print(f"{hosts} hosts ...", file=sys.stderr)
            runs.append(measure(page, hosts, folder))
            print(runs[-1], file=sys.stderr)
            # after each, so that a run which is ended early leaves what it found
            lines = [_where_and_when(), "", *table(runs, series_a_host, sample_bytes)]
            publish(Path(sys.argv[1]), "make scale", lines)


def _where_and_when() -> str:
    version = subprocess.run(
        ["prometheus", "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[2]
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine.cpu_model()}, {machine.online_cpus()}"
        f" CPUs, {machine.memory_total_kib() >> 20} GiB, Linux {os.uname().release}; Prometheus"
        f" {version} and the generator of the pages share them, with a load average of"
        f" {os.getloadavg()[2]:.0f}. Times are the best of {QUERIES}."
    )


if __name__ == "__main__":
    main()
