# SPDX-License-Identifier: GPL-2.0-or-later
"""`cost` in Debian's own kernels: what two capabilities allow, and memory pressure.

One machine a kernel, one life: cost_guest.py notes, the tests say what is right. Part of
`make vm-test`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.vm.cost_guest import PAGES
from tests.vm.machine import MODULES, GuestError, UnavailableError, boot, check_host, get_kernel

if os.environ.get("DYNSTACK_VM") not in ("all", "cost"):
    pytest.skip("takes minutes: make vm-test", allow_module_level=True)

KERNELS = ("6.1", "6.12")
# CAP_PERFMON and CAP_BPF of linux/capability.h
TWO_CAPABILITIES = 1 << 38 | 1 << 39
# Debian's patch to kernel/events/core.c: who may not trace may open no event at all.
DEBIAN_PARANOID = 3
PAGE_KIB = 4
# Longer than `cost` pauses between two samples.
WINDOW_SECONDS = 10.0


@pytest.fixture(scope="module", params=KERNELS)
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    try:
        check_host()
        noted = boot(get_kernel(request.param, MODULES), "2", ["cost", "scarce"])
    except UnavailableError as error:
        pytest.fail(f"no Debian was booted: {error}")
    except GuestError as error:
        pytest.fail(str(error))
    print(f"\n{noted['kernel_release']}")
    return {**noted["cost"], "ballast": noted["scarce"]}


def test_two_capabilities_count_page_faults_by_mode(facts: dict[str, Any]) -> None:
    """To 1%, the least of three: others of the machine only add."""
    assert facts["capabilities"]["effective"] == TWO_CAPABILITIES
    found = facts["page_faults"]
    print(f"page faults, user and kernel: {found}")
    for at, mode in enumerate(("user", "kernel")):
        right = min(one[at] for one in found[mode])
        wrong = min(one[1 - at] for one in found[mode])
        assert PAGES <= right <= PAGES * 1.01, mode
        assert wrong < PAGES * 0.1, mode


def test_perf_s_own_counters_are_refused_where_debian_says_so(facts: dict[str, Any]) -> None:
    """Why page faults are counted by a program; should Debian relent, this fails."""
    print(f"perf_event_paranoid {facts['capabilities']['perf_event_paranoid']}:", end=" ")
    print(facts["perf_counters"])
    assert facts["capabilities"]["perf_event_paranoid"] == DEBIAN_PARANOID
    assert set(facts["perf_counters"].values()) == {"Permission denied"}


def test_contexts_are_refused_to_the_unit_and_the_reason_is_on_the_screen(
    facts: dict[str, Any],
) -> None:
    """perf_event_paranoid=3 again: only root samples."""
    safety = facts["plain"]["safety"]
    print(f"contexts: {safety['not_sampled']}")
    assert safety["contexts"] == {}
    assert "perf_event_paranoid=3" in safety["not_sampled"]
    assert facts["contexts"]["failed"]
    (check,) = (check for check in facts["doctor"] if check["name"] == "cost")
    assert check["status"] == "note"
    assert "contexts can't be sampled" in check["found"]


def test_contexts_are_told_to_root(facts: dict[str, Any]) -> None:
    """Sending to oneself turns bottom halves off, looking up files next to never."""
    noted = facts["contexts_as_root"]
    print(f"contexts as root: {noted}")
    shares = []
    for load in ("look_up_files", "send_to_oneself"):
        counts = noted[load]["contexts"]
        assert sum(counts.values()) > 50
        assert "can't be told" not in counts
        shares.append(counts.get("preemption off", 0) / sum(counts.values()))
    assert shares[0] < shares[1]
    assert noted["send_to_oneself"]["elsewhere"] > 0


def test_reclaim_in_a_cgroup_is_counted(facts: dict[str, Any]) -> None:
    """The counters of the zones see nothing of it; the cgroup's own are the truth."""
    noted = facts["limit"]
    before, after, safety = noted["before"], noted["after"], noted["cost"]["safety"]
    rises = {name: after[name] - before[name] for name in before}
    print(f"meanwhile: {rises}; cost: {safety['cgroup_limit_hits']} limits hit")
    assert rises["max"] > 0
    assert rises["cgroup_pgsteal"] > 1000
    # ... and what `cost` would show of it without asking the cgroups
    assert rises["allocstall"] == rises["pgsteal_direct"] == 0
    assert safety["allocation_stalls"] == safety["direct_reclaimed_pages"] == 0
    assert 0 < safety["cgroup_limit_hits"] <= rises["max"]
    assert safety["cgroup_limit_failures"] == rises["oom"] == 0


def test_the_least_headroom_is_zoneinfo_s(facts: dict[str, Any]) -> None:
    """Down to the low watermark. A sample of `cost` falls into each window of the watcher's."""
    noted = facts["ballast"]
    assert noted["exit_code"] == 0, noted["stderr"]
    safety = noted["cost"]["safety"]
    least = safety["headroom_kib"]["least"] // PAGE_KIB
    watched = [tuple(one) for one in noted["watched"]]
    assert watched
    lowest = min(pages for _, pages in watched)
    held = [(at, pages) for at, pages in watched if noted["began"] <= at <= noted["ended"]]
    highest_of_windows = [
        max(pages for at, pages in held if start <= at <= start + WINDOW_SECONDS)
        for start, _ in held
        if start + WINDOW_SECONDS <= noted["ended"]
    ]
    print(
        f"least of cost {least} pages, watched {lowest} of {len(watched)}; quietest"
        f" {WINDOW_SECONDS:g} s at most {min(highest_of_windows)}; {noted['held'].strip()};"
        f" {safety['below_low_samples']} of {safety['headroom_samples']} samples below low,"
        f" {safety['allocation_stalls']} stalls"
    )
    assert watched[0][1] > 20 * least, "the ballast moved nothing"
    assert lowest <= least <= min(highest_of_windows)
    assert safety["below_low_samples"] > 0
