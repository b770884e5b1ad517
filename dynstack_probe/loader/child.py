# SPDX-License-Identifier: GPL-2.0-or-later
"""The only code that imports bcc. Runs under whichever Python has it, and exits.

Usage: python3 -I child.py SOCKET_FD PARENT_PID. Standard library and bcc only.

Reads one job (JSON, see Loader.load) from the socket, answers with one message:
either {"error": kind, "message": text}, or what was loaded together with the
descriptors of the links of all iterators, then of maps, tracepoints and perf events,
of which there is one per CPU. Descriptors that do not fit into one message follow in
further ones. Whatever bcc and LLVM print goes to stdout and stderr, which the parent keeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# linux/prctl.h, linux/securebits.h
PR_SET_PDEATHSIG, PR_GET_SECUREBITS, PR_SET_SECUREBITS = 1, 27, 28
NO_SETUID_FIXUP = 1 << 2
NOBODY = 65534
# linux/bpf.h
BPF_PROG_TYPE_PERF_EVENT, BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_PROG_TYPE_TRACING = 7, 17, 26
FDS_A_MESSAGE = 64  # the kernel takes up to 253 (SCM_MAX_FD)


class RefusalError(Exception):
    """The error that the parent gets instead of a result."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def die_with_parent(parent_pid: int) -> None:
    """Never outlive the parent, not even while LLVM compiles."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call above
        os._exit(1)


@contextlib.contextmanager
def not_as_root(parent_pid: int) -> Iterator[None]:
    """Switch the effective user from root to nobody, keeping capabilities, where possible.

    As root, bcc searches /proc/kallsyms for bpf_probe_read_kernel(), for accesses that it rewrites
    itself: half of its run time. Our programs spell out each access. A change of user resets
    PR_SET_PDEATHSIG, so die_with_parent() is repeated.
    """
    prctl = ctypes.CDLL(None).prctl
    bits = prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
    if os.geteuid() or bits < 0 or prctl(PR_SET_SECUREBITS, bits | NO_SETUID_FIXUP, 0, 0, 0):
        yield
        return
    with contextlib.suppress(OSError):  # no such user in this user namespace
        os.seteuid(NOBODY)
        die_with_parent(parent_pid)
    try:
        yield
    finally:
        os.seteuid(0)
        die_with_parent(parent_pid)


def import_bcc() -> Any:
    """Import the real bcc; RefusalError if missing, or if it is PyPI's lattice library."""
    try:
        import bcc
    except ImportError as error:
        raise RefusalError("no-bcc", f"has no bcc ({error})") from error
    if not hasattr(bcc, "BPF"):
        where = getattr(bcc, "__file__", None) or "?"
        raise RefusalError("wrong-bcc", f"its bcc ({where}) is the unrelated package of PyPI")
    return bcc


def with_headers(path: Path, seen: set[Path]) -> str:
    """A source with its local #include lines replaced by the headers, each once.

    bcc turns map methods into helper calls in the main file only.
    """
    seen.add(path)
    lines = [f'#line 1 "{path}"']
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.split('"')
        header = path.parent / words[1] if line.startswith('#include "') else None
        if header is None:
            lines.append(line)
        elif header not in seen:
            lines += [with_headers(header, seen), f'#line {number + 1} "{path}"']
    return "\n".join(lines)


def load(bpf: Any, function: str, kind: int) -> Any:
    """Load one program, of a BPF_PROG_TYPE_; RefusalError if the kernel rejects it."""
    try:
        return bpf.load_func(function, kind)
    except Exception as error:
        # bcc turns EPERM into "Need super-user privileges to run".
        if "privileges" in str(error) or ctypes.get_errno() == errno.EPERM:
            raise RefusalError("permission", f"{function}: Operation not permitted") from error
        raise RefusalError("load", function) from error


