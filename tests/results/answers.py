# SPDX-License-Identifier: GPL-2.0-or-later
"""The questions that reviewers asked, each answered by figures of the captures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dynstack_probe.model.host import PAGE_BYTES
from tests.results.captures import WITHOUT_OFFSET, Guests, Measured
from tests.results.tables import BUSY, exited, late_growth, number, own_deepest, own_stacks, percent

# The RFC's cover letter, March 2024, and the review of April to June 2026.
PAGE_KIB = 4


def span(
    loads: Sequence[Measured],
    value: Callable[[Measured], float | None],
    write: Callable[[float], str],
) -> str:
    """'A (LOAD) to B (LOAD), median M': the extremes over the loads, and where they were."""
    found = sorted((v, one.name) for one in loads if (v := value(one)) is not None)
    if not found:
        return "not measured"
    (least, low), (most, high) = found[0], found[-1]
    middle = statistics.median_low(v for v, _ in found)
    if len(found) == 1:
        return f"{write(least)} ({low})"
    if write(least) == write(most):
        return f"{write(least)} in all"
    return f"{write(least)} ({low}) to {write(most)} ({high}; median of loads {write(middle)})"


def _role(one: Measured, role: str) -> dict[str, Any] | None:
    rows = one.estimate["depths"]["by_role"]
    return next((row for row in rows if row["role"] == role), None)


def _deepest(loads: Sequence[Measured]) -> Measured:
    return max(loads, key=lambda one: int(one.cost["safety"]["deepest_bytes"]))


def _exits(loads: Sequence[Measured]) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in loads:
        total.update(exited(one))
    return total


def answers(loads: Sequence[Measured], kernels: Guests = ()) -> Iterator[tuple[str, str]]:
    """Question and answer, in the order in which they were asked. kernels: of guests."""
    deepest = _deepest(loads)
    yield (
        '1. "Actual data on stack usage under various workloads, both maximum depth and depth'
        ' at context switch"?',
        f"Deepest ever, in bytes: in the median of stacks {_quantile(loads, 'ever', 'p50')}, at"
        f" the 99th percentile {_quantile(loads, 'ever', 'p99')}; the deepest of all"
        f" {deepest.cost['safety']['deepest_bytes']:,} ({deepest.name}); of a load's own tasks"
        f" {span(loads, own_deepest, number)}. Asleep, at the saved"
        f" stack pointer: median {_quantile(loads, 'now', 'p50')}, deepest"
        f" {_quantile(loads, 'now', 'max')}.",
    )
    yield (
        '2. "Zero numbers about the actual real world savings"?',
        "Under rfc-v1, with the reserve paid: "
        + span(loads, lambda one: one.rfc_v1["saving_with_reserve_ratio"], percent)
        + " of kernel stack memory; of the load's own tasks alone "
        + span(loads, lambda one: own_stacks(one)[1], percent)
        + ". In memory that is "
        + span(loads, lambda one: float(one.cost["policies"][0]["saved_kib"]), number)
        + " KiB.",
    )
    yield (
        "3. How many page faults does a real load take, and how much slower may they get?",
        "In user mode "
        + span(loads, lambda one: float(one.cost["page_faults_per_second"]["user"]), number)
        + " a second; in kernel mode on user memory, the ones that would get slower, "
        + span(loads, lambda one: float(one.cost["page_faults_per_second"]["kernel"]), number)
        + ". Each of those may cost "
        + span(loads, lambda one: one.cost["break_even"]["kernel_page_fault_ns"], number)
        + " ns more before they take 0.1% of CPU time.",
    )
    yield (
        '4. "Percentage of system memory", and kernel against user threads?',
        "Of all memory "
        + span(loads, lambda one: one.rfc_v1["saving_with_reserve_of_ram_ratio"], _fine)
        + " is saved. Kernel threads are "
        + span(
            loads,
            lambda one: one.estimate["measured"]["kthreads"] / one.estimate["measured"]["stacks"],
            lambda ratio: percent(ratio, 1),
        )
        + " of all stacks.",
    )
    calls = _calls(loads)
    over_8k = sum(int(one.cost["safety"]["tasks_over_kib"]["8"]) for one in loads)
    yield (
        '5. "Which system calls are actually using more than 8k of stack? And how often"?',
        f"{over_8k:,} living tasks in all loads had a mark above 8 KiB, and"
        f" {sum(n for p, n in _exits(loads).items() if p > 2):,} of"
        f" {sum(_exits(loads).values()):,} that ended. The calls in which the loads' tasks went"
        f" past a page, {sum(calls.values()):,} times while watched: {_ranked(calls)}.",
    )
    yield (
        '6. "Hey, which process did that"?',
        "The five deepest, in bytes: "
        + ", ".join(f"{name} {mark:,} ({where})" for mark, name, where in _deepest_own(loads))
        + ". The table of paths has the deepest path of each load.",
    )
    yield (
        '7. "What about long running kernel threads whose will never exit?"',
        "Kernel threads other than kworkers: median mark "
        + span(loads, lambda one: _of_role(one, "kernel thread", "p50"), number)
        + " bytes, deepest "
        + span(loads, lambda one: _of_role(one, "kernel thread", "max"), number)
        + "; kworkers: median "
        + span(loads, lambda one: _of_role(one, "kworker", "p50"), number)
        + ", deepest "
        + span(loads, lambda one: _of_role(one, "kworker", "max"), number)
        + ". All are read, living ones too.",
    )
    over_12k = sum(int(one.cost["safety"]["tasks_over_kib"]["12"]) for one in loads)
    yield (
        "8. Would 12 KiB be enough? 8 KiB?",
        f"Here {over_12k:,} living tasks of all loads were above 12 KiB and {over_8k:,} above"
        f" 8 KiB; the deepest had {deepest.cost['safety']['deepest_bytes']:,} bytes. That is one"
        " kernel build without"
        " KASAN, NFS, device mapper or NVMe, so it is only a lower bound on the need."
        + _in_guests(kernels),
    )
    growth = late_growth([one for one in loads if one.name != "sleepers"])
    yield (
        '9. "How do we know that task won\'t dive deeper, later?"',
        f"Of {growth.seen[3]:,} intervals of tasks older than a minute, the mark passed another"
        f" page in {growth.grown[3]:,}; of {growth.seen[2]:,} of tasks 10 to 60 s old, in"
        f" {growth.grown[2]:,}; of {growth.seen[0] + growth.seen[1]:,} of younger tasks, in"
        f" {growth.grown[0] + growth.grown[1]:,}. It does happen, so a policy that takes pages"
        " away from old tasks must be able to give them back.",
    )
    where = _contexts(loads)
    yield (
        "10. In which contexts do stacks cross a page, and is memory available then?",
        f"Of {sum(where.values()):,} crossings of the loads' own tasks: {_ranked(where)}. Free"
        " memory above the minimum watermarks was at least "
        + span(loads, lambda one: _headroom(one), number)
        + " KiB;"
        f" {sum(int(one.cost['safety']['allocation_stalls'] or 0) for one in loads):,}"
        " allocations stalled in all loads together; the kernel does not count reclaim inside a"
        " memory cgroup there.",
    )
    saving_time = [one for one in loads if (net := one.cost["cost"]["net_cpu_ratio"]) and net < 0]
    yield (
        "11. Does fork get faster, and what is the net cost?",
        f"Net cost of all CPU time, modelled at calibrated prices: {_net(loads)}; below zero"
        f" (forks gain more than faults cost) in {len(saving_time)} of {len(loads)} loads.",
    )
    yield offset_answer(loads, kernels)


def offset_answer(loads: Sequence[Measured], kernels: Guests) -> tuple[str, str]:
    """What RANDOMIZE_KSTACK_OFFSET costs, and what guests without it say."""

    def share(end: str) -> Callable[[Measured], float | None]:
        def value(one: Measured) -> float | None:
            offset = one.estimate["depths"]["random_offset"]
            held = one.rfc_v1["dynamic_kib"] / PAGE_KIB
            return offset[end] / held if offset else None

        return value

    return (
        "12. What does the random stack offset cost in pages?",
        "Of all pages that rfc-v1 would hold, modelled from the marks, at least"
        f" {span(loads, share('pages_low'), _tenth)} are there because of it alone, at most"
        f" {span(loads, share('pages_high'), _tenth)}." + _without_offset(kernels),
    )


def _without_offset(kernels: Guests) -> str:
    """The same loads on the same kernel, booted with it and without, as a sentence."""
    by_name = {kernel: {one.name: one for one in loads} for kernel, loads in kernels}
    said = []
    for kernel, loads in kernels:
        for one in loads:
            off = by_name.get(f"{kernel} {WITHOUT_OFFSET}", {}).get(one.name)
            if off is not None:
                said.append(f"{_past_a_page(one)} and {_past_a_page(off)} ({one.name}, {kernel})")
    if not said:
        return ""
    return (
        " In guests booted with it and without, user threads past their first page, each a fault"
        f" or a page that came with the stack: {', '.join(said)}."
    )


def _past_a_page(one: Measured) -> str:
    """'11 of 60' user threads."""
    users = one.user_marks
    return f"{sum(mark > PAGE_BYTES for mark in users)} of {len(users)}"


def _in_guests(kernels: Guests) -> str:
    """The deepest mark on distribution kernels, as a sentence of its own."""
    found = [
        (int(one.estimate["deepest"][0]["mark_bytes"]), one.name, kernel)
        for kernel, loads in kernels
        for one in loads
    ]
    if not found:
        return ""
    mark, name, kernel = max(found)
    return (
        f" On Debian's kernels, {len(found)} emulated guests: the deepest {mark:,} ({name} on"
        f" {kernel})."
    )


def claims(loads: Sequence[Measured]) -> Iterator[str]:
    """A table: claim, what was seen, where."""
    exits = _exits(loads)
    every = sum(exits.values())
    deep = sum(count for pages, count in exits.items() if pages > 1)
    faults = sum(one.cost["faults_per_second"] for one in loads)
    created = sum(one.cost["created_per_second"] for one in loads)
    living = [_pages(one) for one in loads if one.name != "sleepers"]
    stacks, past = sum(map(sum, living)), sum(sum(of[1:]) for of in living)
    yield from ("| claim | seen here | evidence |", "| --- | --- | --- |")
    yield (
        '| "only 5% of active tasks" ever fault (v1) | '
        f"{percent(past / stacks, 1)} of living stacks and {percent(deep / every, 1)} of"
        f" {every:,} exited tasks used a second page; by load, of exits"
        f" {span(loads, _deep_exits, _tenth)}. {number(faults / created)} faults a task"
        " created, since cached stacks come with their pages | `estimate`, `cost` |"
    )
    yield (
        '| "99.999..% of threads never exceed 4K" | '
        f"{percent(1 - deep / every, 1)} of exited tasks and {percent(1 - past / stacks, 1)} of"
        " living ones did not | the same |"
    )
    yield (
        "| 70-75% less | "
        + span(loads, lambda one: one.rfc_v1["saving_ratio"], percent)
        + " without the reserve; with it "
        + span(loads, lambda one: one.rfc_v1["saving_with_reserve_ratio"], percent)
        + " | `estimate` |"
    )
    yield f'| "fork gets faster" | net {_net(loads)}, modelled | `cost` |'


def _deep_exits(one: Measured) -> float | None:
    """The share of exited tasks that had used a second page; of a few it says nothing."""
    counts = exited(one)
    every = sum(counts.values())
    return sum(n for pages, n in counts.items() if pages > 1) / every if every >= BUSY else None


def _tenth(ratio: float) -> str:
    return percent(ratio, 1)


def _fine(ratio: float) -> str:
    return percent(ratio, 4)


def _quantile(loads: Sequence[Measured], when: str, quantile: str) -> str:
    def value(one: Measured) -> float | None:
        row = _role(one, "all")
        return row[when][quantile] if row else None

    return span(loads, value, number)


def _of_role(one: Measured, role: str, quantile: str) -> float | None:
    row = _role(one, role)
    return row["ever"][quantile] if row else None


def _headroom(one: Measured) -> float | None:
    least: float | None = (one.cost["safety"]["headroom_kib"] or {}).get("least")
    return least


def _net(loads: Sequence[Measured]) -> str:
    return span(loads, lambda one: one.cost["cost"]["net_cpu_ratio"], _fine)


def _calls(loads: Sequence[Measured]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in loads:
        for name, call in one.note["faults"]["own_calls"].items():
            total[name] += call["crossings"]
    return total


def _contexts(loads: Sequence[Measured]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in loads:
        total.update(one.note["faults"]["own_contexts"])
    return total


def _ranked(counts: Counter[str]) -> str:
    every = counts.total()
    if not every:
        return "none"
    return ", ".join(f"{name} {percent(n / every, 1)}" for name, n in counts.most_common(6))


def _deepest_own(loads: Sequence[Measured]) -> list[tuple[int, str, str]]:
    """Mark, task, load: the five deepest tasks that are the kernel's or a load's own."""
    found: dict[str, tuple[int, str, str]] = {}
    for one in loads:
        for task in one.estimate["deepest"]:
            name, mark = task["name"], task["mark_bytes"]
            if not name.startswith("comm-") and mark > found.get(name, (0,))[0]:
                found[name] = mark, name, one.name
    return sorted(found.values(), reverse=True)[:5]


def _pages(one: Measured) -> list[int]:
    counts: dict[str, int] = one.estimate["measured"]["tasks_by_pages"]
    return [count for _, count in sorted(counts.items(), key=lambda item: int(item[0]))]
