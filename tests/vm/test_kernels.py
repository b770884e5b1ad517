# SPDX-License-Identifier: GPL-2.0-or-later
"""The tool under Debian's kernels: a matrix of releases, flavours and ways to boot them.

Two kernels, an old one and the newest that the archive has, are part of `make test`, and are
skipped where QEMU or a kernel can't be had. DYNSTACK_VM=all (`make vm-test`) runs the whole
matrix, skips nothing, and writes docs/support.md from what it saw.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dynstack_probe.capture import read_frames
from tests.vm import support
from tests.vm.guest import FORKS, MANY_FORKS, SLEEPERS, SLEEPERS_NAME
from tests.vm.machine import (
    CLOUD_MODULES,
    MODULES,
    GuestError,
    Offer,
    UnavailableError,
    boot,
    by_version,
    check_host,
    image_of,
    offered,
    offers,
    unpacked_kernel,
)

ALL = os.environ.get("DYNSTACK_VM") == "all"
# Run only the case of this name, to debug it: then docs/support.md stays as it is.
ONLY = os.environ.get("DYNSTACK_VM_ONLY", "")
# Kernel threads that may come or go between two counts.
FEW = 5
# dynstack-probe itself and its child, which are tasks too while it runs.
ITSELF = 2

COMMANDS = ["estimate", "policies", "record", "top", "faults", "serve"]
EVERYTHING = ["doctor", *COMMANDS, "marks", "killed", "dmesg"]


@dataclass(frozen=True)
class Case:
    """A kernel, by series or suite, and how it is booted."""

    kernel: str
    how: str = ""
    smp: str = "1"
    options: str = ""
    parts: tuple[str, ...] = tuple(EVERYTHING)

    @property
    def name(self) -> str:
        return f"{self.kernel}{f', {self.how}' if self.how else ''}"


WAYS = (
    Case("", "2 CPUs", smp="2", parts=("doctor", "estimate", "serve", "hotplug", "dmesg")),
    Case("", "10,007 forks on 2 CPUs", smp="2", parts=("forks",)),
    Case("", "4 CPUs", smp="4", parts=("estimate", "serve", "dmesg")),
    Case("", "1 of 4 CPUs online", smp="4", options="maxcpus=1", parts=("estimate", "serve")),
    Case("", "random offset on", options="randomize_kstack_offset=on", parts=("estimate",)),
    Case("", "random offset off", options="randomize_kstack_offset=off", parts=("estimate",)),
    Case(
        "",
        "lockdown=integrity",
        options="lockdown=integrity with_securityfs",
        parts=("doctor", *COMMANDS),
    ),
    Case("", "lockdown=confidentiality", options="lockdown=confidentiality with_securityfs",
         parts=("doctor", *COMMANDS)),
    Case("", "lockdown, no securityfs", options="lockdown=confidentiality",
         parts=("doctor", *COMMANDS)),
    Case("", "no BPF JIT", options="sysctl.net.core.bpf_jit_enable=0", parts=("estimate", "serve")),
    Case("", "hidepid=2", options="hidepid", parts=("estimate",)),
    Case("", "CPU 1 without a tick", smp="2", options="nohz_full=1", parts=("doctor", "estimate")),
    Case("", "a user with CAP_BPF and CAP_PERFMON", parts=("user",)),
    Case("", "cgroup v1 only", options="cgroup_v1_only", parts=("estimate", "serve")),
)  # fmt: skip
MATRIX = [
    *(Case(kernel) for kernel in ("5.10", "6.1", "6.12", "6.12 rt", "6.12 cloud")),
    *(Case(kernel) for kernel in ("newest rt", "newest cloud")),
    *(Case(suite) for suite in ("stable", "stable-backports", "unstable", "experimental")),
    *(
        Case(kernel, way.how, way.smp, way.options, way.parts)
        for kernel in ("newest", "6.12")
        for way in WAYS
    ),
]
SHORT = [
    Case("6.1", parts=("doctor", "estimate", "serve")),
    Case("newest", parts=("doctor", "estimate", "serve")),
]
CASES = [one for one in MATRIX if one.name == ONLY] if ONLY else MATRIX if ALL else SHORT


def offer_of(kernel: str) -> Offer:
    """The archive's newest that is meant. Raises UnavailableError."""
    series, _, flavour = kernel.partition(" ")
    package = f"linux-image-{flavour}-amd64" if flavour else "linux-image-amd64"
    known = [one for one in offers() if one.package == package]
    if series == "newest":
        return max(known, key=by_version)
    chosen = [one for one in known if series in (one.series, suite_of(one.suite))]
    if not chosen:
        raise UnavailableError(f"Debian's archive has no {package} of {series}")
    return chosen[0]


