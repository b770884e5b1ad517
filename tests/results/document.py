# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/results.md, its figures and docs/results-mail.txt from the captures.

Usage: python -m tests.results.document
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import tests.results.loads  # noqa: E402, F401 - declares them
from tests.results import mail, tables  # noqa: E402
from tests.results.answers import answers, claims, span  # noqa: E402
from tests.results.captures import (  # noqa: E402
    COUNTED_SECONDS,
    FAULTS_SECONDS,
    FOLDER,
    WARM_UP_SECONDS,
    Guests,
    Measured,
    measured,
    not_run,
)
from tests.results.place import LOADS  # noqa: E402
from tests.results.plots import PLOTS  # noqa: E402
from tests.results.tables import BUSY, Table, number, percent  # noqa: E402

SECOND = "second"
MANY_THREADS = "sleepers"


def write(docs: Path, folder: Path = FOLDER) -> None:
    """All files but the captures. Their figures are those of the captures in `folder`."""
    loads = measured(folder)
    if not loads:
        raise SystemExit(f"no captures in {folder}: make results")
    for name, plot in PLOTS.items():
        plot(loads, folder / name)
    kernels = guests(folder)
    (docs / "results.md").write_text("\n".join(markdown(loads, kernels, folder)) + "\n")
    (docs / "results-mail.txt").write_text(mail.text(loads, kernels))


def all_tables(
    loads: Sequence[Measured], kernels: Guests, pairs: Sequence[tuple[Measured, Measured]]
) -> Iterator[Table]:
    """In the order of the document."""
    few = [one for one in loads if one.name != MANY_THREADS]
    yield tables.savings(loads)
    yield tables.policies(loads)
    yield tables.depths(loads)
    yield tables.rates(loads)
    yield tables.costs(loads)
    yield tables.safety(loads)
    yield tables.ages(few)
    yield tables.offsets(loads)
    yield tables.paths(loads)
    yield tables.checks(loads)
    if kernels:
        yield tables.guests(kernels)
    if pairs:
        yield tables.repeats(pairs)
        yield tables.spread(pairs)
    yield tables.versions(loads)


def guests(folder: Path) -> Guests:
    """Of the captures that tests/results/guests.py made."""
    return [(kernel.name, measured(kernel)) for kernel in sorted(folder.glob("guests/*"))]


def repeated(loads: Sequence[Measured], folder: Path) -> list[tuple[Measured, Measured]]:
    second = {one.name: one for one in measured(folder / SECOND)}
    return [(one, second[one.name]) for one in loads if one.name in second]


def markdown(loads: Sequence[Measured], kernels: Guests, folder: Path) -> Iterator[str]:
    host = loads[0].estimate["host"]
    days = sorted({one.note["taken"][:10] for one in loads})
    pairs = repeated(loads, folder)
    yield from (
        "# What dynamic kernel stacks would save, cost and risk under real loads",
        "",
        "<!-- made by `make results`; what is written here by hand is lost -->",
        "",
        f"{len(loads)} loads of real software on one host: {host['cpu_model']}, {host['cpus']}"
        f" CPUs (virtual), {host['mem_total_kib'] >> 10:,} MiB, Linux {host['kernel_release']},"
        f" stacks of {host['thread_size_bytes'] >> 10} KiB; {' and '.join(days)}. Every figure is"
        " computed from the captures in `docs/results/` by the command above its table, with LOAD"
        " replaced by the load's name; those commands need neither privileges nor the load.",
        "",
        "![Saving against net cost: one dot a load](results/saving-against-cost.svg)",
        "",
        "![Stacks ever deeper than x: one line a load, with kernel threads](results/depths.svg)",
        "",
        "## Answers",
        "",
    )
    for question, answer in answers(loads, kernels):
        yield from (f"**{question}** {answer}", "")
    yield from ("## Claims and what was seen", "")
    yield from claims(loads)
    yield from ("", "## Tables", "")
    for table in all_tables(loads, kernels, pairs):
        yield from table.markdown()
    have = {one.name for one in loads}
    missing = dict(not_run(folder))
    unrecorded = [name for name in LOADS if name not in have | missing.keys()]
    if missing or unrecorded:
        yield from ("## What was not recorded here", "")
        yield from (f"- {name}: {reason}" for name, reason in missing.items())
        yield from (f"- {name}: {LOADS[name].says}; no capture here yet" for name in unrecorded)
        yield ""
    yield from checks(loads)
    yield from method(loads, pairs)


