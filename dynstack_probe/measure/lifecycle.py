# SPDX-License-Identifier: GPL-2.0-or-later
"""Sample the running kernel repeatedly, with probes/stack_lifecycle.c."""

from __future__ import annotations

import dataclasses
import mmap
import os
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynstack_probe.errors import ProbeError, UnmeasurableError
from dynstack_probe.kernel import bpf, cgroups, host
from dynstack_probe.kernel.btf import VMLINUX, Btf
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.offsets import cgroup_name_macros, probe_macros
from dynstack_probe.loader import Closing, Iterator, LoadedProbe, Loader, probes_dir
from dynstack_probe.measure.records import (
    HEADER,
    MappedRecords,
    RecordLayout,
    read_constants,
    read_layout,
)
from dynstack_probe.measure.stack_scan import ITERATORS, scan_records, static_mark
from dynstack_probe.model.frame import Coverage
from dynstack_probe.model.lifecycle import ExitReads, Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.stacks import Kind

MAX_CGROUPS = 4096
ASKED_CGROUPS = 64  # whose names one read returns
KNOWN_SLOTS = 1 << 15  # 24 bytes each: 768 KiB, a GiB of stack addresses
MIN_SEEN_SLOTS, MAX_SEEN_SLOTS = 1 << 12, 1 << 17  # 16 bytes each: 64 KiB to 2 MiB
# After this many grown stacks, read whole, had no page that windows miss, exits are read by
# windows: then with 95% confidence fewer than one in 1,300 of their kind would have one.
PROVING_EXITS = 4096
MAPS = (
    *("lifecycle", "living", "exit_proof", "cgroups", "known_stacks", "seen", "cpus"),
    *("scratch", "exit_scratch"),
)
NO_UNPRIVILEGED_ITERATORS = (
    "this kernel lets no process without privileges read a BPF iterator again, and the daemon"
    " gives all of them up: run Linux 5.19 or later, or take a series with record"
)
VMAP_FREE = "free_vmap_area_noflush"  # a raw tracepoint since commit 8c4196fe810a, in 6.2

NAMES = Iterator("names", "bpf_iter__bpf_map_elem", map="asked")


