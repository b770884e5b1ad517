"""What the probes must know of this kernel's structures, as C macros.

`task_struct.thread.sp` becomes TASK_STRUCT_THREAD_SP, its offset in bytes.
"""

from __future__ import annotations

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel.btf import Btf

# Field, and what its absence means where that is known.
REQUIRED_FIELDS = {
    "task_struct.stack": "",
    "task_struct.stack_vm_area": "the kernel was built without CONFIG_VMAP_STACK",
    "task_struct.flags": "",
    "task_struct.pid": "",
    "task_struct.tgid": "",
    "task_struct.comm": "",
    "task_struct.thread.sp": "",
    "task_struct.nvcsw": "",
    "task_struct.nivcsw": "",
    "task_struct.start_boottime": "",
    "task_struct.se.exec_start": "",
    "task_struct.cgroups": "the kernel was built without CONFIG_CGROUPS",
    "css_set.dfl_cgrp": "",
    "cgroup.kn": "",
    "kernfs_node.id": "",
    "vm_struct.size": "",
    "vm_struct.flags": "",
    "vm_struct.nr_pages": "",
    "vm_struct.pages": "",
}

# What stack_faults.c and call_paths.c need besides.
REGISTER_FIELDS = (
    "pt_regs.orig_ax",
    "pt_regs.cs",
    "pt_regs.sp",
    "pt_regs.ip",
    "task_struct.thread_info.status",
)

# The way to each CPU's idle task; without it those stacks count as missed.
IDLE_FIELDS = ("rq.idle", "rq.cpu", "cfs_rq.rq", "task_struct.se.cfs_rq")

# linux/sched.h, not in BTF: found by a bit-field which came in the same series.
PF_IO_WORKER = 0x00000010  # Linux 5.12, with kernel_clone_args.io_thread
PF_USER_WORKER = 0x00004000  # Linux 6.4, with kernel_clone_args.user_worker


def _macro(path: str) -> str:
    return path.upper().replace(".", "_")


def probe_macros(btf: Btf) -> dict[str, int]:
    """All macros that probes/*.c need on this kernel.

    Raises UnmeasurableError naming each required field that the kernel lacks.
    """
    if not btf.has_iterator("bpf_iter__task"):
        raise UnmeasurableError(
            f"this kernel's BTF ({btf.path}) has no task iterator for BPF: run Linux 5.8 or later"
        )
    macros: dict[str, int] = {}
    missing: list[str] = []
    for path, reason in REQUIRED_FIELDS.items():
        member = btf.find(path)
        if member is None:
            missing.append(f"{path} ({reason})" if reason else path)
        else:
            macros[_macro(path)] = member.offset_bytes
    if missing:
        raise UnmeasurableError(
            f"this kernel's BTF ({btf.path}) has no field {', '.join(missing)}: its stacks"
            " can't be found; run a kernel with VMAP_STACK, or report this release to us"
        )

    on_cpu = btf.find("task_struct.on_cpu")  # absent without CONFIG_SMP
    if on_cpu is not None:
        macros["TASK_STRUCT_ON_CPU"] = on_cpu.offset_bytes
    if btf.find("task_struct.lowest_stack") is not None:
        macros["KSTACK_ERASE"] = 1
    macros["USER_WORKER_FLAGS"] = (
        PF_IO_WORKER if btf.find("kernel_clone_args.io_thread") else 0
    ) | (PF_USER_WORKER if btf.find("kernel_clone_args.user_worker") else 0)
    status = btf.find("task_struct.thread_info.status")
    if status is not None:
        macros["TASK_STRUCT_THREAD_INFO_STATUS"] = status.offset_bytes
    macros.update(_idle_macros(btf))
    return macros


def register_macros(btf: Btf) -> dict[str, int]:
    """Macros for the registers that an entry to the kernel saves on the task's stack.

    Raises UnmeasurableError naming a field that the kernel lacks.
    """
    macros = {}
    for path in REGISTER_FIELDS:
        member = btf.find(path)
        if member is None:
            raise UnmeasurableError(
                f"this kernel's BTF ({btf.path}) has no field {path}: its system calls can't"
                " be told; please report this release to us"
            )
        # bcc has macros of its own that begin with PT_REGS_
        macros[_macro(path).removeprefix("PT_")] = member.offset_bytes
    return macros


def _idle_macros(btf: Btf) -> dict[str, int]:
    """The way to the idle tasks, {} if there is none (no CONFIG_FAIR_GROUP_SCHED).

    task_group.cfs_rq is an array with one pointer for each possible CPU up to Linux
    6.19; where it has become a per-CPU pointer, each task's run queue shows the way.
    """
    found = {path: btf.find(path) for path in IDLE_FIELDS}
    macros = {_macro(path): field.offset_bytes for path, field in found.items() if field}
    if len(macros) < len(IDLE_FIELDS):
        return {}
    task_group = btf.find("task_struct.sched_task_group")
    cfs_rqs = btf.find("task_group.cfs_rq")
    if task_group and cfs_rqs and btf.pointer_depth(cfs_rqs.type_id) == 2:
        macros["TASK_STRUCT_SCHED_TASK_GROUP"] = task_group.offset_bytes
        macros["TASK_GROUP_CFS_RQ"] = cfs_rqs.offset_bytes
    else:
        macros["FIND_IDLE_BY_RUNQUEUE"] = 1
    return macros
