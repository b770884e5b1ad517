# SPDX-License-Identifier: GPL-2.0-or-later
"""The roles by which depths are reported: kernel thread, kworker, vCPU, ..."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from dynstack_probe.model.stacks import Kind

KTHREAD, KWORKER, USER, VCPU, IO_WORKER, USER_WORKER, IDLE = (
    "kernel thread",
    "kworker",
    "user",
    "vCPU",
    "io worker",
    "user worker",
    "idle",
)

# qemu (CPU 3/KVM), Firecracker (fc_vcpu 3), crosvm and Cloud Hypervisor (crosvm_vcpu3, vcpu3)
_VCPU = re.compile(rb"CPU \d+/KVM$|(?:fc_|crosvm_)?vcpu[ _-]?\w*$")


def role_of(kind: int, comm: bytes) -> str:
    """The role, by the task's flags and, where they do not tell, its name.

    A vCPU thread is a user task like any other; virtual machine monitors name it. io_uring
    workers are iou-wrk-TGID and iou-sqp-TGID (io_uring/io-wq.c, sqpoll.c).
    """
    if kind == Kind.IDLE:
        return IDLE
    if kind == Kind.KTHREAD:
        return KWORKER if comm.startswith(b"kworker") else KTHREAD
    if kind == Kind.USER_WORKER:
        return IO_WORKER if comm.startswith(b"iou-") else USER_WORKER
    return VCPU if _VCPU.match(comm) else USER


def roles(kinds: Sequence[int], comms: Sequence[bytes]) -> list[str]:
    role = functools.cache(role_of)
    return [role(kind, comm) for kind, comm in zip(kinds, comms, strict=True)]