def suite_of(name: str) -> str:
    """madison shows a codename for some suites: what is neither old nor new is stable."""
    codename = name.removesuffix("-backports")
    if codename in ("bullseye", "bookworm", "unstable", "experimental", "sid"):
        return name
    return name.replace(codename, "stable")


@cache
def booted(offer: Offer, smp: str, options: str, parts: tuple[str, ...]) -> dict[str, Any]:
    """What guest.py noted; each machine runs once, however many names its kernel has."""
    what = (offer, smp, options, parts)
    facts = support.kept(what) if ALL else None
    if facts:
        return facts
    kernel = unpacked_kernel(offer, CLOUD_MODULES if "cloud" in offer.package else MODULES)
    facts = boot(kernel, smp, list(parts), options)
    assert facts["kernel_release"] == kernel.release
    return support.keep(what, facts) if ALL else facts


@pytest.fixture(scope="session", autouse=True)
def written() -> Iterator[None]:
    """After a whole run: docs/support.md."""
    support.SEEN.clear()
    yield
    if ALL and not ONLY:
        support.write(len(MATRIX))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    one: Case = request.param
    return one


@pytest.fixture(scope="module")
def guest(case: Case) -> dict[str, Any]:
    """What guest.py noted in a machine that has ended."""
    give_up = pytest.fail if ALL else pytest.skip
    try:
        check_host()
        offer = offer_of(case.kernel)
        started = time.monotonic()
        facts = booted(offer, case.smp, case.options, case.parts)
    except UnavailableError as error:
        give_up(f"{case.name} was not tried: {error}")
    except GuestError as error:
        support.note(case.kernel, case.how, None, {}, "did not boot or hung")
        pytest.fail(str(error))
    took = time.monotonic() - started
    print(f"{case.name}: {facts['kernel_release']}, {took:.0f} s", file=sys.__stderr__, flush=True)
    support.note(case.kernel, case.how, offer, facts, "")
    if ALL and not ONLY:
        support.write(len(MATRIX))  # as far as it got, should the run be ended
    return facts


def needs(guest: dict[str, Any], part: str) -> dict[str, Any]:
    """What a part noted; skips where the case has none, or the kernel refused it."""
    if part not in guest:
        pytest.skip(f"not part of this case: {part}")
    facts: dict[str, Any] = guest[part]
    if support.refusal(part, facts):
        pytest.skip(f"this kernel refuses it: {support.refusal(part, facts)}")
    return facts


def test_every_command_works_or_refuses_in_one_line(case: Case, guest: dict[str, Any]) -> None:
    for part in COMMANDS:
        if part not in guest:
            continue
        code, lines = support.outcome(part, guest[part])
        assert code in (0, 3), (part, lines)
        if code == 3:
            assert len(lines) == 1, (part, lines)
            assert lines[0].startswith("dynstack-probe: "), lines
            assert case.kernel == "5.10" or "confidentiality" in case.options, (part, lines)


def test_the_guest_is_what_the_case_says(case: Case, guest: dict[str, Any]) -> None:
    way, options = guest["way"], case.options.split()
    cpus = int(case.smp)
    assert guest["possible_cpus"] == cpus
    assert guest["online_cpus"] == (1 if "maxcpus=1" in options else cpus)
    assert set(options) <= set(way["command_line"].split())
    assert not {"tracefs", "debugfs"} & set(way["kinds"])
    assert way["bpf_jit_enable"] == ("0" if "sysctl.net.core.bpf_jit_enable=0" in options else "1")
    assert ("hidepid=" in way["proc"]) == ("hidepid" in options)
    assert way["cgroup"] == ("tmpfs" if "cgroup_v1_only" in options else "cgroup2")
    if "with_securityfs" in options:
        level = case.options.partition("lockdown=")[2].split()[0]
        assert f"[{level}]" in way["lockdown"]
    else:
        assert way["lockdown"] is None
    if "nohz_full=1" in options:
        assert way["nohz_full"] == "1"


