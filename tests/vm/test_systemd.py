# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package as a Debian runs it: apt, systemd as PID 1, the unit as shipped.

One machine, one boot: installed, reloaded, hung, revived, stopped, socket-activated, purged.
Each fixture is a stage of it and only records; the tests decide what is right. Part of
`make vm-test`.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import ROOT
from tests.vm.debian_root import MODULES, SHARED, Answer, Guest, booted, depends, get_root
from tests.vm.machine import UnavailableError, check_host, get_kernel, run

if os.environ.get("DYNSTACK_VM") != "all":
    pytest.skip("takes minutes: make vm-test", allow_module_level=True)

NAME = "dynstack-probe"
KERNEL_SERIES = "6.1"
# WatchdogSec= counts from the last sign of life, up to half of it ago; a busy machine adds to it.
WATCHDOG_SECONDS = range(28, 90)
STOP_SECONDS = 5
SERVING = "dynstack-probe: serving http://127.0.0.1:10016/metrics"
RELOADED = "dynstack-probe: configuration reloaded"
RELOAD_TIMEOUT_SECONDS = 60
# TimeoutStartSec= ends it earlier.
START_TIMEOUT_SECONDS = 240
REVIVAL_TIMEOUT_SECONDS = 300
POLL_SECONDS = 2
# A privileged port.
PORT = 80
SCRAPE = f"""
import urllib.request
with urllib.request.urlopen("http://127.0.0.1:{PORT}/metrics", timeout=240) as answer:
    print(answer.read().decode())
"""
BIND = f"""
cp /etc/default/{NAME} /tmp/default
echo DYNSTACK_PROBE_OPTIONS=--web.systemd-socket >>/etc/default/{NAME}
sed s/:10016/:{PORT}/ /usr/share/doc/{NAME}/{NAME}.socket >/etc/systemd/system/{NAME}.socket
systemctl daemon-reload
systemctl enable --now {NAME}.socket
"""
UNBIND = f"""
systemctl disable --now {NAME}.socket
systemctl stop {NAME}
rm /etc/systemd/system/{NAME}.socket
mv /tmp/default /etc/default/{NAME}
systemctl daemon-reload
"""
# systemd.exec(5): where DynamicUser= takes its users from.
DYNAMIC_USERS = range(61184, 65520)
PROPERTIES = (
    *("ActiveState", "SubState", "Result", "MainPID", "NRestarts", "Type", "NotifyAccess"),
    *("StatusText", "ExecMainCode", "ExecMainStatus", "UID", "UnitFileState"),
    *("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
    *("ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic"),
)


class Page(NamedTuple):
    """What the daemon answered to an HTTP request from this machine."""

    status: int
    text: str

    @property
    def metrics(self) -> dict[str, float]:
        """Each metric, summed over its labels."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return sums


class Stage(NamedTuple):
    """The service at one moment of its life."""

    unit: dict[str, str]
    journal: list[dict[str, Any]]
    page: Page


def unit_state(guest: Guest) -> dict[str, str]:
    wanted = ",".join(PROPERTIES)
    lines = guest.tell("systemctl", "show", NAME, "--property", wanted).splitlines()
    return dict(line.split("=", 1) for line in lines)


def journal(guest: Guest, *options: str) -> list[dict[str, Any]]:
    """What the unit and systemd said of it, in order."""
    text = guest.tell("journalctl", "--unit", NAME, "--output", "json", "--no-pager", *options)
    return [json.loads(line) for line in text.splitlines()]


def said(entries: list[dict[str, Any]]) -> list[str]:
    """The daemon's own messages, without systemd's about it."""
    return [entry["MESSAGE"] for entry in entries if entry["_PID"] != "1"]


def process_status(guest: Guest, unit: dict[str, str]) -> dict[str, str]:
    """The daemon's /proc/PID/status."""
    lines = guest.tell("cat", f"/proc/{unit['MainPID']}/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def fetch(guest: Guest, path: str) -> Page:
    with urllib.request.urlopen(guest.url + path, timeout=60) as answer:
        return Page(answer.status, answer.read().decode())


def wait_for(guest: Guest, wanted: dict[str, str], timeout: float) -> dict[str, str]:
    """The unit's state once it is as wanted; fails with the journal if that never is."""
    deadline = time.monotonic() + timeout
    while True:
        unit = unit_state(guest)
        if wanted.items() <= unit.items():
            return unit
        if time.monotonic() > deadline:
            messages = "\n".join(entry["MESSAGE"] for entry in journal(guest))
            pytest.fail(f"not {wanted} within {timeout:g} s, but {unit}; its journal:\n{messages}")
        time.sleep(POLL_SECONDS)


def stage(guest: Guest, unit: dict[str, str]) -> Stage:
    return Stage(unit, journal(guest), fetch(guest, "/metrics"))


def kernel_objects(guest: Guest) -> dict[str, str]:
    """BPF programs and maps by id, less the programs by which systemd fences in its units."""
    objects = {}
    for kind in ("prog", "map"):
        for entry in json.loads(guest.tell("bpftool", "--json", kind, "list")):
            if not entry["type"].startswith("cgroup_"):
                objects[f"{kind} {entry['id']}"] = f"{entry['type']} {entry.get('name', '')}"
    return objects


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A Debian without the package, which is in a folder of its own there."""
    folder = tmp_path_factory.mktemp("shared")
    try:
        check_host()
        built = run([str(ROOT / "packaging/build-deb.sh"), str(folder)], cwd=folder)
        kernel = get_kernel(KERNEL_SERIES, MODULES)
        image = get_root(depends(Path(built.strip())))
    except UnavailableError as error:
        pytest.fail(f"no Debian was booted: {error}")
    with booted(kernel, image, folder) as machine:
        yield machine


@pytest.fixture(scope="module")
def clean_kernel(guest: Guest) -> dict[str, str]:
    return kernel_objects(guest)


class Installed(NamedTuple):
    """After apt's work, which has also started it."""

    stage: Stage
    ready: Page
    status: dict[str, str]
    kernel: dict[str, str]
    errors: list[dict[str, Any]]
    verified: Answer


@pytest.fixture(scope="module")
def installed(guest: Guest, clean_kernel: dict[str, str]) -> Installed:
    (deb,) = guest.tell("sh", "-c", f"echo {SHARED}/*.deb").split()
    guest.tell("apt-get", "install", "--yes", deb)
    unit = wait_for(guest, {"ActiveState": "active"}, START_TIMEOUT_SECONDS)
    return Installed(
        stage=stage(guest, unit),
        ready=fetch(guest, "/-/ready"),
        status=process_status(guest, unit),
        kernel=kernel_objects(guest),
        errors=journal(guest, "--priority", "err"),
        # this small Debian has no man
        verified=guest.ask("systemd-analyze", "verify", "--man=no", f"{NAME}.service"),
    )


@pytest.fixture(scope="module")
def reloaded(guest: Guest, installed: Installed) -> Stage:
    guest.tell("systemctl", "reload", NAME)
    deadline = time.monotonic() + RELOAD_TIMEOUT_SECONDS
    # the signal has been sent; the daemon says by itself when it is done
    while RELOADED not in said(journal(guest)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return stage(guest, unit_state(guest))


class Revived(NamedTuple):
    """After systemd's watchdog has restarted a hung daemon."""

    stage: Stage
    stopped_at: float


@pytest.fixture(scope="module")
def revived(guest: Guest, reloaded: Stage) -> Revived:
    stopped_at = float(guest.tell("cut", "-d ", "-f1", "/proc/uptime"))
    guest.tell("systemctl", "kill", "--kill-who=main", "--signal=STOP", NAME)
    revival = {"ActiveState": "active", "NRestarts": "1"}
    return Revived(stage(guest, wait_for(guest, revival, REVIVAL_TIMEOUT_SECONDS)), stopped_at)


class Gone(NamedTuple):
    """After the service or the package went."""

    unit: dict[str, str]
    kernel: dict[str, str]


@pytest.fixture(scope="module")
def stopped(guest: Guest, revived: Revived) -> Gone:
    guest.tell("systemctl", "stop", NAME)
    return Gone(unit_state(guest), kernel_objects(guest))


class Bound(NamedTuple):
    """Started by the first scrape of a socket that systemd listens on."""

    before: dict[str, str]
    stage: Stage
    status: dict[str, str]


@pytest.fixture(scope="module")
def bound(guest: Guest, stopped: Gone) -> Bound:
    guest.tell("sh", "-ec", BIND)
    before = unit_state(guest)
    page = Page(200, guest.tell("python3", "-c", SCRAPE))
    unit = unit_state(guest)
    status = process_status(guest, unit)
    found = Bound(before, Stage(unit, journal(guest), page), status)
    guest.tell("sh", "-ec", UNBIND)
    return found


class Purged(NamedTuple):
    """After apt has removed it while it ran."""

    kernel: dict[str, str]
    files: str
    active: Answer


@pytest.fixture(scope="module")
def purged(guest: Guest, bound: Bound) -> Purged:
    guest.tell("systemctl", "start", NAME)
    guest.tell("apt-get", "purge", "--yes", NAME)
    return Purged(
        kernel=kernel_objects(guest),
        files=guest.tell("find", "/", "-xdev", "-name", "*dynstack*"),
        active=guest.ask("systemctl", "is-active", NAME),
    )


def check_metrics(page: Page) -> None:
    metrics = page.metrics
    assert metrics["dynstack_stacks_read"] > 0, "no stack was read"
    assert metrics["dynstack_created_tasks_total"] >= 0
    assert metrics["dynstack_exited_tasks_total"] >= 0
    assert metrics["dynstack_lost_events_total"] == 0
    assert metrics["dynstack_bpf_runs_total"] > 0, "no BPF program has run"


def seconds(unit: dict[str, str], since: str, until: str) -> float:
    """Between two of a unit's timestamps."""
    microseconds = [int(unit[f"{name}TimestampMonotonic"]) for name in (until, since)]
    return (microseconds[0] - microseconds[1]) / 1e6


def test_the_shipped_unit_is_sound(installed: Installed) -> None:
    assert installed.verified.code == 0, installed.verified.said
    assert installed.verified.said == "", "systemd-analyze verify has something to say"


def test_apt_starts_it_and_it_says_itself_when_it_is_ready(installed: Installed) -> None:
    unit = installed.stage.unit
    assert (unit["ActiveState"], unit["SubState"]) == ("active", "running")
    assert unit["UnitFileState"] == "enabled", "it would not start at the next boot"
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
    status = r"\d+ stacks, \d+ KiB; rfc-v1 would save \d+\.\d\d%"
    assert re.fullmatch(status, unit["StatusText"]), "the daemon's STATUS= did not arrive"
    # bcc alone takes that long, emulated: systemd waited for READY=1
    assert seconds(unit, since="ExecMainStart", until="ActiveEnter") > 0.5
    assert unit["NRestarts"] == "0", "it took more than one start"


def test_it_answers_through_a_forwarded_port(installed: Installed) -> None:
    assert installed.ready.status == 200, "/-/ready"
    check_metrics(installed.stage.page)


def test_price_and_headroom_are_told_from_inside_the_sandbox(revived: Revived) -> None:
    """Its filters refuse much: what is refused is left out of the page."""
    families = {f.name: f.samples for f in text_string_to_metric_families(revived.stage.page.text)}
    modes = {s.labels["mode"]: s.value for s in families["dynstack_page_faults"]}
    assert modes.keys() == {"user", "kernel"}
    for name in ("calibrated_fault_seconds", "calibrated_clear_page_seconds"):
        assert 0 < families[f"dynstack_{name}"][0].value < 0.01
    assert families["dynstack_memory_headroom_bytes"][0].value > 0


def test_it_holds_no_privilege(installed: Installed) -> None:
    status = installed.status
    held = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")}
    assert set(held.values()) == {0}, f"capabilities are left: {held}"
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "no seccomp filter"
    users = {int(number) for number in status["Uid"].split()}
    assert len(users) == 1, users
    assert users <= set(DYNAMIC_USERS), f"user {users} is none of DynamicUser="


def test_the_journal_has_no_errors(installed: Installed) -> None:
    assert installed.errors == [], "journalctl -p err"
    assert said(installed.stage.journal) == [SERVING]


def test_reload_keeps_the_process(installed: Installed, reloaded: Stage) -> None:
    assert said(reloaded.journal) == [SERVING, RELOADED]
    assert reloaded.unit["ActiveState"] == "active"
    assert reloaded.unit["MainPID"] == installed.stage.unit["MainPID"]
    check_metrics(reloaded.page)


def test_the_watchdog_restarts_it_when_it_hangs(reloaded: Stage, revived: Revived) -> None:
    unit = revived.stage.unit
    assert (unit["ActiveState"], unit["NRestarts"]) == ("active", "1")
    assert unit["MainPID"] != reloaded.unit["MainPID"]
    messages = [entry["MESSAGE"] for entry in revived.stage.journal]
    assert f"{NAME}.service: Failed with result 'watchdog'." in messages, messages
    (timed_out,) = (entry for entry in revived.stage.journal if "Watchdog" in entry["MESSAGE"])
    took = int(timed_out["__MONOTONIC_TIMESTAMP"]) / 1e6 - revived.stopped_at
    assert int(took) in WATCHDOG_SECONDS, f"{took:g} s from SIGSTOP to the watchdog"
    check_metrics(revived.stage.page)


def test_stop_is_quick_and_leaves_nothing_in_the_kernel(
    clean_kernel: dict[str, str], installed: Installed, stopped: Gone
) -> None:
    unit = stopped.unit
    assert (unit["ActiveState"], unit["SubState"]) == ("inactive", "dead")
    assert unit["Result"] == "success", f"ended by {unit['ExecMainStatus']}"
    took = seconds(unit, since="ActiveExit", until="InactiveEnter")
    assert took < STOP_SECONDS, f"stop took {took:g} s"
    assert installed.kernel.keys() - clean_kernel.keys(), "its BPF programs were never seen"
    left = {name: what for name, what in stopped.kernel.items() if name not in clean_kernel}
    assert left == {}


def test_a_port_that_systemd_binds_needs_no_right_and_a_scrape_starts_it(bound: Bound) -> None:
    assert bound.before["ActiveState"] == "inactive"
    check_metrics(bound.stage.page)
    assert bound.stage.unit["ActiveState"] == "active"
    assert said(bound.stage.journal)[-1] == SERVING.replace("10016", str(PORT))
    held = {name: int(bound.status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")}
    assert set(held.values()) == {0}, f"capabilities are left: {held}"


def test_purge_removes_it_while_it_runs(clean_kernel: dict[str, str], purged: Purged) -> None:
    assert purged.active.stdout.strip() != "active"
    assert purged.files.split() == []
    left = {name: what for name, what in purged.kernel.items() if name not in clean_kernel}
    assert left == {}
