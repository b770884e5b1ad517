# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of docs/results.md, each from what the commands say of the captures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dynstack_probe.capture import read_frames
from dynstack_probe.model.host import PAGE_BYTES
from tests.results.captures import (
    COUNTED_SECONDS,
    FAULTS_SECONDS,
    SAMPLES_A_SECOND,
    WITHOUT_OFFSET,
    Guests,
    Measured,
)
from tests.results.counters import BUSY_SECONDS, OWN_SECONDS
from tests.results.place import CGROUP

# Of fewer, one more or less is much.
BUSY = 100
AGES = ((1.0, "< 1 s"), (10.0, "1-10 s"), (60.0, "10-60 s"), (float("inf"), "> 60 s"))
POINTS, FACTOR = "points", "factor"
POLICIES = (
    *("rfc-v1", "grow-8k", "accessed-bit", "below-sp", "gc-sleepers", "vendor"),
    *("static-8k", "static-12k"),
)


@dataclass(frozen=True)
class Table:
    """Rows of words. command: what prints its figures of one capture."""

    title: str
    command: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def markdown(self) -> list[str]:
        rule = ["---", *("---:" for _ in self.head[1:])]
        return [
            f"### {self.title}",
            "",
            f"    {self.command}",
            "",
            *("| " + " | ".join(row) + " |" for row in (self.head, rule, *self.rows)),
            "",
            self.note,
            "",
        ]


def percent(ratio: float | None, digits: int = 2) -> str:
    return "-" if ratio is None else f"{100 * ratio:.{digits}f}%"


def number(value: float | None) -> str:
    """With three digits or whole."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(
    title: str,
    command: str,
    columns: Sequence[tuple[str, Callable[[Measured], str]]],
    loads: Iterable[Measured],
    note: str,
) -> Table:
    rows = [[one.name, *(write(one) for _, write in columns)] for one in loads]
    head = ["load", *(head for head, _ in columns)]
    return Table(title, f"dynstack-probe {command}", head, rows, note)


def savings(loads: Sequence[Measured]) -> Table:
    def spread(one: Measured) -> str:
        series = one.estimate["series"]["saving_ratio"]
        return f"{percent(series['least'])} to {percent(series['most'])}"

    return _table(
        "Stacks and saving (rfc-v1)",
        "estimate docs/results/LOAD.dsp --by cgroup",
        [
            ("stacks", lambda one: f"{one.estimate['measured']['stacks']:,}"),
            ("kernel threads", lambda one: f"{one.estimate['measured']['kthreads']:,}"),
            ("of the load", lambda one: f"{own_stacks(one)[0]:,}"),
            ("BASE, KiB", lambda one: f"{one.estimate['measured']['base_kib']:,}"),
            ("Dynamic, KiB", lambda one: f"{one.rfc_v1['dynamic_kib']:,}"),
            ("saving", lambda one: percent(one.rfc_v1["saving_ratio"])),
            ("over the series", spread),
            ("with reserve", lambda one: percent(one.rfc_v1["saving_with_reserve_ratio"])),
            ("of RAM", lambda one: percent(one.rfc_v1["saving_with_reserve_of_ram_ratio"], 4)),
            ("load alone", lambda one: percent(own_stacks(one)[1])),
        ],
        loads,
        "Stacks and BASE are measured, on the whole host, in the snapshot with the median saving;"
        " Dynamic and saving are modelled. Dynamic errs low (a scan can't see the reuse of grown"
        " cached stacks). *Of the load*, *load alone*: its own cgroup, without the kernel threads"
        " that work for it.",
    )


def is_own(name: str, cgroup: str) -> bool:
    """Whether the load's tasks run in it: its own, below it, or the containers' that it starts."""
    return f"{cgroup}/".startswith((f"/{CGROUP}/{name}/", f"/{CGROUP}-containers/"))


def _own_groups(one: Measured) -> list[dict[str, Any]]:
    return [group for group in one.estimate["groups"] if is_own(one.name, group["name"])]


def own_deepest(one: Measured) -> int | None:
    """The deepest mark of the load's own tasks in that frame, bytes."""
    return max((group["worst_mark_bytes"] for group in _own_groups(one)), default=None)


