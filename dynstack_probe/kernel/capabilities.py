"""Whether this process may load BPF programs.

bpf() asks for CAP_BPF and, for programs that read kernel memory, CAP_PERFMON;
CAP_SYS_ADMIN counts as both (include/linux/capability.h, since Linux 5.8).
"""

from __future__ import annotations

from pathlib import Path

# linux/capability.h
CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38}
CAP_SYS_ADMIN = 21
STATUS = Path("/proc/self/status")


def effective() -> int:
    """This process's effective capability set, as a bit mask."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def missing_for_bpf(mask: int | None = None) -> list[str]:
    """The names of the capabilities that `mask` (default: ours) lacks."""
    mask = effective() if mask is None else mask
    if mask >> CAP_SYS_ADMIN & 1:
        return []
    return [name for name, bit in CAPABILITIES.items() if not mask >> bit & 1]


def explain_missing() -> str:
    """One line that names what is missing and how to get it."""
    missing = " and ".join(missing_for_bpf())
    return (
        f"not permitted to read kernel stacks: {missing} missing;"
        " run with sudo, or grant CAP_BPF and CAP_PERFMON (see dynstack-probe doctor)"
    )
