# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon as it runs on a host: privileges, signals, scrapes, cleanup."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import ROOT
from tests.live.machine import bpf_objects, free_port, run, sleepers
from tests.trouble import complains

# Every metric in docs/metrics.md, except those that only some kernels have.
PROMISED = (
    "dynstack_tasks",
    "dynstack_stack_bytes",
    "dynstack_policy_stack_bytes",
    "dynstack_policy_reserve_bytes",
    "dynstack_policy_faults_total",
    "dynstack_exited_tasks_total",
    "dynstack_created_tasks_total",
    "dynstack_reused_stacks_total",
    "dynstack_cgroup_stack_bytes",
    "dynstack_cgroup_policy_stack_bytes",
    "dynstack_page_faults_total",
    "dynstack_memory_headroom_bytes",
    "dynstack_calibrated_fault_seconds",
    "dynstack_calibrated_clear_page_seconds",
    "dynstack_host_info",
    "dynstack_build_info",
    "dynstack_scan_duration_seconds",
    "dynstack_bpf_run_seconds_total",
    "dynstack_bpf_runs_total",
    "dynstack_bpf_memory_bytes",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
)


class Serving:
    """A running daemon."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **headers: str) -> str:
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def samples(self) -> dict[str, float]:
        """Each series of /metrics, by its name and labels."""
        return {
            sample.name + str(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
        }

    def status(self, field: str) -> str:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s*(\S+)", text, re.MULTILINE)
        assert found
        return found[1]


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Serving]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "dynstack_probe", "serve", "--listen", f"127.0.0.1:{port}",
         *arguments],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("dynstack-probe: serving http://"), line
        yield Serving(process, port)
    finally:
        process.kill()
        process.communicate()


def fast_config(path: Path, **settings: object) -> Path:
    lines = ["interval_seconds = 1", *(f"{key} = {value}" for key, value in settings.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_promised_metric_is_there_and_no_privilege_is_left() -> None:
    with serving() as daemon:
        names = {series.partition("[")[0] for series in daemon.samples()}
        assert set(PROMISED) <= names
        assert len(daemon.samples()) < 200
        for field in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(daemon.status(field), 16) == 0, field
        assert daemon.status("NoNewPrivs") == "1"
        # every thread, not only the first
        for status in Path(f"/proc/{daemon.process.pid}/task").glob("*/status"):
            assert re.search(r"^CapEff:\s*0+$", status.read_text(), re.MULTILINE)
        assert int(daemon.status("VmRSS")) < 26 * 1024
        page = daemon.get("/")
        assert re.search(r"\d% saved under rfc-v1, modelled", " ".join(page.split()))
        assert daemon.get("/-/healthy")
        assert daemon.get("/-/ready")
        assert "# EOF" in daemon.get("/metrics", Accept="application/openmetrics-text")


def test_the_command_lines_libraries_are_not_in_the_daemons_process(tmp_path: Path) -> None:
    """Python lists what the process imports; its pid and name do not change."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, json, pathlib, sys\n"
        "def tell():\n"
        f"    with pathlib.Path({str(tmp_path / 'modules')!r}).open('a') as file:\n"
        "        file.write(json.dumps(sorted(sys.modules)) + '\\n')\n"
        "atexit.register(tell)\n"
    )
    with serving("--no-page-faults", PYTHONPATH=str(tmp_path)) as daemon:
        process = Path(f"/proc/{daemon.process.pid}")
        words = process.joinpath("cmdline").read_text().split("\0")
        assert daemon.url.replace("http://", "--listen=") in words
        assert "--no-page-faults" in words
        assert process.joinpath("comm").read_text() == "dynstack-probe\n"
        daemon.get("/metrics")
        reset(daemon)
        daemon.get("/metrics")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=5) == 0
    imported = set(json.loads((tmp_path / "modules").read_text().splitlines()[-1]))
    assert "dynstack_probe.serve.daemon" in imported
    assert not imported & {"typer", "click", "rich", "pygal", "psutil", "dynstack_probe.cli"}
    assert not [name for name in imported if name.startswith("dynstack_probe.report")]
    # prometheus_client and TLS would raise it; a client that resets its connection must not
    assert not imported & {"ssl", "_hashlib", "http.server", "urllib.request", "wsgiref"}