def own_stacks(one: Measured) -> tuple[int, float | None]:
    """Stacks in the load's cgroup and below, and the saving on those."""
    own = _own_groups(one)
    base = sum(group["base_kib"] for group in own)
    dynamic = sum(group["dynamic_kib"] for group in own)
    return sum(group["stacks"] for group in own), 1 - dynamic / base if base else None


def policies(loads: Sequence[Measured]) -> Table:
    def of(name: str) -> Callable[[Measured], str]:
        def write(one: Measured) -> str:
            found = next(p for p in one.policies["policies"] if p["name"] == name)
            over = found["over_limit_tasks"]
            text = percent(found["saving_with_reserve_ratio"])
            return f"{text} ({over} over)" if over else text

        return write

    return _table(
        "Saving with the reserve paid, by policy",
        "policies docs/results/LOAD.dsp",
        [(name, of(name)) for name in POLICIES],
        loads,
        "Modelled. *Over*: tasks whose high-water mark is above the policy's limit; each would"
        " have overflowed. For what a policy must do each second, see the table of costs.",
    )


def depths(loads: Sequence[Measured]) -> Table:
    def of(when: str, quantile: str) -> Callable[[Measured], str]:
        def write(one: Measured) -> str:
            every = next(r for r in one.estimate["depths"]["by_role"] if r["role"] == "all")
            return f"{every[when][quantile]:,}"

        return write

    def deepest(one: Measured) -> str:
        return str(one.estimate["deepest"][0]["name"])

    quantiles = ("p50", "p90", "p99", "p99.9", "max")
    return _table(
        "Depth ever and now, bytes",
        "estimate docs/results/LOAD.dsp --depths",
        [
            *((f"ever {quantile}", of("ever", quantile)) for quantile in quantiles),
            *((f"now {quantile}", of("now", quantile)) for quantile in ("p50", "p99", "max")),
            ("deepest task", deepest),
            ("of the load, max", lambda one: number(own_deepest(one))),
        ],
        loads,
        "Measured, of all stacks in that snapshot, by nearest rank. *Ever*: high-water mark,"
        " since the task started. *Now*: at the saved stack pointer of sleeping tasks. Both err low"
        " where the deepest words used hold zero.",
    )


def rates(loads: Sequence[Measured]) -> Table:
    def per(one: Measured, what: str) -> float | None:
        events: float = one.cost["faults_per_second"]
        base = one.cost["created_per_second"]
        if what == "syscalls":
            base = (one.note["system_calls_per_second"] or 0) / 1000
        return events / base if base else None

    def reused(one: Measured) -> str:
        created = one.cost["created_per_second"]
        return percent(one.cost["reused_per_second"] / created, 1) if created else "-"

    return _table(
        "Events a second",
        "cost docs/results/LOAD.dsp",
        [
            ("tasks created", lambda one: number(one.cost["created_per_second"])),
            ("on a cached stack", reused),
            ("pages first used", lambda one: number(crossed(one))),
            ("came with the stack", lambda one: number(one.cost["avoided_pages_per_second"])),
            ("stack faults", lambda one: number(one.cost["faults_per_second"])),
            ("a task created", lambda one: number(per(one, "created"))),
            ("a 1,000 system calls", lambda one: number(per(one, "syscalls"))),
            ("page faults, user", lambda one: number(one.cost["page_faults_per_second"]["user"])),
            ("kernel", lambda one: number(one.cost["page_faults_per_second"]["kernel"])),
            ("system calls", lambda one: number(one.note["system_calls_per_second"])),
        ],
        loads,
        "Of the whole host. Tasks created and page faults are measured. Pages first used by a task,"
        " beyond the first: those that came with its stack, grown by an earlier owner, need no"
        " fault under rfc-v1; the others need one each (stack faults: modelled; errs high, since"
        " what a living task's stack came with is known only when it exits). System calls: perf,"
        f" for {COUNTED_SECONDS:g} s after the series.",
    )