def test_doctor_says_what_the_commands_then_do(guest: dict[str, Any]) -> None:
    if "doctor" not in guest:
        pytest.skip("not part of this case")
    document = json.loads(guest["doctor"]["stdout"])
    refused = [part for part in COMMANDS if part in guest and support.refusal(part, guest[part])]
    assert document["exit_code"] == guest["doctor"]["exit_code"]
    promised = {
        part: code for names, code in document["commands"].items() for part in names.split(", ")
    }
    did = {part: support.outcome(part, guest[part])[0] for part in COMMANDS if part in guest}
    assert did == {part: promised.get(part, promised["estimate"]) for part in did}, document
    if not refused:
        assert document["exit_code"] == 0, document
        assert not [c for c in document["checks"] if c["status"] == "missing"]
    else:
        missing = [c for c in document["checks"] if c["status"] == "missing"]
        assert missing, document


def test_estimate_reads_every_stack(guest: dict[str, Any]) -> None:
    run = needs(guest, "estimate")["run"]
    document = json.loads(run["stdout"])
    groups = {group["name"]: group["stacks"] for group in document["groups"]}
    assert groups[SLEEPERS_NAME] == SLEEPERS

    # CPU 0's idle task has a static stack; those of all other possible CPUs are counted
    idle = guest["possible_cpus"] - 1
    assert document["measured"]["idle_tasks"] == idle
    coverage = document["coverage"]
    tasks = sorted((guest["estimate"]["tasks_before"], guest["estimate"]["tasks_after"]))
    assert tasks[0] + idle - FEW <= coverage["read"] <= tasks[1] + idle + ITSELF + FEW
    assert coverage["kernel_count_exact"] == ("nohz_full" not in guest["way"]["command_line"])
    assert abs(coverage["kernel_stacks"] - coverage["read"]) <= FEW
    assert coverage["missed"] <= FEW
    # the boot CPU's stack: from 6.16 on padding fills it, which is no mark
    boot_mark = coverage["boot_idle_mark_bytes"]
    assert boot_mark is None or 500 < boot_mark < 15000


def test_doctor_says_where_the_kernels_count_is_approximate(guest: dict[str, Any]) -> None:
    document = json.loads(needs(guest, "doctor")["stdout"])
    if support.refusal("estimate", guest["estimate"]):
        pytest.skip("nothing is read here")
    told = [check["found"] for check in document["checks"] if ", missed " in check["found"]]
    assert len(told) == 1, document
    approximate = "the kernel's count is approximate here" in told[0]
    assert approximate == ("nohz_full" in guest["way"]["command_line"])


def test_two_capabilities_are_enough(guest: dict[str, Any]) -> None:
    facts = needs(guest, "user")
    assert int(facts["perf_event_paranoid"]) == 3  # Debian's, which CAP_PERFMON does not open
    runs = {name: facts[name] for name in ("doctor", "policies", "faults", "record")}
    runs["estimate"] = facts["estimate"]["run"]
    assert {name: run["exit_code"] for name, run in runs.items()} == dict.fromkeys(runs, 0), runs
    for run in runs.values():
        assert "seccomp" not in run["stdout"] + run["stderr"]
    faults = facts["faults"]
    assert "kernel.perf_event_paranoid=3 leaves perf events" in faults["stdout"] + faults["stderr"]
    assert json.loads(faults["stdout"])["cost"]["syscalls"] > 100


def test_marks_are_those_of_kcore(guest: dict[str, Any]) -> None:
    facts = needs(guest, "marks")
    if facts["compared"] is None:
        pytest.skip("this kernel has no /proc/kcore")
    assert facts["compared"] >= 30, facts
    assert facts["different"] == []


def test_a_series_is_read_on_the_host(guest: dict[str, Any], tmp_path: Path) -> None:
    facts = needs(guest, "record")
    path = tmp_path / "series.dsp"
    path.write_bytes(base64.b64decode(facts["base64"]))
    frames = list(read_frames(path))
    assert len(frames) >= 2
    assert frames[-1].host.kernel_release == guest["kernel_release"]
    lifecycle = frames[-1].lifecycle
    assert lifecycle is not None
    assert lifecycle.created > 0


