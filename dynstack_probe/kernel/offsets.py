# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout of this kernel's structures, as C macros for the probes.

`task_struct.thread.sp` becomes TASK_STRUCT_THREAD_SP, its offset in bytes,
TASK_STRUCT_THREAD_SP_BYTES, how many of them to load, and _SHIFT and _BITS, where the field lies in
what was loaded: FIELD() and PEEK() of probes/task.h use all four.

The types of the fields below are those of Linux 5.8. They say what the probes do with a field: a
number is loaded with whatever size it has here, a pointer is followed, a text is copied. A field
that no longer fits is rejected before anything is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from dynstack_probe.errors import UnmeasurableError
from dynstack_probe.kernel.btf import POINTER_BYTES, Btf, FieldType, Member, Shape
from dynstack_probe.kernel.cgroups import hierarchy

REQUIRED_FIELDS = {
    "task_struct.stack": "void *",
    "task_struct.stack_vm_area": "struct vm_struct *",
    "task_struct.flags": "unsigned int",
    "task_struct.pid": "pid_t",
    "task_struct.tgid": "pid_t",
    "task_struct.comm": "char[16]",
    "task_struct.thread.sp": "unsigned long",
    "task_struct.nvcsw": "unsigned long",
    "task_struct.nivcsw": "unsigned long",
    "task_struct.start_boottime": "u64",
    "task_struct.se.exec_start": "u64",
    "task_struct.cgroups": "struct css_set *",
    "css_set.dfl_cgrp": "struct cgroup *",
    "cgroup.kn": "struct kernfs_node *",
    "kernfs_node.id": "u64",
    "vm_struct.size": "unsigned long",
    "vm_struct.flags": "unsigned long",
    "vm_struct.nr_pages": "unsigned int",
    "vm_struct.pages": "struct page **",
    "bpf_iter_meta.seq": "struct seq_file *",
    "bpf_iter_meta.session_id": "u64",
}

# Why a field may be missing, where known.
REASONS = {
    "task_struct.stack_vm_area": "the kernel was built without CONFIG_VMAP_STACK",
    "task_struct.cgroups": "the kernel was built without CONFIG_CGROUPS",
}

# Missing from some kernels, which are measured without them.
OPTIONAL_FIELDS = {
    # CONFIG_SMP: unconditional in the scheduler since commit cac5cefbade9, in 6.17
    "task_struct.on_cpu": "int",
    "task_struct.thread_info.status": "u32",
}

# Also needed by stack_faults.c and call_paths.c.
REGISTER_FIELDS = {
    "pt_regs.orig_ax": "unsigned long",
    "pt_regs.cs": "unsigned long",
    "pt_regs.flags": "unsigned long",
    "pt_regs.sp": "unsigned long",
    "task_struct.thread_info.status": "u32",
}

# The path to each CPU's idle task; without it their stacks count as missed.
IDLE_FIELDS = {
    "rq.idle": "struct task_struct *",
    "rq.cpu": "int",
    "cfs_rq.rq": "struct rq *",
    "task_struct.se.cfs_rq": "struct cfs_rq *",
}
TASK_GROUP_FIELDS = {
    "task_struct.sched_task_group": "struct task_group *",
    "task_group.cfs_rq": "struct cfs_rq **",
}

# The path to a task's cgroup in a version 1 hierarchy, by the controller's number.
CGROUP_V1_FIELDS = {
    "cgroup_subsys_state.cgroup": "struct cgroup *",
}

# For the names of cgroups; without them the daemon walks the cgroup tree.
CGROUP_NAME_FIELDS = {
    "kernfs_node.name": "const char *",
    "kernfs_node.count.counter": "int",
}
# The first that exists: renamed in Linux 6.15 (commit 633488947ef6).
KERNFS_PARENTS = ("kernfs_node.__parent", "kernfs_node.parent")