def seen_slots(mem_total_kib: int) -> int:
    """Slots of the last-seen cache: a power of two, 0.025% of all memory.

    Sized by memory, not by the current tasks: more may come, and 100,000 sleepers that collide
    would be read again at each scan.
    """
    wanted = 1 << (mem_total_kib // 64).bit_length()
    return min(max(wanted, MIN_SEEN_SLOTS), MAX_SEEN_SLOTS)


def load_lifecycle(loader: Loader, *, btf_path: Path = VMLINUX) -> LoadedProbe:
    """Load and attach the probe; it counts from here on. Errors as Loader.load()."""
    with Btf(btf_path) as btf:
        values = probe_macros(btf)
        has_free = btf.has_tracepoint(VMAP_FREE)
        names = cgroup_name_macros(btf)
        wanted = [*ITERATORS, *([NAMES] if names else [])]
        iterators = [i for i in wanted if btf.has_iterator(i.function)]
    values |= names
    values["ASKED_CGROUPS"] = ASKED_CGROUPS
    values["MAX_CGROUPS"] = MAX_CGROUPS
    values["KNOWN_SLOTS"] = KNOWN_SLOTS
    values["SEEN_SLOTS"] = seen_slots(host.memory_total_kib())
    tracepoints = {"task_newtask": "on_new_task", "sched_process_exit": "on_exit"}
    if has_free:
        values["VMAP_FREE_TRACEPOINT"] = 1
        tracepoints[VMAP_FREE] = "on_vmap_free"
    return loader.load(
        probes_dir() / "stack_lifecycle.c",
        values,
        iterators,
        maps=(
            *MAPS,
            *(["per_cpu"] if "IDLE_BY_PER_CPU_OFFSET" in values else []),
            *(["asked", "name_scratch"] if names else []),
        ),
        tracepoints=tracepoints,
        programs=tuple(tracepoints.values()),  # attached already: for their fdinfo
    )


class Sampler(Closing):
    """Takes samples from a loaded probe. Not thread-safe; needs no capability."""

    def __init__(self, probe: LoadedProbe) -> None:
        """Map the counters of `probe`, which must stay open."""
        self._largest_stack_bytes = read_constants(HEADER, "COUNTED")["PAGES"] * 4096
        self._probe = probe
        self._scans = [link for name, link in probe.links.items() if name != NAMES.name]
        self._names = probe.links.get(NAMES.name)
        self._features = Features()
        maps = probe.maps
        self._lifecycle = MappedRecords(maps["lifecycle"], "lifecycle_counters", of_each_cpu=True)
        self._living = MappedRecords(maps["living"], "living_counters")
        self._proof = MappedRecords(maps["exit_proof"], "exit_proof")
        self._cgroup_layout = read_layout(HEADER, "cgroup_counters")
        self._name_layout = read_layout(HEADER, "cgroup_name")
        self._asked = mmap.mmap(maps["asked"], mmap.PAGESIZE) if self._names else None
        self.prove_by(PROVING_EXITS)
        self._living.set("last_scan_boot_ns", time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._growth_of_living: tuple[int, ...] = (0,) * 6
        self._host = host.this_host(thread_size_bytes=0)  # until the first scan

    def close(self) -> None:
        self._lifecycle.close()
        self._living.close()
        self._proof.close()
        if self._asked is not None:
            self._asked.close()

    def prove_by(self, exits: int) -> None:
        """Read exited stacks whole until this many grown ones had no page that windows miss.

        0: always. Counted from the last one that had; may be changed at any time.
        """
        self._proof.set("needed", exits)

    def take(self) -> Sample:
        """One scan.

        Raises ProbeError if the kernel does not finish it, UnmeasurableError where
        stacks are larger than can be counted.
        """
        lifecycle = self.lifecycle()
        self._living.clear(keep="last_scan_boot_ns")  # which exits read meanwhile
        started = time.perf_counter()
        for link in self._scans:
            self._scan(link)
        scan_seconds = time.perf_counter() - started
        [raw] = self._living.all()
        if not raw["ended_boot_ns"]:
            raise ProbeError("the task iterator ended before its last task")
        self._living.set("last_scan_boot_ns", raw["ended_boot_ns"])
        self._learn_thread_size(raw["stack_bytes"])
        living = _living(raw)
        counters = self._features.vmstat()
        counted = host.kernel_stack_count(self._features, self._host.thread_size_bytes)
        return Sample(
            host=dataclasses.replace(self._host, cpus=host.online_cpus()),
            living=living,
            lifecycle=dataclasses.replace(
                lifecycle, growth_by_age=self._sum_growth(lifecycle, living)
            ),
            coverage=Coverage(
                read=living.stacks(),
                unreadable=raw["unreadable"],
                kernel_stacks=counted[1] if counted else None,
                kernel_stack_kib=counted[0] if counted else None,
                refreshed=False,
                erased=raw["erased"],
                boot_idle_mark_bytes=static_mark(
                    raw["boot_idle_mark_bytes"], self._host.thread_size_bytes
                ),
            ),
            cgroups=self._read_cgroups(),
            scan_seconds=scan_seconds,
            taken_at=time.time(),
            kernel_counters=counters,
            bpf_memory_bytes=self.bpf_memory_bytes(),
        )

    def _learn_thread_size(self, stack_bytes: int) -> None:
        if stack_bytes > self._largest_stack_bytes:
            raise UnmeasurableError(
                f"THREAD_SIZE is {stack_bytes} bytes here: stacks of up to"
                f" {self._largest_stack_bytes} are counted"
            )
        if stack_bytes:
            self._host = dataclasses.replace(self._host, thread_size_bytes=stack_bytes)

    def _sum_growth(self, lifecycle: Lifecycle, living: Living) -> tuple[int, ...]:
        """Growth seen at exits and in all scans so far: monotonic."""
        self._growth_of_living = _sums((self._growth_of_living, living.growth_by_age))
        return _sums((self._growth_of_living, lifecycle.growth_by_age))

    def _scan(self, link: int) -> bytearray:
        """The iterator's output: empty, except for names."""
        try:
            return scan_records(link)
        except PermissionError:
            raise UnmeasurableError(NO_UNPRIVILEGED_ITERATORS) from None

    def lifecycle(self) -> Lifecycle:
        """The current counters, without a scan of the live stacks.

        Tracepoint programs are preemptible since Linux 7, and the kernel then skips a program that
        is already running for another task of that CPU. It counts how often.
        """
        rows = self._lifecycle.all()

        def total(name: str) -> int:
            return sum(row[name] for row in rows)

        def totals(name: str) -> tuple[int, ...]:
            return _sums([row[name] for row in rows])

        [proof] = self._proof.all()
        missed_runs = {
            function: _fdinfo(program, "recursion_misses")
            for function, program in self._probe.programs.items()
        }
        unread = missed_runs.pop("on_exit", 0) + total("unread")
        return Lifecycle(
            created=total("created") + missed_runs.get("on_new_task", 0),
            reused=total("reused"),
            exited=_shapes(totals("exited")),
            skipped=totals("skipped"),
            growth_by_age=totals("growth"),
            lost={
                "exit_unread": unread,
                "exit_pages_hidden": total("missed"),
                "inheritance_forgotten": total("unremembered") + sum(missed_runs.values()),
            },
            runs=total("created") + total("exits"),
            run_seconds=total("run_ns") / 1e9,
            exit_reads=ExitReads(
                windowed=total("windowed"),
                checked=total("checked"),
                caught=total("caught"),
                hidden=total("hidden"),
                unproved=max(0, proof["needed"] - proof["shown"]),
            ),
        )

    def _read_cgroups(self) -> dict[int, tuple[int, ...]]:
        """Those of the last scan; cgroups without a stack now are deleted."""
        fd = self._probe.maps["cgroups"]
        layout = self._cgroup_layout
        keys, values = bpf.map_items(fd, 8, layout.size_bytes, MAX_CGROUPS)
        scans = layout.column(values, "scan").tolist()
        newest = max(scans, default=0)
        code, offset = layout.fields["held"]
        held = struct.Struct(f"={code}")
        found = {}
        for at, (cgroup,) in enumerate(struct.iter_unpack("=Q", keys)):
            if scans[at] == newest:
                found[cgroup] = held.unpack_from(values, at * layout.size_bytes + offset)
            else:
                bpf.map_delete(fd, keys[at * 8 : at * 8 + 8])
        return found

    def cgroup_paths(self, ids: Collection[int]) -> dict[int, str]:
        """Paths from the root of the hierarchy, "/" itself, of cgroups of the last scan.

        The kernel's own names, where its nodes are still those cgroups': one that is gone may be
        left out. Costs nothing for cgroups that are not asked for.
        """
        if self._asked is None or self._names is None:
            return cgroups.paths_by_id(ids)
        paths = {}
        asked = list(ids)
        for at in range(0, len(asked), ASKED_CGROUPS):
            part = asked[at : at + ASKED_CGROUPS]
            padded = part + [0] * (ASKED_CGROUPS - len(part))
            struct.pack_into(f"={ASKED_CGROUPS}Q", self._asked, 0, *padded)
            paths.update(_paths(self._name_layout, self._scan(self._names)))
        return paths

    def bpf_memory_bytes(self) -> int:
        """Memory of our maps according to the kernel (memlock in /proc/self/fdinfo)."""
        return sum(_fdinfo(fd, "memlock") for fd in self._probe.maps.values())


def _fdinfo(fd: int, name: str) -> int:
    """A number from a descriptor's fdinfo; 0 if it is missing."""
    return host.figure(f"proc/self/fdinfo/{fd}", f"{name}:") or 0


def _paths(layout: RecordLayout, raw: bytearray) -> dict[int, str]:
    """From records of one name each: a cgroup's own first and, if complete, its root's last."""
    paths: dict[int, str] = {}
    names: dict[int, list[str]] = {}
    columns = layout.column(raw, "cgroup_id"), layout.column(raw, "is_root")
    for cgroup, is_root, name in zip(*columns, layout.texts(raw, "name"), strict=True):
        if not is_root:
            names.setdefault(cgroup, []).append(os.fsdecode(name))
        elif not name:  # as every root's
            paths[cgroup] = "/" + "/".join(reversed(names.get(cgroup, ())))
    return paths


def _living(raw: Mapping[str, Any]) -> Living:
    """From a record of living_counters."""
    stacks = raw["stacks"]
    width = len(stacks) // len(Kind)
    return Living(
        shapes={kind: _shapes(stacks[kind * width : (kind + 1) * width]) for kind in Kind},
        skipped=raw["skipped"],
        growth_by_age=raw["growth"],
        reread=raw["reread"],
        uncounted_cgroups=raw["uncounted_cgroups"],
        deepest_mark_bytes=raw["deepest_mark_bytes"],
    )


def _sums(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Of each column.

    Through a list: tuples of unknown length grow CPython's free lists at each scan, by 0.8 MB in
    the end.
    """
    return tuple([sum(column) for column in zip(*rows, strict=True)])


def _shapes(counts: tuple[int, ...]) -> dict[tuple[int, int], int]:
    """Non-zero counts by (mark, inherited) in pages."""
    side = round(len(counts) ** 0.5)
    return {(i // side + 1, i % side + 1): n for i, n in enumerate(counts) if n}