def test_top_and_policies_and_faults_say_something(guest: dict[str, Any]) -> None:
    assert "Saving" in needs(guest, "top")["stdout"]
    assert len(json.loads(needs(guest, "policies")["stdout"])["policies"]) >= 16
    document = json.loads(needs(guest, "faults")["stdout"])
    assert document["seconds"] >= 9
    # an emulated CPU gets little done: whether somebody crossed a page is chance
    assert document["cost"]["syscalls"] > 100


def preempts_programs(guest: dict[str, Any]) -> bool:
    """Whether this kernel may pass a tracepoint's program by, and says how often."""
    return int(guest["kernel_release"].partition(".")[0]) >= 7


def test_serve_counts_every_fork_and_exit(guest: dict[str, Any]) -> None:
    facts = needs(guest, "serve")
    assert "after" in facts, f"the daemon did not start: {facts['said']}"
    before, after = facts["before"], facts["after"]

    def rise(metric: str) -> float:
        difference: float = after["metrics"][metric] - before["metrics"][metric]
        return difference

    created = after["created"] - before["created"]
    background = created - FORKS
    assert 0 <= background < FORKS, "too much else went on in the guest"
    assert rise("dynstack_created_tasks_total") == FORKS + background
    more_tasks = after["tasks"] - before["tasks"]
    unread = rise('dynstack_lost_events_total{reason="exit_unread"}')
    assert rise("dynstack_exited_tasks_total") + unread == FORKS + background - more_tasks
    lost = after["metrics"]["dynstack_lost_events_total"]
    if preempts_programs(guest):
        lost -= after["metrics"]['dynstack_lost_events_total{reason="exit_unread"}']
    assert lost == 0
    assert after["metrics"]["dynstack_stacks_read"] == after["tasks"] + guest["possible_cpus"] - 1


def test_no_exit_is_lost_when_many_come_at_once(guest: dict[str, Any]) -> None:
    facts = needs(guest, "forks")
    before, after = facts["before"], facts["after"]["0"]
    created = after["created"] - before["created"]
    background = after["kernel"] - before["kernel"] - MANY_FORKS
    assert background >= 1  # the one that forked
    assert abs(created - MANY_FORKS - background) <= 3
    unread = after["unread"] - before["unread"]
    assert after["exited"] - before["exited"] + unread >= MANY_FORKS + 1
    assert unread <= facts["recursion_misses"]["on_exit"]
    assert unread == 0 or preempts_programs(guest)


def test_serve_keeps_no_capability_and_ends_on_sigterm(guest: dict[str, Any]) -> None:
    facts = needs(guest, "serve")
    assert {int(mask, 16) for mask in facts["effective_capabilities"]} == {0}
    assert facts["exit_code"] == 0


def test_serve_knows_the_way_to_the_names_of_cgroups(guest: dict[str, Any]) -> None:
    facts = needs(guest, "serve")
    assert facts["names_cgroups"]
    assert facts["after"]["metrics"]['dynstack_cgroup_stack_bytes{cgroup="/"}'] > 0


def test_a_cpu_may_go_and_come(guest: dict[str, Any]) -> None:
    facts = needs(guest, "hotplug")
    assert facts["tried"]
    assert facts["alive"]
    off, on = facts["scrapes"]
    assert (off["dynstack_host_cpus"], on["dynstack_host_cpus"]) == (1, 2)
    assert on["dynstack_created_tasks_total"] >= off["dynstack_created_tasks_total"] + 50
    assert on["dynstack_exited_tasks_total"] >= off["dynstack_exited_tasks_total"] + 50


def test_nothing_stays_after_a_kill(guest: dict[str, Any]) -> None:
    facts = needs(guest, "killed")
    assert facts["loaded"] > 0
    assert facts["left"] == []


def test_the_kernel_does_not_complain(guest: dict[str, Any]) -> None:
    assert needs(guest, "dmesg")["lines"] == []