def reset(daemon: Serving) -> None:
    """As a client that crashes in the middle of a request."""
    with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_v_reaches_the_daemons_process(tmp_path: Path) -> None:
    """An error's details are printed by the process that raised it, which is another one."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho LLVM is unhappy\nexit 7\n")
    python.chmod(0o755)
    words = ("serve", "--listen", f"127.0.0.1:{free_port()}")
    short = run(*words, DYNSTACK_PROBE_PYTHON=str(python))
    long = run("-v", *words, DYNSTACK_PROBE_PYTHON=str(python))
    assert (short.returncode, long.returncode) == (1, 1)
    assert "exited with code 7 before it had loaded anything" in short.stderr
    assert len(short.stderr.splitlines()) == 1
    assert long.stderr == f"{short.stderr}LLVM is unhappy\n"


def test_counters_move_and_never_fall(tmp_path: Path) -> None:
    config = fast_config(tmp_path / "c.toml")
    with serving("--config", str(config)) as daemon:
        before = daemon.samples()
        subprocess.run(["/bin/sh", "-c", "for i in $(seq 300); do /bin/true; done"], check=True)
        with sleepers(300, b"counted"):
            time.sleep(2.5)
            after = daemon.samples()
        for series, value in before.items():
            if series.partition("[")[0].endswith("_total"):
                assert after[series] >= value, series
        created = "dynstack_created_tasks_total[]"
        assert after[created] - before[created] >= 600
        users = "dynstack_tasks[('kind', 'user'), ('pages', '1')]"
        assert after[users] - before[users] > 200


def test_page_faults_are_told_after_a_turn() -> None:
    deadline = time.monotonic() + 40
    with serving() as daemon:
        faults = "dynstack_page_faults_total[('mode', 'user')]"
        while daemon.samples()[faults] == 0:
            assert time.monotonic() < deadline
            time.sleep(1)
        assert "counted for 1 s about every 15 s" in daemon.get("/metrics")


def test_sigterm_ends_it_at_once_and_leaves_nothing() -> None:
    before = bpf_objects()
    with serving() as daemon:
        assert bpf_objects() - before
        with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))):
            started = time.monotonic()
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(timeout=5) == 0
            assert time.monotonic() - started < 1
    for _ in range(50):
        if not bpf_objects() - before:
            break
        time.sleep(0.1)
    assert bpf_objects() - before == set()


def test_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    config = fast_config(tmp_path / "c.toml")
    with serving("--config", str(config)) as daemon:
        static = "dynstack_policy_stack_bytes[('policy', 'static-8k')]"
        assert static not in daemon.samples()
        assert daemon.process.stderr is not None
        fast_config(config, policies='["rfc-v1", "static-8k"]')
        daemon.process.send_signal(signal.SIGHUP)
        assert "reloaded" in daemon.process.stderr.readline()
        assert static in daemon.samples()
        config.write_text("nonsense = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert "not reloaded" in daemon.process.stderr.readline()
        assert static in daemon.samples()


def test_fifty_scrapers_at_a_time() -> None:
    with serving() as daemon, concurrent.futures.ThreadPoolExecutor(50) as pool:
        pages = list(pool.map(lambda _: daemon.get("/metrics"), range(150)))
        assert all("dynstack_stack_bytes" in page for page in pages)
        assert len(os.listdir(f"/proc/{daemon.process.pid}/task")) < 8  # noqa: PTH208


def test_without_page_faults() -> None:
    with serving("--no-page-faults") as daemon:
        assert "dynstack_page_faults" not in daemon.get("/metrics")


def test_textfile(tmp_path: Path) -> None:
    path = tmp_path / "dynstack.prom"
    with serving("--textfile", str(path)):
        families = {family.name for family in text_string_to_metric_families(path.read_text())}
    assert "dynstack_stack_bytes" in families


def test_systemd_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(5)
        config = fast_config(tmp_path / "c.toml")
        told = ""
        with serving("--config", str(config), NOTIFY_SOCKET=str(path), WATCHDOG_USEC="1000000"):
            while "WATCHDOG=1" not in told:
                told += manager.recv(4096).decode() + "\n"
        assert "READY=1" in told
        assert re.search(r"STATUS=\d+ stacks, .* would save \d", told)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_that_systemd_has_bound(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as bound:
        port = bound.getsockname()[1]
        # as systemd does: descriptor 3, and LISTEN_PID of the process after exec
        start = f'exec 3<&{bound.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        command = [sys.executable, "-m", "dynstack_probe", "serve", "--web.systemd-socket"]
        process = subprocess.Popen(
            ["/bin/bash", "-c", start, "sh", *command],
            cwd=ROOT, stderr=subprocess.PIPE, text=True, pass_fds=[bound.fileno()],
        )  # fmt: skip
        try:
            assert process.stderr is not None
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
            assert process.stderr.readline() == f"dynstack-probe: serving {url}metrics\n"
            with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
                assert b"dynstack_stack_bytes" in answer.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 0
            # systemd keeps the socket: a new connection waits for the next daemon
            socket.create_connection((host, port), timeout=5).close()
        finally:
            process.kill()
            process.communicate()


def test_no_socket_from_systemd() -> None:
    complains(run("serve", "--web.systemd-socket"), 2, ".socket unit")
    complains(run("serve", "--web.systemd-socket", "--listen", ":1"), 2, "not both")


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complains(run("serve", "--listen", f"127.0.0.1:{port}"), 2, str(port))
    complains(run("serve", "--listen", "nonsense"), 2, "HOST:PORT")
    config = tmp_path / "c.toml"
    for text, about in (
        ("intervall = 1", "intervall: unknown key"),
        ("interval_seconds = 'x'", "interval_seconds: must be"),
        ("policies = ['x']", "unknown policy 'x'"),
        ("= 1", "is not valid TOML"),
    ):
        config.write_text(text)
        complains(run("serve", "--config", str(config)), 2, about)
    complains(run("serve", "--config", str(tmp_path / "none")), 2, "No such file")
    complains(run("serve", "--textfile", str(tmp_path / "x.txt")), 2, ".prom")
    web = tmp_path / "web.yml"
    web.write_text("tls_server_config:\n  cert_file: none.pem\n  key_file: none.key\n")
    complains(run("serve", "--web.config.file", str(web)), 2, "none.pem")


def test_a_dead_address_is_not_served() -> None:
    with serving() as daemon:
        with pytest.raises(urllib.error.HTTPError) as caught:
            daemon.get("/nowhere")
        assert caught.value.code == 404
