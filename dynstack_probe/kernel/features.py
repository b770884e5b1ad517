# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's build options and state, detected by inspection, not by version."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel.btf import KIND_VAR, Btf

# include/linux/proc_ns.h: PROC_PID_INIT_INO
INITIAL_PID_NAMESPACE = 0xEFFFFFFC

IN_LOCKDOWN = (
    "the kernel is in lockdown mode confidentiality, in which BPF may not read"
    " kernel memory: boot with lockdown=integrity or less"
)


@dataclass(frozen=True)
class Root:
    """Where /proc, /sys and /boot are: another folder in tests."""

    path: Path = Path("/")

    def read(self, name: str) -> str | None:
        """The text of a small file below it; None if it can't be read."""
        try:
            return (self.path / name).read_text(errors="replace")
        except OSError:
            return None


@dataclass(frozen=True)
class Features:
    """Properties of the running kernel. None: unknown."""

    root: Root = Root()

    @cached_property
    def config(self) -> dict[str, str]:
        """CONFIG_ options as built; {} where the kernel does not show them."""
        release = os.uname().release
        for name in ("proc/config.gz", f"boot/config-{release}", f"lib/modules/{release}/config"):
            path = self.root.path / name
            try:
                raw = path.read_bytes()
                text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
            except (OSError, EOFError, UnicodeDecodeError):
                continue
            pairs = (line.split("=", 1) for line in text.splitlines() if line[:7] == "CONFIG_")
            return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        return {}

    def built_with(self, option: str) -> bool | None:
        """Whether CONFIG_`option` is set to y."""
        if not self.config:
            return None
        return self.config.get(f"CONFIG_{option}") == "y"

    def command_line(self, parameter: str) -> str | None:
        """The value of a boot parameter; the last one counts."""
        words = (self.root.read("proc/cmdline") or "").split()
        values = [word.split("=", 1)[1] for word in words if word.startswith(f"{parameter}=")]
        return values[-1] if values else None

    def lockdown(self) -> str | None:
        """none, integrity or confidentiality (kernel_lockdown(7)).

        Without securityfs, the boot parameter's; it can only have been raised since.
        """
        folder = self.root.path / "sys/kernel/security"
        text = self.root.read("sys/kernel/security/lockdown")
        if text is not None and "[" in text:
            return text.split("[", 1)[1].split("]", 1)[0]
        if (folder / "lsm").exists():  # mounted: the kernel has no lockdown
            return "none"
        chosen = self.command_line("lockdown")
        return chosen if chosen in ("integrity", "confidentiality") else None

    def in_initial_pid_namespace(self) -> bool | None:
        """Whether every task of the host is visible."""
        try:
            return (self.root.path / "proc/self/ns/pid").stat().st_ino == INITIAL_PID_NAMESPACE
        except OSError:
            return None

    def isolated_cpus(self) -> bool:
        """Whether some CPUs are isolated (isolcpus=, nohz_full=)."""
        folder = "sys/devices/system/cpu"
        texts = [self.root.read(f"{folder}/{name}") for name in ("isolated", "nohz_full")]
        return any((text or "").strip() not in ("", "(null)") for text in texts)

    def vmstat(self) -> dict[str, int]:
        """/proc/vmstat as name to value; {} if it can't be read."""
        counters: dict[str, int] = {}
        for line in (self.root.read("proc/vmstat") or "").splitlines():
            name, _, value = line.partition(" ")
            if value.isdigit():
                counters[name] = int(value)
        return counters

    def dynamic_stacks(self) -> bool:
        """Whether this kernel already grows stacks on demand (the RFC's counter)."""
        return "nr_dynamic_stacks_faults" in self.vmstat()

    def debug_stack_usage(self) -> bool | None:
        """CONFIG_DEBUG_STACK_USAGE: sysrq-t and, since 6.12, kstack_* in vmstat."""
        if any(name.startswith("kstack_") for name in self.vmstat()):
            return True
        return self.built_with("DEBUG_STACK_USAGE")

    def kstack_erase(self, btf: Btf) -> bool | None:
        """Whether used stack is overwritten on return to user mode; None: not built in.

        include/linux/kstack_erase.h (stackleak.h before commit 57fbad15c2ee, in 6.17): a
        task that has returned to user mode once has poison, not zero, down to the end of its
        stack.
        """
        if btf.find("task_struct.lowest_stack") is None:
            return None
        return (self.root.read("proc/sys/kernel/stack_erasing") or "1").strip() != "0"

    def random_offset(self, btf: Btf) -> bool | None:
        """Whether each system call starts at a random stack offset.

        kstack_offset is a per-CPU variable, or where "randomize_kstack: Maintain
        kstack_offset per task" (2026, stable kernels too) is in, a field of task_struct.
        """
        built = self.built_with("RANDOMIZE_KSTACK_OFFSET")
        if built is None:  # searching all of BTF takes 20 ms
            known = btf.has("kstack_offset", KIND_VAR) or btf.find("task_struct.kstack_offset")
            built = True if known else None
        if not built:
            return built
        chosen = self.command_line("randomize_kstack_offset")
        if chosen is not None:
            return chosen.lower() in ("1", "y", "yes", "on", "t", "true")
        return self.built_with("RANDOMIZE_KSTACK_OFFSET_DEFAULT")


def check_machine(features: Features) -> None:
    """Raise UnmeasurableError where no BPF program could read a stack."""
    machine = os.uname().machine
    if machine != "x86_64":
        raise UnmeasurableError(f"{machine} stacks are not supported: run on x86-64")
    if features.lockdown() == "confidentiality":
        raise UnmeasurableError(IN_LOCKDOWN)