LOADABLE_BYTES = (1, 2, 4, 8)
# Structures that are read through a pointer in another field.
_FOLLOWED = {
    f"struct {path.partition('.')[0]}"
    for fields in (REQUIRED_FIELDS, IDLE_FIELDS, TASK_GROUP_FIELDS)
    for path in fields
}

# linux/sched.h, not in BTF: detected by a bit-field added in the same series.
PF_IO_WORKER = 0x00000010  # with kernel_clone_args.io_thread: commit cc440e8738e5, in 5.12
PF_USER_WORKER = 0x00004000  # with .user_worker: commit 54e6842d0775, in 6.4


def probe_macros(btf: Btf) -> dict[str, int]:
    """All macros that probes/*.c need on this kernel.

    Raises UnmeasurableError naming each required field that the kernel lacks, or one
    whose type the probes can't read.
    """
    if not btf.has_iterator("bpf_iter__task"):
        raise UnmeasurableError(
            f"this kernel's BTF ({btf.path}) has no task iterator for BPF: run Linux 5.8 or later"
        )
    members = {path: btf.find(path) for path in REQUIRED_FIELDS}
    missing = [
        f"{path} ({REASONS[path]})" if path in REASONS else path
        for path, member in members.items()
        if member is None
    ]
    if missing:
        raise UnmeasurableError(
            f"this kernel's BTF ({btf.path}) has no field {', '.join(missing)}: its stacks"
            " can't be found; run a kernel with VMAP_STACK, or report this release to us"
        )
    macros = field_macros(btf, REQUIRED_FIELDS)
    macros.update(field_macros(btf, OPTIONAL_FIELDS))
    if btf.find("task_struct.lowest_stack") is not None:
        macros["KSTACK_ERASE"] = 1
    if btf.has_helper("get_current_task_btf"):
        macros["TYPED_CURRENT_TASK"] = 1
    macros["USER_WORKER_FLAGS"] = (
        PF_IO_WORKER if btf.find("kernel_clone_args.io_thread") else 0
    ) | (PF_USER_WORKER if btf.find("kernel_clone_args.user_worker") else 0)
    macros.update(_idle_macros(btf))
    macros.update(_cgroup_v1_macros(btf))
    return macros


def _cgroup_v1_macros(btf: Btf) -> dict[str, int]:
    """Where css_set keeps the state of the controller that groups tasks.

    {} where cgroup2 is in use, or no version 1 controller that limits memory or tasks is mounted:
    then cgroups are those of the default hierarchy.
    """
    controller = hierarchy().controller
    states = btf.find("css_set.subsys")
    if not controller or states is None:
        return {}
    number = btf.enumerator("cgroup_subsys_id", f"{controller}_cgrp_id")
    fields = field_macros(btf, CGROUP_V1_FIELDS)
    if number is None or not fields:
        return {}
    return {"CSS_SET_V1_STATE": states.offset_bytes + POINTER_BYTES * number, **fields}


def cgroup_name_macros(btf: Btf) -> dict[str, int]:
    """Offsets of a cgroup node's name and parent; {} if unknown."""
    parent = next((path for path in KERNFS_PARENTS if btf.find(path)), None)
    if parent is None:
        return {}
    macros = _all_macros(btf, {**CGROUP_NAME_FIELDS, parent: "struct kernfs_node *"})
    return macros and {**macros, "KERNFS_NODE_PARENT": macros[macro_name(parent)]}


def register_macros(btf: Btf) -> dict[str, int]:
    """Macros for the registers that an entry to the kernel saves on the task's stack.

    Raises UnmeasurableError naming a field that the kernel lacks or that can't be read.
    """
    for path in REGISTER_FIELDS:
        if btf.find(path) is None:
            raise UnmeasurableError(
                f"this kernel's BTF ({btf.path}) has no field {path}: its system calls can't"
                " be identified; please report this release to us"
            )
    return field_macros(btf, REGISTER_FIELDS)


