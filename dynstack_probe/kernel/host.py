# SPDX-License-Identifier: GPL-2.0-or-later
"""The host: processor, memory and kernel counters."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dynstack_probe.kernel.features import Features, Root
from dynstack_probe.model.host import Host


def cpu_model(root: Root | None = None) -> str:
    """The CPU model without trademarks, clock rate and core count."""
    text = (root or Root()).read("proc/cpuinfo") or ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1) if found else os.uname().machine
    name = re.sub(r"\((R|TM|tm|r)\)|\bCPU\b|\bProcessor\b|@.*$|\b\d+-Core\b", " ", name)
    return " ".join(name.split())


def online_cpus() -> int:
    """Online CPUs: each would hold a reserve under the RFC."""
    return os.cpu_count() or 1


def possible_cpus(root: Root | None = None) -> int:
    """One more than the highest CPU number: each possible CPU has an idle task."""
    text = (root or Root()).read("sys/devices/system/cpu/possible") or ""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    return max(numbers) + 1 if numbers else online_cpus()


def figure(file: str, name: str) -> int | None:
    """The number after a name at the start of a line of a /proc file; None if missing."""
    found = re.search(rf"^{name}\s+(\d+)\b", Root().read(file) or "", re.MULTILINE)
    return int(found.group(1)) if found else None


def memory_total_kib() -> int:
    return figure("proc/meminfo", "MemTotal:") or 0


def context_switches() -> int | None:
    """Of the whole host since boot."""
    return figure("proc/stat", "ctxt")


def boot_time() -> int | None:
    """When the kernel booted, Unix time."""
    return figure("proc/stat", "btime")


def peak_rss_kib() -> int:
    return figure("proc/self/status", "VmHWM:") or 0


def this_host(thread_size_bytes: int) -> Host:
    return Host(
        cpu_model=cpu_model(),
        cpus=online_cpus(),
        kernel_release=os.uname().release,
        thread_size_bytes=thread_size_bytes,
        mem_total_kib=memory_total_kib(),
    )


def refresh_vmstat(features: Features) -> bool:
    """Fold the per-CPU counters into /proc/vmstat; False if that was not done.

    Root only. It runs a kworker on every CPU and waits for it, so it is skipped on hosts with
    isolated CPUs.
    """
    if features.isolated_cpus():
        return False
    try:
        Path("/proc/sys/vm/stat_refresh").read_bytes()
    except OSError:
        return False
    return True


def kernel_stack_count(features: Features, thread_size_bytes: int) -> tuple[int, int] | None:
    """nr_kernel_stack in KiB, and the number of stacks that it amounts to.

    With dynamic stacks nr_kernel_stack holds the pages present, of which
    nr_dynamic_stacks_faults were grown beyond each stack's first (RFC, 14/14).
    """
    counters = features.vmstat()
    kib = counters.get("nr_kernel_stack")
    if kib is None:
        return None
    grown_kib = counters.get("nr_dynamic_stacks_faults")
    if grown_kib is not None:
        return kib, (kib - grown_kib) * 1024 // os.sysconf("SC_PAGE_SIZE")
    return kib, kib * 1024 // thread_size_bytes
