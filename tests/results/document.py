# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/results.md, its figures and docs/results-mail.txt from the captures.

Usage: python -m tests.results.document
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import tests.results.loads  # noqa: E402, F401 - declares them
from tests.results import mail, tables  # noqa: E402
from tests.results.answers import answers, claims, span  # noqa: E402
from tests.results.captures import FOLDER, Measured, measured, not_run  # noqa: E402
from tests.results.place import LOADS  # noqa: E402
from tests.results.plots import PLOTS  # noqa: E402
from tests.results.tables import Table  # noqa: E402

SECOND = "second"
MANY_THREADS = "sleepers"
BUSY_A_SECOND = 20


def write(docs: Path, folder: Path = FOLDER) -> None:
    """All files but the captures. Their figures are those of the captures in `folder`."""
    loads = measured(folder)
    if not loads:
        raise SystemExit(f"no captures in {folder}: make results")
    for name, plot in PLOTS.items():
        plot(loads, folder / name)
    (docs / "results.md").write_text("\n".join(markdown(loads, folder)) + "\n")
    (docs / "results-mail.txt").write_text(mail.text(loads))


def all_tables(loads: Sequence[Measured], folder: Path) -> Iterator[Table]:
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
    kernels = guests(folder)
    if kernels:
        yield tables.guests(kernels)
    pairs = repeated(loads, folder)
    if pairs:
        yield tables.repeats(pairs)
    yield tables.versions(loads)


def guests(folder: Path) -> list[tuple[str, list[Measured]]]:
    """Kernel and loads, of the captures that tests/results/guests.py made."""
    return [(kernel.name, measured(kernel)) for kernel in sorted(folder.glob("guests/*"))]


def repeated(loads: Sequence[Measured], folder: Path) -> list[tuple[Measured, Measured]]:
    second = {one.name: one for one in measured(folder / SECOND)}
    return [(one, second[one.name]) for one in loads if one.name in second]


def markdown(loads: Sequence[Measured], folder: Path) -> Iterator[str]:
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
        " computed from the captures in `docs/results/` by the command above its table, with"
        " the load's name for LOAD; those commands need no privileges and no load.",
        "",
        "![Saving against net cost: one dot a load](results/saving-against-cost.svg)",
        "",
        "![Stacks deeper than x, ever: one line a load](results/depths.svg)",
        "",
        "## Answers",
        "",
    )
    for question, answer in answers(loads):
        yield from (f"**{question}** {answer}", "")
    yield from ("## Claims and what was seen", "")
    yield from claims(loads)
    yield from ("", "## Tables", "")
    for table in all_tables(loads, folder):
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
    """The same quantity from another source."""

    def page_faults(one: Measured) -> float | None:
        own = one.cost["page_faults_per_second"]
        return _ratio(one.note["perf"].get("page-faults"), own["user"] + own["kernel"])

    def created(one: Measured) -> float | None:
        perf = one.note["perf"].get("task:task_newtask")
        return _ratio(perf, one.cost["created_per_second"])

    def counted(one: Measured) -> float | None:
        coverage = one.estimate["coverage"]
        return _ratio(coverage["read"], coverage["kernel_stacks"])

    busy = [one for one in loads if one.cost["created_per_second"] >= BUSY_A_SECOND]
    yield from (
        "## Checked by other means",
        "",
        "perf counted other seconds than the series did, so its ratios bound gross errors only;"
        " where one is far from 1 that is not explained, and too low a count of ours is not"
        " ruled out.",
        "",
        "- Page faults a second, perf's counter over ours (user and kernel together; 4 s"
        f" about the series): {span(loads, page_faults, _times)}.",
        f"- Tasks created a second, perf's tracepoint over ours, in loads that make"
        f" {BUSY_A_SECOND} a second or more: {span(busy, created, _times)}.",
        "- Stacks read, over what the kernel counts (`nr_kernel_stack`, refreshed):"
        f" {span(loads, counted, _times)}.",
        "",
    )


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _times(ratio: float) -> str:
    return f"{ratio:.2f}"


def method(loads: Sequence[Measured], pairs: Sequence[object]) -> Iterator[str]:
    busiest = max(one.note["load_average"] for one in loads)
    yield from (
        "## Method and its error",
        "",
        "- Each load starts in a cgroup of its own where cgroup v2 is mounted, warms up for 2 s,"
        " and is recorded by `dynstack-probe record`, a snapshot each 2 s (6 s for the 50,000"
        " sleepers); about then `perf stat -a` counts for 4 s, in part before"
        " the series begins where `record` starts slowly. Then it counts system calls and"
        " `dynstack-probe faults` watches, some seconds each and apart, since watching costs some"
        " 100 ns a system call.",
        f"- This host was not quiet: builds and test suites of other people ran on the same"
        f" {loads[0].estimate['host']['cpus']} CPUs (load average up to {busiest:.0f}, the"
        " loads' own part included). Stacks, marks and depths do not depend on that; rates of"
        " a load are lower than on a quiet host, rates of the host include the others', and"
        " calibrated prices err high.",
        f"- {len(pairs) or 'No'} loads were run twice{', see above' * bool(pairs)}; the whole was"
        " not.",
        "- Names of what else ran on this host are replaced by tokens; kernel threads and what"
        " ran in the load's cgroup keep theirs.",
        "- Kernel threads work for every load and live longer: marks of kworkers carry over from"
        " load to load, so a load's own part is in the columns *of the load* and *load alone*.",
        "- One kernel build, one vendor, 2 virtual CPUs, no NUMA, one disk (virtio), no real"
        " network card, no confidential or huge-page set-up. The file systems lie on loop"
        " devices. What it can't tell: depth under other drivers (NVMe, device mapper, NFS,"
        " SCSI), on distribution kernels (more is built in, more is traced), with KASAN or"
        " 32 KiB stacks, and rates on machines with more CPUs.",
        "- To extend it: `make results` on that machine (30 minutes, root), or only a capture of"
        " one's own load, see CONTRIBUTING.md.",
    )


if __name__ == "__main__":
    write(ROOT / "docs")