def load_together(bpf: Any, functions: list[str]) -> None:
    """Load iterator programs in parallel: the verifier takes some 30 ms for each.

    Errors are ignored here: attaching a refused program loads it again and reports it.
    """

    def quietly(function: str) -> None:
        with contextlib.suppress(RefusalError):
            load(bpf, function, BPF_PROG_TYPE_TRACING)

    threads = [
        threading.Thread(target=quietly, args=(function,)) for function in dict.fromkeys(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def attach_iterator(bcc: Any, bpf: Any, function: str, map_name: str | None) -> int:
    """Load an iterator program; returns the descriptor of its link."""
    program = load(bpf, function, BPF_PROG_TYPE_TRACING)
    attach = bcc.lib.bcc_iter_attach
    attach.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32]
    if map_name is None:
        link = attach(program.fd, None, 0)
    else:  # union bpf_iter_link_info begins with the map's descriptor
        map_fd = ctypes.c_uint32(bpf[map_name].map_fd)
        link = attach(program.fd, ctypes.byref(map_fd), ctypes.sizeof(map_fd))
    if link < 0:
        raise RefusalError("attach", f"{function}: {os.strerror(-link)}")
    return int(link)


def attach_raw_tracepoint(bpf: Any, tracepoint: str, function: str) -> int:
    """Attach a program to a raw tracepoint; returns the descriptor that keeps it attached."""
    load(bpf, function, BPF_PROG_TYPE_RAW_TRACEPOINT)
    try:
        bpf.attach_raw_tracepoint(tp=tracepoint.encode(), fn_name=function.encode())
    except Exception as error:
        if ctypes.get_errno() in (errno.EPERM, errno.EACCES):
            raise RefusalError("permission", f"{tracepoint}: Operation not permitted") from error
        raise RefusalError("attach", f"{tracepoint}: {error}".replace("b'", "'")) from error
    return int(bpf.raw_tracepoint_fds[tracepoint.encode()])


def attach_perf_event(bpf: Any, event: dict[str, Any]) -> list[int]:
    """Attach a program to a perf event on each online CPU; returns their descriptors.

    An optional event that the kernel refuses gives none.
    """
    load(bpf, event["function"], BPF_PROG_TYPE_PERF_EVENT)
    kind, config = event["type"], event["config"]
    try:
        bpf.attach_perf_event(
            ev_type=kind,
            ev_config=config,
            fn_name=event["function"].encode(),
            sample_period=event["period"],
            sample_freq=event["frequency"],
        )
    except Exception as error:
        if event["optional"]:
            return []
        if "privileges" in str(error) or ctypes.get_errno() in (errno.EPERM, errno.EACCES):
            raise RefusalError("perf-permission", event["name"]) from error
        raise RefusalError("attach", f"{event['name']}: {error}".replace("b'", "'")) from error
    return [int(fd) for fd in bpf.open_perf_events[(kind, config)].values()]


def peak_rss_kib() -> int:
    """VmHWM of this process, KiB."""
    with Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def run(job: dict[str, Any], bcc: Any) -> tuple[dict[str, Any], list[int]]:
    """Do the job; returns the answer and the descriptors that go with it."""
    answer: dict[str, Any] = {
        "bcc": {"version": getattr(bcc, "__version__", "unknown"), "path": bcc.__file__},
        "seconds": {"ready_at": time.monotonic()},
    }
    if not job:
        return answer, []

    started = time.monotonic()
    # Our stubs replace the kernel headers, which bcc would otherwise search for.
    os.environ["BCC_KERNEL_SOURCE"] = job["stubs"]
    # bcc searches the current folder for headers first, and that may be untrusted.
    os.chdir(Path(job["source"]).parent)
    try:
        text = with_headers(Path(job["source"]), set())
        with not_as_root(int(sys.argv[2])):
            bpf = bcc.BPF(text=text.encode(), cflags=job["cflags"])
    except Exception as error:
        raise RefusalError("compile", str(error).replace("b'", "'")) from error
    compiled = time.monotonic()
    load_together(bpf, [function for _, function, _ in job["iterators"]])
    fds = [attach_iterator(bcc, bpf, function, m) for _, function, m in job["iterators"]]
    answer["seconds"]["compile"] = compiled - started
    fds += [bpf[name].map_fd for name in job["maps"]]
    fds += [attach_raw_tracepoint(bpf, tp, function) for tp, function in job["tracepoints"]]
    fds += [
        int(load(bpf, function, BPF_PROG_TYPE_RAW_TRACEPOINT).fd) for function in job["programs"]
    ]
    events = [attach_perf_event(bpf, event) for event in job["perf_events"]]
    answer["cpus"] = [len(of_each_cpu) for of_each_cpu in events]
    fds += [fd for of_each_cpu in events for fd in of_each_cpu]
    answer["fds"] = len(fds)
    answer["seconds"]["load"] = time.monotonic() - compiled
    answer["peak_rss_kib"] = peak_rss_kib()
    return answer, fds


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    fds: list[int] = []
    try:
        bcc = import_bcc()
        job = connection.recv(1 << 16)
        if not job:
            return  # the parent is gone
        answer, fds = run(json.loads(job), bcc)
    except RefusalError as refusal:
        answer = {"error": refusal.kind, "message": str(refusal)}
    data = json.dumps(answer).encode()
    if fds:
        socket.send_fds(connection, [data], fds[:FDS_A_MESSAGE])
        for at in range(FDS_A_MESSAGE, len(fds), FDS_A_MESSAGE):
            socket.send_fds(connection, [b"+"], fds[at : at + FDS_A_MESSAGE])
    else:
        connection.send(data)
    sys.stdout.flush()
    os._exit(0)  # LLVM's teardown takes 50 ms; the kernel cleans up anyway


if __name__ == "__main__":
    main()