def test_offers_are_read_from_madison() -> None:
    found = offered(
        "linux-image-amd64 | 7.3.4-1~bpo13+1 | http://x trixie-backports/main amd64 Packages\n"
        "linux-image-amd64 |   7.2.13-1 | http://x unstable/main amd64 Packages\n"
        "linux-image-rt-amd64 | 7.3~rc7-1~exp1 | http://x experimental/main amd64 Packages\n"
    )
    assert [(one.package, one.series, one.suite) for one in found] == [
        ("linux-image-amd64", "7.3", "trixie-backports"),
        ("linux-image-amd64", "7.2", "unstable"),
        ("linux-image-rt-amd64", "7.3", "experimental"),
    ]
    assert [suite_of(one.suite) for one in found] == [
        "stable-backports", "unstable", "experimental",
    ]  # fmt: skip
    assert max(found, key=by_version).series == "7.3"


def test_the_image_is_that_of_the_flavour() -> None:
    stanza = (
        "Package: linux-image-cloud-amd64\nDepends: linux-base-cloud-amd64 (= 7.3.4-1),"
        " linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1), linux-modules-cloud-amd64 (= 7.3.4-1)\n"
    )
    assert image_of(stanza, "linux-image-cloud-amd64") == (
        "linux-image-7.3.4+deb13-cloud-amd64",
        "7.3.4+deb13-cloud-amd64",
    )
    with pytest.raises(UnavailableError):
        image_of(stanza, "linux-image-amd64")


def tried(version: str, serve: int, how: str = "") -> support.Seen:
    """A made-up machine on which all works; `serve` ends with that code."""
    said = "dynstack-probe: run Linux 5.19 or later" if serve else ""
    done = {"exit_code": 0, "stdout": "", "stderr": ""}
    facts: dict[str, Any] = {**dict.fromkeys(COMMANDS, done)}
    facts |= {
        "estimate": {"run": {**done, "stdout": '{"coverage": {"read": 9, "kernel_stacks": 9}}'}},
        "serve": {"said": said, "exit_code": serve, **({} if serve else {"after": {}})},
        "run": {"day": "2026-11-28", "commit": "f86d073"},
        "kernel_release": f"{version}-amd64",
    }
    return support.Seen("x", how, Offer("linux-image-amd64", version, "x"), facts, "")


def test_the_page_tells_what_works_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [tried("7.3.4-1", 0), tried("5.10.223-1", 3), tried("6.1.176-1", 0), tried("7.3.4-1", 0)]
    monkeypatch.setattr(support, "SEEN", [*seen, tried("7.3.4-1", 0, "2 CPUs")])
    others = ", ".join(f"`{part}`" for part in COMMANDS if part != "serve")
    assert support.since() == [f"- {others}: since Linux 5.10", "- `serve`: since Linux 6.1"]
    rows = support.table()[2:]
    assert [row.split(" | ")[0].lstrip("| ") for row in rows] == [
        "7.3.4-1-amd64", "5.10.223-1-amd64", "6.1.176-1-amd64", "7.3.4-1-amd64",
    ]  # fmt: skip
    assert "| refused | 9 of 9 |  | 2026-11-28, f86d073 |" in rows[1]
    assert support.refusals() == ["- `serve` on 5.10.223-1-amd64: run Linux 5.19 or later"]


def test_a_command_that_broke_again_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "SEEN", [tried("6.1.176-1", 0), tried("7.3.4-1", 1)])
    assert "- `serve`: not on the newest" in support.since()


def test_what_a_case_noted_is_kept_for_a_day(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(support, "cache_folder", lambda: tmp_path)
    what = (Offer("linux-image-amd64", "7.3.4-1", "x"), "2", "maxcpus=1", ("serve",))
    assert support.keep(what, {"serve": 1})["serve"] == 1
    monkeypatch.setattr(support, "RESUME", False)
    assert support.kept(what) is None  # not asked to go on
    monkeypatch.setattr(support, "RESUME", True)
    known = support.kept(what)
    assert known is not None
    assert known["serve"] == 1
    assert known["run"]["commit"] == support.commit()
    assert support.kept((*what[:2], "", *what[3:])) is None
    (path,) = (tmp_path / "seen").iterdir()
    os.utime(path, (0, time.time() - support.KEPT_SECONDS - 9))
    assert support.kept(what) is None