def checks(loads: Sequence[Measured]) -> Iterator[str]:
    """The same quantity from another source, in words; the table has each load."""

    def beside(source: str, what: str) -> Callable[[Measured], float | None]:
        def ratio(one: Measured) -> float | None:
            own = tables.told(one, what)
            counted = one.note["beside"].get(source, {}).get(what)
            return counted / own if counted is not None and own and own >= BUSY else None

        return ratio

    def watched(one: Measured) -> float | None:
        found, other = one.note["faults"]["host"]["pages"], one.note["faults"]["rfc_v1"]
        return found / other["crossed_pages"] if other and found >= BUSY else None

    def missed(one: Measured) -> float:
        coverage = one.estimate["coverage"]
        return float(coverage["kernel_stacks"] - coverage["read"])

    yield from (
        "## Checked by other means",
        "",
        f"Ratios, for loads with at least {BUSY} events; the table lists every load.",
        "",
        "- Tasks created, `processes` in /proc/stat over ours, over the same seconds:"
        f" {span(loads, beside('kernel', 'created'), _times)}; perf's task:task_newtask over"
        f" ours: {span(loads, beside('perf', 'created'), _times)}.",
        "- Page faults, perf's over ours: in user mode"
        f" {span(loads, beside('perf', 'user'), _times)}; in kernel mode"
        f" {span(loads, beside('perf', 'kernel'), _times)}.",
        "- Tasks that exited with a second page in use, bpftrace over ours:"
        f" {span(loads, beside('bpftrace', 'second'), _times)}.",
        "- Pages first used, `dynstack-probe faults` over the lifecycle probe, which share no code"
        f" in the kernel: {span(loads, watched, _times)}. A page that came with a cached stack is"
        " a crossing but not a fault, so `faults` finds more crossings than `cost` models"
        " faults.",
        "- Stacks that the kernel counts (`nr_kernel_stack`, refreshed) and the scan missed:"
        f" {span(loads, missed, number)}. This kernel's task iterator skips the tasks of PID 1;"
        " the rest were created, exited, or had not yet been freed during the scan.",
        "",
    )


def _times(ratio: float) -> str:
    return f"{ratio:.3f}"


def _whole(ratio: float) -> str:
    return percent(ratio, 0)


def of_the_host(loads: Sequence[Measured]) -> str:
    """A sentence or two: whose the CPU time was."""
    idle = next((one for one in loads if one.name == "idle"), None)
    nothing = tables.busy_share(idle) if idle else None
    return (
        f"With no load (idle) {percent(nothing, 0)} of this host's CPU time was used: by the"
        " recording, by perf and bpftrace, and by whatever else ran. "
    ) * (nothing is not None) + (
        "Of the CPU time used, the load's own tasks account for"
        f" {span(loads, tables.own_share, _whole)}."
    )


def twice(loads: Sequence[Measured], pairs: Sequence[object]) -> str:
    if len(pairs) == len(loads):
        return (
            "All loads were run twice, in two consecutive `make results`. Tables and answers show"
            " the first; one table shows how far apart the two are."
        )
    if not pairs:
        return "No load was run twice, so the spread between runs is unknown."
    return f"{len(pairs)} of {len(loads)} loads were run twice, see above."


def method(loads: Sequence[Measured], pairs: Sequence[object]) -> Iterator[str]:
    yield from (
        "## Method and its error",
        "",
        "- Each load runs in its own cgroup where cgroup v2 is mounted, warms up for"
        f" {WARM_UP_SECONDS:g} s, and is recorded by `dynstack-probe record`, one snapshot every"
        " 2 s (6 s for the 50,000 sleepers), while /proc/stat and `perf stat -a` are read ten"
        f" times a second. Then perf counts system calls for {COUNTED_SECONDS:g} s and"
        f" `dynstack-probe faults` watches for {FAULTS_SECONDS} s, one after the other, since"
        " watching costs about 100 ns a system call.",
        f"- {of_the_host(loads)} Stacks, marks and depths of the load's tasks do not depend on what"
        " else runs; rates are of the whole host and include it, and prices calibrated meanwhile"
        " err high.",
        f"- {twice(loads, pairs)}",
        "- Task names are anonymized, except those of kernel threads and of tasks in the load's"
        " cgroup.",
        "- Kernel threads work for every load and outlive it: marks of kworkers carry over from"
        " load to load. The columns *of the load* and *load alone* leave them out.",
        "- One kernel build, one vendor, 2 virtual CPUs, no NUMA, one disk (virtio), no real"
        " network card, no confidential computing, no huge pages. The file systems are on loop"
        " devices. Not covered: depth under other drivers (NVMe, device mapper,"
        " SCSI), on distribution kernels beyond the few loads in guests, with KASAN or 32 KiB"
        " stacks, and rates on machines with more CPUs.",
        "- To extend it, run `make results` on another machine (30 minutes, root), or send a"
        " capture of your own load: see CONTRIBUTING.md.",
    )


if __name__ == "__main__":
    write(ROOT / "docs")