def preemption_macros(btf: Btf) -> dict[str, int]:
    """Distance of a CPU's preempt count from its run queue, bytes; {} if unknown.

    Both are per-CPU variables, so it is the same on each CPU, and every task points to its run
    queue. The count was in pcpu_hot from commit 64701838bf05, in 6.2, to commit
    46e8fff6d45f, in 6.15.
    """
    queue = btf.per_cpu_offset("runqueues")
    count = btf.per_cpu_offset("__preempt_count")
    if count is None:
        hot, member = btf.per_cpu_offset("pcpu_hot"), btf.find("pcpu_hot.preempt_count")
        count = None if hot is None or member is None else hot + member.offset_bytes
    if queue is None or count is None:
        return {}
    return {"PREEMPT_COUNT_FROM_RQ": count - queue}


def macro_name(path: str) -> str:
    """The macro that a field's offset becomes."""
    # bcc has macros of its own that begin with PT_REGS_
    return path.upper().replace(".", "_").removeprefix("PT_")


def field_macros(btf: Btf, fields: Mapping[str, str]) -> dict[str, int]:
    """The four macros of each field that exists."""
    macros: dict[str, int] = {}
    for path, expected in fields.items():
        member = btf.find(path)
        if member is None:
            continue
        found = btf.type_of(member)
        place = _place(member, found) if _is_readable(found, expected) else None
        if place is None:
            raise UnmeasurableError(
                f"{path} is of type {found.text} on Linux {os.uname().release}, where"
                f" {expected} was expected: its stacks can't be read;"
                " please report this release to us"
            )
        names = (f"{macro_name(path)}{suffix}" for suffix in ("", "_BYTES", "_SHIFT", "_BITS"))
        macros.update(zip(names, place, strict=True))
    return macros


def _all_macros(btf: Btf, fields: Mapping[str, str]) -> dict[str, int]:
    """As field_macros(); {} where a field is missing or no longer readable."""
    try:
        macros = field_macros(btf, fields)
    except UnmeasurableError:
        return {}
    return macros if all(macro_name(path) in macros for path in fields) else {}


def _is_readable(found: FieldType, expected: str) -> bool:
    """Whether a field can be read as the expected type."""
    if expected.endswith("]"):
        length = int(expected.partition("[")[2][:-1])
        return found.shape is Shape.TEXT and found.size_bytes >= length
    if not expected.endswith("*"):
        return found.shape is Shape.NUMBER
    target, _, stars = expected.partition(" *")
    if found.shape is not Shape.POINTER or found.pointers != 1 + len(stars):
        return False
    # a pointer's target matters only where we follow it
    return target not in _FOLLOWED or found.target == target


def _place(member: Member, found: FieldType) -> tuple[int, int, int, int] | None:
    """Offset and number of the bytes to load, bits to shift that by, bits to keep.

    None where no single load does it.
    """
    if not member.bit_field_bits:
        is_loadable = found.shape is Shape.TEXT or found.size_bytes in LOADABLE_BYTES
        place = member.offset_bytes, found.size_bytes, 0, found.size_bytes * 8
        return place if is_loadable else None
    for size in LOADABLE_BYTES:
        begin = member.offset_bits // (size * 8) * size
        shift = member.offset_bits - begin * 8
        if shift + member.bit_field_bits <= size * 8:
            return begin, size, shift, member.bit_field_bits
    return None


def _idle_macros(btf: Btf) -> dict[str, int]:
    """The path to the idle tasks, {} if there is none (no CONFIG_FAIR_GROUP_SCHED).

    bpf_map_lookup_percpu_elem() (commit 07343110b293, in 5.19) gives the distance between CPUs'
    per-CPU areas, and so the address of each run queue. Before, task_group.cfs_rq has a pointer
    for each possible CPU; since commit b8fea7af0e40, in 7.2, it is a per-CPU pointer.
    """
    macros = _all_macros(btf, IDLE_FIELDS)
    if macros and btf.has_helper("map_lookup_percpu_elem"):
        return macros | {"IDLE_BY_PER_CPU_OFFSET": 1}
    through_group = _all_macros(btf, TASK_GROUP_FIELDS)
    return macros | through_group if macros and through_group else {}
