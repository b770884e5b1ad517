# SPDX-License-Identifier: GPL-2.0-or-later
"""Take a Frame of the running kernel with probes/stack_scan.c."""

from __future__ import annotations

import os
import time
from array import array
from itertools import compress
from pathlib import Path

from dynstack_probe.errors import ProbeError, UnmeasurableError
from dynstack_probe.kernel import bpf, cgroups, host
from dynstack_probe.kernel.btf import VMLINUX, Btf
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.offsets import probe_macros
from dynstack_probe.loader import Closing, Iterator, Loader, probes_dir
from dynstack_probe.measure.records import HEADER, read_constants, read_layout
from dynstack_probe.model.frame import Cost, Coverage, Frame
from dynstack_probe.model.host import PAGE_BYTES, KernelFacts
from dynstack_probe.model.stacks import ASLEEP_UNKNOWN, Stacks

ITERATORS = [
    Iterator("tasks", "bpf_iter__task"),
    Iterator("idle", "bpf_iter__bpf_map_elem", map="cpus"),
]
MAX_THREAD_SIZE = 16 * PAGE_BYTES  # MAX_STACK_PAGES of probes/high_water.h
# Options that affect how deep stacks get and whether they can be read.
CONFIG_KEPT = tuple(
    f"CONFIG_{name}"
    for name in (
        "VMAP_STACK",
        "THREAD_INFO_IN_TASK",
        "KASAN",
        "KMSAN",
        "UBSAN",
        "LOCKDEP",
        "FRAME_WARN",
        "UNWINDER_FRAME_POINTER",
        "UNWINDER_ORC",
        "DEBUG_STACK_USAGE",
        "KSTACK_ERASE",
        "GCC_PLUGIN_STACKLEAK",
        "RANDOMIZE_KSTACK_OFFSET",
        "RANDOMIZE_KSTACK_OFFSET_DEFAULT",
        "STACKPROTECTOR_STRONG",
        "SHADOW_CALL_STACK",
        "INIT_STACK_ALL_ZERO",
        "PREEMPT",
        "PREEMPT_DYNAMIC",
        "PREEMPT_RT",
        "CC_VERSION_TEXT",
    )
)
NO_CGROUP_MOUNT = (
    "Cgroups are shown by id, not by name: no cgroup file system is mounted here."
    " Mount cgroup2, for example on /sys/fs/cgroup."
)
_UNKNOWN = (1 << 64) - 1  # of probes/records.h
_READ_BYTES = 1 << 16  # the kernel gives at most 32 KiB at a time


def scan_records(link: int) -> bytearray:
    """All records of one more scan by an attached iterator. Raises OSError."""
    fd = bpf.create_iterator(link)
    try:
        return read_iterator(fd)
    finally:
        os.close(fd)


def read_iterator(fd: int) -> bytearray:
    """All records of one scan. EAGAIN only means that the kernel yielded."""
    records = bytearray()  # grown in place: joining parts would take twice the memory
    while True:
        try:
            part = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            continue
        if not part:
            return records
        records += part


def static_mark(mark_bytes: int, stack_bytes: int) -> int | None:
    """The mark of the boot CPU's init_stack, None if unknown.

    Since Linux 6.16 the image's padding, not zeros, fills that stack: it looks used down
    to its last word, the one above STACK_END_MAGIC.
    """
    return mark_bytes if 0 < mark_bytes < stack_bytes - 8 else None