def crossed(one: Measured) -> float:
    """Pages per second that tasks used beyond their first, faulted in or reused."""
    fresh: float = one.cost["fault_pages_per_second"]
    avoided: float = one.cost["avoided_pages_per_second"]
    return fresh + avoided


def checks(loads: Sequence[Measured]) -> Table:
    """The same quantities from sources that have nothing to do with the tool."""

    def beside(source: str, what: str) -> Callable[[Measured], str]:
        def write(one: Measured) -> str:
            counted = one.note["beside"].get(source, {}).get(what)
            own = told(one, what)
            if counted is None or own is None:
                return "-"
            return f"{counted:,.0f} ({counted / own:.3f})" if own else f"{counted:,.0f}"

        return write

    def ours(what: str) -> Callable[[Measured], str]:
        return lambda one: number(told(one, what))

    def watched(one: Measured) -> str:
        found, other = one.note["faults"]["host"]["pages"], one.note["faults"]["rfc_v1"]
        return f"{found:,} / {other['crossed_pages']:,}" if other else f"{found:,} / -"

    def stacks(one: Measured) -> str:
        coverage = one.estimate["coverage"]
        return f"{coverage['read']:,} / {coverage['kernel_stacks']:,}"

    return Table(
        "The same figures from other sources",
        ".venv/bin/python -m tests.results.document",
        [
            "load",
            *("tasks created", "/proc/stat", "perf"),
            *("page faults, user", "perf", "kernel", "perf"),
            *("exits", "bpftrace", "with a second page", "bpftrace"),
            *("stacks read / nr_kernel_stack", "pages first used: faults / serve's probe"),
        ],
        [
            [
                one.name,
                *(ours("created")(one), beside("kernel", "created")(one)),
                beside("perf", "created")(one),
                *(ours("user")(one), beside("perf", "user")(one)),
                *(ours("kernel")(one), beside("perf", "kernel")(one)),
                *(ours("exits")(one), beside("bpftrace", "exits")(one)),
                *(ours("second")(one), beside("bpftrace", "second")(one)),
                *(stacks(one), watched(one)),
            ]
            for one in loads
        ],
        "Counts between the first and the last snapshot; in brackets the other source's over ours."
        " The others are `processes` in /proc/stat, perf's task:task_newtask and page-faults (:u,"
        " :k), and a bpftrace program (tests/results/second_page.bt) that checks the 512 bytes"
        " below the first page of each exiting task. Each is read ten times a second and"
        " interpolated to the time of the snapshots, so they are off by a few hundredths of a"
        " second. Page faults: pages that the kernel populates itself, as for mlock(), are only in"
        " ours, under user mode; faults on bad addresses, and retried ones, only in perf's. Faults"
        " in kernel mode with page faults disabled, which the kernel then retries (as write(2)"
        " does: bpftrace finds pgbench's under copy_folio_from_iter_atomic()), go through the same"
        " entry code, so ours includes them; user mode, which is the remainder, has as many fewer;"
        " perf counts only faults that are handled. Stacks: the difference is tasks created or"
        " exiting during the scan, and stacks not yet freed. Last column: pages that"
        f" `dynstack-probe faults` found in {FAULTS_SECONDS} s by checking at the end of each"
        " system call, against what the lifecycle probe counted meanwhile; on a busy host they"
        " start and stop a few tenths of a second apart.",
    )


def told(one: Measured, what: str) -> float | None:
    """What the capture says of its whole length."""
    if what in ("exits", "second"):
        counts = exited(one)
        return sum(n for pages, n in counts.items() if what == "exits" or pages > 1)
    cost = one.cost
    a_second = cost["created_per_second" if what == "created" else "page_faults_per_second"]
    if what != "created":
        a_second = a_second[what]
    return None if a_second is None else a_second * cost["seconds"]


