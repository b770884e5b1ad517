# SPDX-License-Identifier: GPL-2.0-or-later
"""Drops every privilege that this process has beyond those of its user.

The loader's child needs CAP_BPF and CAP_PERFMON; a process that listens on the network needs
neither once it holds the file descriptors: see capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from dynstack_probe.errors import ProbeError
from dynstack_probe.kernel import bpf

STATUS = Path("/proc/self/status")
TASKS = Path("/proc/self/task")
LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")

# linux/prctl.h
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# must be empty afterwards; the bounding set depends on CAP_SETPCAP
EMPTY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def drop_privileges() -> None:
    """Drop all capabilities irrevocably: not even a setuid program gets one back.

    The effective, permitted, inheritable and ambient sets become empty, the bounding set
    too if we hold CAP_SETPCAP, and no_new_privs is set. The user id does not change.

    Call it before threads start: capabilities belong to a thread, and new threads inherit
    their creator's. Raises ProbeError if a step fails or the kernel then reports anything kept.
    """
    _require_single_thread()
    libc = ctypes.CDLL(None, use_errno=True)
    _empty_bounding_set(libc)
    _prctl(libc, "clear ambient capabilities", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(libc, "set no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
    header = _CapabilityHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    nothing = (_CapabilityData * 2)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)):
        raise _failure("drop capabilities", ctypes.get_errno())
    _verify()


def may_iterate_without_privileges(links: Iterable[int]) -> bool:
    """Whether this kernel lets an unprivileged process start a BPF iterator (since 5.19).

    Tried in a child that has dropped its privileges. Ctrl-C reaches the child as well, where it
    would unwind the parent's context managers and be reported twice: blocked there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        trial = os.fork()
        if trial == 0:
            try:
                drop_privileges()
                for link in links:
                    os.close(bpf.create_iterator(link))
            except (OSError, ProbeError):
                os._exit(1)
            os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return os.waitpid(trial, 0)[1] == 0


def _require_single_thread() -> None:
    threads = sum(1 for _ in TASKS.iterdir())
    if threads != 1:
        raise ProbeError(
            f"can't drop privileges with {threads} threads running: the others would keep theirs"
        )


def _empty_bounding_set(libc: ctypes.CDLL) -> None:
    """As far as we may: without CAP_SETPCAP it stays, harmless under no_new_privs."""
    try:
        last = int(LAST_CAPABILITY.read_text())
    except (OSError, ValueError) as error:
        raise ProbeError(f"can't drop privileges: {LAST_CAPABILITY}: {error}") from error
    for capability in range(last + 1):
        held = libc.prctl(PR_CAPBSET_READ, *_longs(capability)) == 1
        if held and libc.prctl(PR_CAPBSET_DROP, *_longs(capability)):
            return


def _verify() -> None:
    fields = dict(line.split(":\t", 1) for line in STATUS.read_text().splitlines() if ":\t" in line)
    kept = [name for name in EMPTY_SETS if fields.get(name, "").strip("0") or name not in fields]
    if fields.get("NoNewPrivs") != "1":
        kept.append("NoNewPrivs")
    if kept:
        told = ", ".join(f"{name} is {fields.get(name, 'unknown')}" for name in kept)
        raise ProbeError(f"privileges were not dropped: {told}")


def _prctl(libc: ctypes.CDLL, purpose: str, option: int, argument: int) -> None:
    if libc.prctl(option, *_longs(argument)):
        raise _failure(purpose, ctypes.get_errno())


def _longs(first: int) -> tuple[ctypes.c_ulong, ...]:
    """Four arguments for prctl, which wants the unused ones to be zero."""
    return tuple(ctypes.c_ulong(value) for value in (first, 0, 0, 0))


def _failure(purpose: str, number: int) -> ProbeError:
    return ProbeError(f"can't {purpose}: {os.strerror(number)}")