class Scanner(Closing):
    """The loaded probe: each scan returns a Frame. Holds the privileges it was loaded with."""

    def __init__(self, loader: Loader, features: Features, btf_path: Path = VMLINUX) -> None:
        """Load the probe for this kernel. Errors as Loader.load() and probe_macros()."""
        with Btf(btf_path) as btf:
            macros = probe_macros(btf)
            iterators = [i for i in ITERATORS if btf.has_iterator(i.function)]
            self._kernel = _kernel_facts(features, btf)
        self._features = features
        self._probe = loader.load(probes_dir() / "stack_scan.c", macros, iterators)

    def close(self) -> None:
        self._probe.close()

    def scan(self, *, with_cgroup_paths: bool = False) -> Frame:
        probe, features = self._probe, self._features
        started = time.perf_counter()
        raw = bytearray()
        for link in probe.links.values():
            raw += scan_records(link)
        scan_seconds = time.perf_counter() - started
        taken_at, boot_ns = time.time(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        refreshed = host.refresh_vmstat(features)
        records = _Records(raw)
        thread_size = records.thread_size_bytes()
        counted = host.kernel_stack_count(features, thread_size)
        stacks = records.stacks()
        mount = cgroups.hierarchy().mount if with_cgroup_paths else None
        unnamed = [NO_CGROUP_MOUNT] if with_cgroup_paths and mount is None else []
        coverage = Coverage(
            read=len(stacks),
            unreadable=records.count("UNREADABLE"),
            kernel_stacks=counted[1] if counted else None,
            kernel_stack_kib=counted[0] if counted else None,
            refreshed=refreshed,
            erased=records.count("ERASED"),
            boot_idle_mark_bytes=records.boot_idle_mark_bytes(),
        )
        return Frame(
            host=host.this_host(thread_size),
            stacks=stacks,
            coverage=coverage,
            cost=Cost(
                probe.child_start_seconds,
                probe.compile_seconds,
                probe.load_seconds,
                scan_seconds,
                probe.child_peak_rss_kib,
                probe.native_output,
            ),
            caveats=(*_caveats(features, coverage), *unnamed),
            cgroup_paths=cgroups.paths_by_id(stacks.cgroup_ids, mount) if with_cgroup_paths else {},
            grown_kib=features.vmstat().get("nr_dynamic_stacks_faults"),
            kernel=self._kernel,
            taken_at=taken_at,
            boot_ns=boot_ns,
            context_switches=host.context_switches(),
        )


def take_frame(btf_path: Path = VMLINUX, *, with_cgroup_paths: bool = False) -> Frame:
    """Scan every stack of this host once.

    Raises UnmeasurableError, NotPermittedError or ProbeError, each saying why.
    """
    with Loader() as loader, Scanner(loader, Features(), btf_path) as scanner:
        return scanner.scan(with_cgroup_paths=with_cgroup_paths)


def _kernel_facts(features: Features, btf: Btf) -> KernelFacts:
    return KernelFacts(
        command_line=(features.root.read("proc/cmdline") or "").strip(),
        config={name: features.config[name] for name in CONFIG_KEPT if name in features.config},
        random_offset=features.random_offset(btf),
    )


def _caveats(features: Features, coverage: Coverage) -> list[str]:
    caveats = []
    if coverage.erased:
        caveats.append(
            f"KSTACK_ERASE overwrote {coverage.erased} stacks: their marks are lower bounds,"
            " so the true saving is smaller."
        )
    if features.in_initial_pid_namespace() is False:
        caveats.append("In a PID namespace: only its own tasks are seen. Run on the host.")
    elif coverage.refreshed and coverage.missed - coverage.unreadable > max(3, coverage.read / 50):
        caveats.append(
            f"{coverage.missed - coverage.unreadable} stacks that the kernel counts belong to"
            " tasks which its BPF task iterator did not show."
        )
    if not coverage.refreshed:
        caveats.append(
            "The kernel's count is approximate: /proc/vmstat was not refreshed"
            " (only root may, and not with isolated CPUs)."
        )
    return caveats


class _Records:
    """The raw records of one scan of all stacks."""

    def __init__(self, raw: bytes | bytearray) -> None:
        self._layout = read_layout(HEADER, "stack_record")
        self._flags = read_constants(HEADER, "FLAG")
        self._raw = raw
        if not raw or len(raw) % self._layout.size_bytes:
            raise ProbeError(f"the task iterator gave {len(raw)} bytes, not whole records")

    def _column(self, name: str) -> memoryview:
        return self._layout.column(self._raw, name)

    def count(self, flag: str) -> int:
        bit = self._flags[flag]
        return sum(1 for flags in self._column("flags") if flags & bit)

    def thread_size_bytes(self) -> int:
        """THREAD_SIZE: the one size that all stacks' vmalloc areas have.

        stack_vm_area->nr_pages must agree; with dynamic stacks it says how many of a
        stack's pages are mapped, and so may only be less.
        """
        sizes = set(self._column("stack_bytes"))
        most_pages = max(self._column("vm_pages"))
        if len(sizes) != 1 or most_pages * PAGE_BYTES > max(sizes):
            raise ProbeError(
                f"can't determine THREAD_SIZE: stacks span {sorted(sizes)} bytes, hold up to"
                f" {most_pages} pages; please report this kernel to us"
            )
        size: int = sizes.pop()
        if size > MAX_THREAD_SIZE:
            raise UnmeasurableError(
                f"THREAD_SIZE is {size} bytes here: stacks of up to {MAX_THREAD_SIZE} are read"
            )
        return size

    def boot_idle_mark_bytes(self) -> int | None:
        """The mark of the boot CPU's static stack, None if unknown."""
        static = self._flags["STATIC"]
        names = ("flags", "mark_bytes", "stack_bytes")
        rows = zip(*(self._column(name) for name in names), strict=True)
        marks = (static_mark(mark, size) for flags, mark, size in rows if flags & static)
        return next(marks, None)

    def stacks(self) -> Stacks:
        """Those that the kernel counts and we could read."""
        left_out = self._flags["STATIC"] | self._flags["UNREADABLE"]
        keep = [not flags & left_out for flags in self._column("flags")]

        def column(name: str) -> array[int]:
            return array(self._layout.fields[name][0], compress(self._column(name), keep))

        return Stacks(
            mark_bytes=column("mark_bytes"),
            touched_pages=column("touched_pages"),
            resident_pages=column("resident_pages"),
            depth_bytes=column("depth_bytes"),
            kinds=column("kind"),
            comms=list(compress(self._layout.texts(self._raw, "comm"), keep)),
            tids=column("tid"),
            tgids=column("tgid"),
            cgroup_ids=column("cgroup_id"),
            switches=column("switches"),
            start_boot_ns=column("start_boot_ns"),
            asleep_seconds=array(
                "I",
                (ASLEEP_UNKNOWN if ns == _UNKNOWN else ns // 10**9 for ns in column("asleep_ns")),
            ),
            addresses=column("stack"),
            syscalls=array("q", column("syscall").tobytes()),
        )