def costs(loads: Sequence[Measured]) -> Table:
    def ranged(key: str) -> Callable[[Measured], str]:
        def write(one: Measured) -> str:
            cost = one.cost["cost"]
            middle, ends = cost[key], cost[f"{key}_range"]
            if middle is None:
                return "-"
            return f"{percent(middle, 4)} ({percent(ends[0], 4)} to {percent(ends[1], 4)})"

        return write

    def break_even(key: str) -> Callable[[Measured], str]:
        return lambda one: number(one.cost["break_even"][key])

    def saved(one: Measured) -> str:
        return f"{one.cost['policies'][0]['saved_kib']:,}"

    return _table(
        "Cost of rfc-v1, as a share of all CPU time",
        "cost docs/results/LOAD.dsp",
        [
            (
                "a stack fault, ns",
                lambda one: number((one.cost["calibration"] or {}).get("stack_fault_ns")),
            ),
            ("faults", ranged("faults_cpu_ratio")),
            ("cheaper forks save", ranged("fork_saving_cpu_ratio")),
            ("net", ranged("net_cpu_ratio")),
            ("saved, KiB", saved),
            ("break-even: stack fault, ns", break_even("stack_fault_ns")),
            ("kernel page fault, ns more", break_even("kernel_page_fault_ns")),
            ("it eats the saving, ns more", break_even("kernel_page_fault_ns_eats_the_saving")),
        ],
        loads,
        "Modelled from measured counts, at prices calibrated on this host while the load ran"
        " (load makes them err high). Net below zero: it saves time as well. *Break-even*: what"
        " one fault may cost before all of them take 0.1% of CPU time; last column: how much more"
        " each page fault in kernel mode may cost before it eats up what cheaper forks save.",
    )


def safety(loads: Sequence[Measured]) -> Table:
    def said(*keys: str) -> Callable[[Measured], str]:
        def write(one: Measured) -> str:
            value = one.cost["safety"]
            for key in keys:
                value = (value or {}).get(key)
            return "-" if value is None else number(value)

        return write

    return _table(
        "Is it safe, and would 8 or 12 KiB do",
        "cost docs/results/LOAD.dsp",
        [
            ("headroom least, KiB", said("headroom_kib", "least")),
            ("median, KiB", said("headroom_kib", "median")),
            ("samples below low", said("below_low_samples")),
            ("allocation stalls", said("allocation_stalls")),
            ("pages reclaimed directly", said("direct_reclaimed_pages")),
            ("deepest, bytes", said("deepest_bytes")),
            ("over 8 KiB", said("tasks_over_kib", "8")),
            ("over 12 KiB", said("tasks_over_kib", "12")),
            ("exits with 2 pages", lambda one: exits(one)),
            ("with more", lambda one: exits(one, more=True)),
        ],
        loads,
        "Measured. Headroom: free memory above the minimum watermarks, over all zones. The kernel"
        " counts only host-wide stalls and direct reclaim: those inside a memory cgroup, as in"
        " *reclaim*, are not included. Over 8 and"
        " 12 KiB: living tasks. Exits: tasks that ended while the series ran, by the pages down"
        " to their marks; a cached stack is cleared before it is handed out again, so a mark is"
        " the task's own.",
    )


def exited(one: Measured) -> dict[int, int]:
    """Tasks that ended during the series, by pages down to the mark."""
    frames = [frame.lifecycle for frame in read_frames(one.capture)]
    first, last = frames[0], frames[-1]
    counts: dict[int, int] = {}
    for sign, life in ((1, last), (-1, first)):
        if life is not None:
            for (pages, _), count in life.exited.items():
                counts[pages] = counts.get(pages, 0) + sign * count
    return counts


def exits(one: Measured, *, more: bool = False) -> str:
    counts = exited(one)
    every = sum(counts.values())
    chosen = sum(n for pages, n in counts.items() if (pages > 2 if more else pages == 2))
    return f"{chosen:,} of {every:,}" if every else "-"


