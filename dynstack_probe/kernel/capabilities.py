# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this process may load BPF programs.

bpf() asks for CAP_BPF and, for programs that read kernel memory, CAP_PERFMON;
CAP_SYS_ADMIN implies both (include/linux/capability.h, since Linux 5.8).
"""

from __future__ import annotations

from pathlib import Path

# linux/capability.h
CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38}
CAP_SYS_ADMIN = 21
STATUS = Path("/proc/self/status")
UID_MAP = Path("/proc/self/uid_map")
PERF_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


def effective() -> int:
    """This process's effective capability set, as a bit mask."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def missing_for_bpf(mask: int | None = None) -> list[str]:
    """The capabilities, by name, that `mask` (default: ours) lacks."""
    mask = effective() if mask is None else mask
    if mask >> CAP_SYS_ADMIN & 1:
        return []
    return [name for name, bit in CAPABILITIES.items() if not mask >> bit & 1]


def explain_missing() -> str:
    missing = " and ".join(missing_for_bpf())
    return (
        f"not permitted to read kernel stacks: {missing} missing;"
        " run with sudo, or grant CAP_BPF and CAP_PERFMON (see dynstack-probe doctor)"
    )


# Debian's and Ubuntu's kernels have levels above 2, which CAP_PERFMON does not override.
LARGEST_PARANOIA = 2


def explain_refused_perf_event() -> str:
    """Why a perf event may have been refused to a process with CAP_PERFMON."""
    paranoid = PERF_PARANOID.read_text().strip() if PERF_PARANOID.exists() else ""
    is_admin = effective() >> CAP_SYS_ADMIN & 1
    if paranoid.lstrip("-").isdigit() and int(paranoid) > LARGEST_PARANOIA and not is_admin:
        return (
            f"kernel.perf_event_paranoid={paranoid} leaves perf events to CAP_SYS_ADMIN:"
            " run with sudo, or sysctl kernel.perf_event_paranoid=2"
        )
    return explain_refusal()


def explain_refusal() -> str:
    """Why the kernel may have refused what our capabilities would allow, and what to do."""
    if UID_MAP.exists() and UID_MAP.read_text().split() != ["0", "0", "4294967295"]:
        return "in a user namespace capabilities do not count: run on the host"
    if "\nSeccomp:\t2\n" in STATUS.read_text():
        return "a seccomp filter, as containers have, forbids it: allow it, or run on the host"
    return (
        "neither a user namespace nor a seccomp filter is the reason: a security module"
        " (AppArmor, SELinux) may be, see the kernel log"
    )
