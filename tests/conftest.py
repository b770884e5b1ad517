# SPDX-License-Identifier: GPL-2.0-or-later
"""Live tests run wherever BPF does, and a machine with BPF on which none ran has failed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from dynstack_probe.kernel import capabilities
from dynstack_probe.kernel.btf import VMLINUX

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LIVE = Path(__file__).parent / "live"
# What `make check` leaves out, by folder, file or test; live tests are those in live/.
MARKED = {
    "vm/": "vm",
    "packaging/": "slow",
    "scale/": "slow",
    "documents/test_site.py": "slow",
    "documents/test_typed.py::test_it_works": "slow",
    "capture/test_fuzz.py": "slow",
    "capture/test_hostile.py::test_a_bomb": "slow",
    "capture/test_damage.py::test_a_cut_at_every_byte": "slow",
    "capture/test_schema.py::test_what_one_refuses": "slow",
    "httpd/": "slow",
    "loader/": "slow",
    # needs gcc, and a machine that does little else
    "measure/test_calibration.py::test_it_agrees": "slow",
    "report/test_report_in_chromium.py": "browser",
    "results/test_plots_in_chromium.py": "browser",
    "faults/test_flamegraph_in_chromium.py": "browser",
    "report/test_report_of_prometheus.py": "prometheus",
    "fleet/test_live_fleet.py": "prometheus",
    "fleet/test_same_cost.py": "prometheus",
    "grafana/test_queries.py": "prometheus",
    "grafana/test_rules.py": "prometheus",
}

# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))


def why_no_bpf() -> str | None:
    """What keeps this machine from running live tests; None if nothing does."""
    if os.uname().machine != "x86_64":
        return f"{os.uname().machine} is not x86-64"
    if not VMLINUX.exists():
        return f"no {VMLINUX}"
    missing = capabilities.missing_for_bpf()
    return f"{' and '.join(missing)} missing" if missing else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_bpf()
    for item in items:
        where = item.nodeid.removeprefix("tests/")
        for start, marker in MARKED.items():
            if where.startswith(start):
                item.add_marker(marker)
        if LIVE in item.path.parents:
            item.add_marker(pytest.mark.live)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"needs BPF: {reason}"))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal has it, for whoever the test starts inherits it.

    A shell's background ignores it, and so does a command that was run in this process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


class LiveTally:
    """Counts live tests, so that a run which skipped them all can't pass for a good one."""

    collected = 0
    passed = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = sum(1 for item in session.items if item.get_closest_marker("live"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed and "live" in report.keywords:
            self.passed += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.collected and not self.passed and why_no_bpf() is None:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reason = why_no_bpf()
        told = f"did not run: {reason}" if reason else f"passed: {self.passed}"
        terminalreporter.write_line(f"live tests: {self.collected}, {told}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LiveTally(), "live-tally")


@pytest.fixture
def kernel_root(tmp_path: Path) -> Path:
    """A folder that stands for / of another machine."""
    for folder in ("proc/self/ns", "proc/sys/kernel", "sys/kernel/security", "boot"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; one for a file of tests."""
    from tests.chromium import chromium

    with chromium() as started:
        yield started