@dataclass(frozen=True)
class Growth:
    """By the age of tasks: how many were seen in two frames, and of how many the mark
    grew over a page boundary between them. Seconds are those of all their waiting.
    """

    seen: list[int]
    grown: list[int]
    task_seconds: list[float]


def late_growth(loads: Iterable[Measured]) -> Growth:
    total = Growth([0] * len(AGES), [0] * len(AGES), [0.0] * len(AGES))
    for one in loads:
        before: dict[tuple[int, int], int] = {}
        then = 0
        for frame in read_frames(one.capture):
            stacks = frame.stacks
            now: dict[tuple[int, int], int] = {}
            for tid, start, mark in zip(
                stacks.tids, stacks.start_boot_ns, stacks.mark_bytes, strict=True
            ):
                if not tid:
                    continue
                now[tid, start] = -(-mark // PAGE_BYTES)
                old = before.get((tid, start))
                if old is None:
                    continue
                age = (then - start) / 1e9
                band = next(n for n, (end, _) in enumerate(AGES) if age < end)
                total.seen[band] += 1
                total.grown[band] += now[tid, start] > old
                total.task_seconds[band] += (frame.boot_ns - then) / 1e9
            before, then = now, frame.boot_ns
    return total


def ages(loads: Sequence[Measured]) -> Table:
    growth = late_growth(loads)
    rows = [
        [
            name,
            f"{growth.seen[band]:,}",
            f"{growth.grown[band]:,}",
            number(
                3600 * growth.grown[band] / growth.task_seconds[band]
                if growth.task_seconds[band]
                else None
            ),
        ]
        for band, (_, name) in enumerate(AGES)
    ]
    return Table(
        "Growth over a page boundary, by the task's age",
        ".venv/bin/python -m tests.results.document",
        ["age at the first of two snapshots", "task intervals", "that grew", "per task and hour"],
        rows,
        "Measured, living tasks of all captures together, without the 50,000 sleepers. Growth of"
        " tasks that exited between two snapshots is not included: they are in the exits.",
    )


def offsets(loads: Sequence[Measured]) -> Table:
    def pages(one: Measured) -> str:
        offset = one.estimate["depths"]["random_offset"]
        return f"{offset['pages_low']:.0f} to {offset['pages_high']:.0f}"

    def share(one: Measured) -> str:
        offset, kib = one.estimate["depths"]["random_offset"], one.rfc_v1
        held = kib["dynamic_kib"] / 4
        return (
            f"{percent(offset['pages_low'] / held, 1)} to {percent(offset['pages_high'] / held, 1)}"
        )

    return _table(
        "What the random stack offset costs",
        "estimate docs/results/LOAD.dsp --depths",
        [
            (
                "user stacks",
                lambda one: f"{one.estimate['depths']['random_offset']['user_stacks']:,}",
            ),
            ("pages only because of it", pages),
            ("of all dynamic pages", share),
        ],
        loads,
        "Modelled from measured marks: least if a single call went that deep, most if many did.",
    )


def paths(loads: Sequence[Measured]) -> Table:
    rows = []
    for one in loads:
        found = one.note["faults"]["deepest_paths"]
        if found:
            best = found[0]
            tail = " > ".join(word.split(" ")[0] for word in best["path"][-12:])
            rows.append([one.name, best["comm"], f"{best['deepest_bytes']:,}", f"`{tail}`"])
    return Table(
        "The deepest sampled call path",
        "dynstack-probe faults --rate 1999 --deeper-than 2048 --folded PATHS",
        ["load", "task", "bytes", "its last twelve functions"],
        rows,
        f"Measured {SAMPLES_A_SECOND:,} times a second on each CPU for {FAULTS_SECONDS} s, in the"
        " load's tasks and kernel threads: lower bounds, since the deepest moments are short."
        " docs/results/LOAD.json has three for each load, with the depth of each function.",
    )


def guests(kernels: Guests) -> Table:
    """One row a kernel and load; only depth, since the guests are emulated."""
    rows = []
    for kernel, loads in kernels:
        for one in loads:
            every = next(r for r in one.estimate["depths"]["by_role"] if r["role"] == "all")
            pages = one.estimate["measured"]["tasks_by_pages"]
            own, saving = own_stacks(one)
            deepest = one.estimate["deepest"][0]
            ever = [f"{every['ever'][q]:,}" for q in ("p50", "p90", "p99", "max")]
            more = sum(count for page, count in pages.items() if int(page) > 2)
            user = next(r for r in one.estimate["depths"]["by_role"] if r["role"] == "user")
            rows.append(
                [
                    f"{kernel}: {one.name}",
                    number(one.note.get("cpu_seconds")),
                    f"{one.estimate['measured']['stacks']:,}",
                    *ever,
                    f"{user['ever']['p50']:,}",
                    f"{pages.get('2', 0):,}",
                    f"{more:,}",
                    percent(one.rfc_v1["saving_with_reserve_ratio"]),
                    f"{own:,}",
                    percent(saving),
                    str(deepest["name"]),
                ]
            )
    return Table(
        "Depth on Debian's kernels, in emulated guests",
        "dynstack-probe estimate docs/results/guests/KERNEL/LOAD.dsp --depths",
        [
            *("kernel: load", "CPU", "stacks", "ever p50", "p90", "p99", "max", "user ever p50"),
            *("of 2 pages", "of more", "saving", "of the load", "load alone"),
            "deepest task",
        ],
        rows,
        "Depths in bytes, measured; saving modelled (rfc-v1, with the reserve). *CPU*: seconds that"
        " the load ran on an emulated CPU, about 20 times slower than the host's, so depths are"
        " lower bounds. Its tasks were frozen for the snapshot."
        + " *No-offset*: booted with randomize_kstack_offset=off."
        * any(kernel.endswith(WITHOUT_OFFSET) for kernel, _ in kernels),
    )


def repeats(pairs: Sequence[tuple[Measured, Measured]]) -> Table:
    """Two runs of the same load."""

    def both(write: Callable[[Measured], str], pair: tuple[Measured, Measured]) -> str:
        return " / ".join(write(one) for one in pair)

    columns: Sequence[tuple[str, Callable[[Measured], str]]] = (
        ("stacks", lambda one: f"{one.estimate['measured']['stacks']:,}"),
        ("saving", lambda one: percent(one.rfc_v1["saving_ratio"])),
        ("deepest, bytes", lambda one: number(one.cost["safety"]["deepest_bytes"])),
        ("tasks created a second", lambda one: number(one.cost["created_per_second"])),
        ("stack faults a second", lambda one: number(one.cost["faults_per_second"])),
        ("exits with 2 pages", exits),
        ("page faults, kernel", lambda one: number(one.cost["page_faults_per_second"]["kernel"])),
        ("a fault, ns", lambda one: number((one.cost["calibration"] or {}).get("stack_fault_ns"))),
        ("net", lambda one: percent(one.cost["cost"]["net_cpu_ratio"], 4)),
    )
    return Table(
        "Two runs of the same load: first / second",
        "dynstack-probe estimate; dynstack-probe cost",
        ["load", *(head for head, _ in columns)],
        [[pair[0].name, *(both(write, pair) for _, write in columns)] for pair in pairs],
        "The median snapshot of each; rates over the whole series. The spread is below.",
    )


def spread(pairs: Sequence[tuple[Measured, Measured]]) -> Table:
    """How far apart two runs of the same load are: the error of one figure from one run."""
    figures: Sequence[tuple[str, str, Callable[[Measured], float | None]]] = (
        ("saving", POINTS, lambda one: one.rfc_v1["saving_ratio"]),
        ("saving, load alone", POINTS, lambda one: own_stacks(one)[1]),
        ("deepest of the load", FACTOR, own_deepest),
        ("tasks created a second", FACTOR, lambda one: _of_many(one, "created_per_second")),
        ("stack faults a second", FACTOR, lambda one: _of_many(one, "faults_per_second")),
        ("page faults, user", FACTOR, lambda one: _of_many(one, "page_faults_per_second", "user")),
        (
            "page faults, kernel",
            FACTOR,
            lambda one: _of_many(one, "page_faults_per_second", "kernel"),
        ),
        (
            "a stack fault's price",
            FACTOR,
            lambda one: (one.cost["calibration"] or {}).get("stack_fault_ns"),
        ),
        ("net cost", POINTS, lambda one: one.cost["cost"]["net_cpu_ratio"]),
    )
    rows = []
    for head, unit, value in figures:
        found = sorted(
            (apart, pair[0].name)
            for pair in pairs
            if (apart := _apart(unit, *map(value, pair))) is not None
        )
        if found:
            middle = statistics.median_low(apart for apart, _ in found)
            most, name = found[-1]
            rows.append([head, unit, _written(unit, middle), _written(unit, most), name])
    return Table(
        "How far apart two runs are",
        "dynstack-probe estimate --by cgroup; dynstack-probe cost",
        ["figure", "how", "median of loads", "most", "where"],
        rows,
        "*Factor*: the larger over the smaller, for rates of which both runs counted"
        f" {BUSY} or more. *Points*: percentage points. No figure of a single load in this"
        " document is more certain than this table says.",
    )


def _of_many(one: Measured, *keys: str) -> float | None:
    """A rate a second; None of fewer than BUSY in the series, where chance is most of it."""
    value: Any = one.cost
    for key in keys:
        value = value[key]
    return float(value) if value * one.cost["seconds"] >= BUSY else None


def _apart(unit: str, first: float | None, second: float | None) -> float | None:
    """How far, in percentage points or as a factor; None where there is nothing to compare."""
    if first is None or second is None:
        return None
    if unit == POINTS:
        return 100 * abs(first - second)
    least, most = sorted((first, second))
    return most / least if least else None


def _written(unit: str, apart: float) -> str:
    return f"{apart:.4f}" if unit == POINTS and apart < 0.1 else f"{apart:.2f}"


def versions(loads: Sequence[Measured]) -> Table:
    rows = [
        [
            one.name,
            one.note["says"] + _stressors(one.note.get("stressors")),
            ", ".join(f"{name} {of}" for name, of in one.note["versions"].items()) or "-",
            f"{one.estimate['series']['seconds']:.0f}",
            *(percent(busy_share(one), 0), percent(own_share(one), 0)),
        ]
        for one in loads
    ]
    return Table(
        "What ran",
        "make results LOADS=LOAD",
        ["load", "what", "Debian's packages", "s recorded", "CPUs busy", "by the load"],
        rows,
        "CPU time of this host during the recording, and the share of the load's own cgroup. The"
        " rest went to kernel threads working for it, to the recording, and to whatever else this"
        " host ran: the smaller the share, the more of the rates in this document is theirs.",
    )


def own_share(one: Measured) -> float | None:
    """Of the CPU time that was used while it was recorded, the load's own."""
    kernel = one.note["beside"].get("kernel", {})
    busy, own = kernel.get(BUSY_SECONDS), kernel.get(OWN_SECONDS)
    return min(1.0, own / busy) if busy and own is not None else None


def busy_share(one: Measured) -> float | None:
    """Of the CPU time that this host had while it was recorded, what was used."""
    busy = one.note["beside"].get("kernel", {}).get(BUSY_SECONDS)
    if busy is None:
        return None
    cpus, seconds = one.estimate["host"]["cpus"], one.note["recorded_seconds"]
    share: float = busy / seconds / cpus
    return min(1.0, share)


def _stressors(counts: dict[str, int] | None) -> str:
    """How many of stress-ng's ended how, in one round of all."""
    return f" ({', '.join(f'{n} {how}' for how, n in counts.items())})" if counts else ""
