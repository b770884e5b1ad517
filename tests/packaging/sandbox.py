# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts a command under what a unit's file allows, as far as that goes without systemd.

Usage: sandbox.py UNIT COMMAND... as root: user nobody, the unit's capabilities, its
SystemCallFilter= and MemoryDenyWriteExecute=. systemd does the same with libseccomp;
what is done with mounts (ProtectSystem= and its like) is left out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

ALLOW = 0x7FFF0000  # seccomp.h: SCMP_ACT_ALLOW
ERRNO = 0x00050000  # SCMP_ACT_ERRNO(0)
MASKED_EQUAL = 7  # SCMP_CMP_MASKED_EQ
PROT_WRITE = 2
PROT_EXEC = 4
SHM_EXEC = 0o100000
NOBODY = 65534


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def settings(unit: Path, name: str) -> list[str]:
    """All values of a setting, in order."""
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def members(name: str) -> set[str]:
    """The system calls of a name in a filter: itself, or those of a @group."""
    if not name.startswith("@"):
        return {name}
    listing = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    entries = [line.strip() for line in listing.splitlines()[1:]]
    return {
        call
        for entry in entries
        if entry and not entry.startswith("#") and entry != name
        for call in members(entry)
    }


def allowed_calls(unit: Path) -> set[str]:
    """What the unit's filters leave, read in order as systemd does."""
    allowed = members("@default")  # systemd adds it to each list of what is allowed
    for value in settings(unit, "SystemCallFilter"):
        calls = {call for name in value.removeprefix("~").split() for call in members(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def load_filter(default: int, rules: list[tuple[int, str, Comparison | None]]) -> None:
    """One seccomp filter; rules are (action, system call, condition)."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(default)))
    for action, name, condition in rules:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this architecture
            continue
        result = seccomp.seccomp_rule_add_array(
            context,
            ctypes.c_uint32(action),
            number,
            0 if condition is None else 1,
            None if condition is None else ctypes.byref(condition),
        )
        if result:
            raise OSError(-result, f"{name}: {os.strerror(-result)}")
    result = seccomp.seccomp_load(context)
    if result:
        raise OSError(-result, os.strerror(-result))


def deny_write_execute() -> None:
    """The filter of MemoryDenyWriteExecute=yes."""
    both = PROT_WRITE | PROT_EXEC
    load_filter(
        ALLOW,
        [
            (ERRNO | errno.EPERM, "mmap", Comparison(2, MASKED_EQUAL, both, both)),
            (ERRNO | errno.EPERM, "mprotect", Comparison(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC)),
            (
                ERRNO | errno.EPERM,
                "pkey_mprotect",
                Comparison(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC),
            ),
            (ERRNO | errno.EPERM, "shmat", Comparison(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC)),
        ],
    )


def become_unprivileged(unit: Path, command: list[str]) -> None:
    """Go on as nobody with the unit's capabilities: calls this file again."""
    names = settings(unit, "CapabilityBoundingSet")[0].split()
    assert names == settings(unit, "AmbientCapabilities")[0].split()
    wanted = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in names)])
    sets = [f"--{which}={wanted}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    again = [sys.executable, "-I", __file__, str(unit), *command]
    os.execvp("setpriv", ["setpriv", *user, *sets, *again])


def main() -> None:
    """Replace this process by the command, in the sandbox."""
    unit, command = Path(sys.argv[1]), sys.argv[2:]
    if os.geteuid() == 0:
        become_unprivileged(unit, command)
    calls = allowed_calls(unit)
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        deny_write_execute()
    load_filter(ERRNO | errno.EPERM, [(ALLOW, call, None) for call in sorted(calls)])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
