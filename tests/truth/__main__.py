# SPDX-License-Identifier: GPL-2.0-or-later
"""`make truth`: the kernel's own word on each stack beside the tool's, in docs/accuracy.md.

Boots a kernel with CONFIG_DEBUG_STACK_USAGE twice, with and without its random stack offset.
Ends with 1 if anything is different that must agree.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dynstack_probe.capture import read_frames
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import Kind
from tests import ROOT
from tests.bench.document import publish
from tests.truth.compare import (
    Exits,
    Tasks,
    compare_exits,
    compare_tasks,
    free_bytes,
    pages_over_one,
)
from tests.truth.kernel import get_truth_kernel
from tests.vm.machine import GuestError, Kernel, UnavailableError, boot, check_host
from tests.vm.truth_guest import NAMESPACED_NAME, SLEEPERS, SLEEPERS_NAME

PAGE = ROOT / "docs/accuracy.md"
WAYS = ("on", "off")
TOOL = (sys.executable, "-m", "dynstack_probe")


class Round(NamedTuple):
    """One pair of captures around sysrq-t."""

    tasks: Tasks
    before: Frame
    # of `estimate --format json` on the capture before
    tasks_by_pages: Counter[int]
    # of sysrq-t a moment later, which leaves idle tasks out
    kernels_by_pages: Counter[int]


class Machine(NamedTuple):
    """What one boot showed."""

    offset: str
    calm: Round
    loaded: Round
    exits: Exits
    lost: int


def main() -> int:
    machines: list[Machine] = []
    try:
        check_host()
        kernel, version = get_truth_kernel()
        for way in WAYS:
            machines.append(_boot(kernel, way))
            _publish(kernel, version, machines)  # as far as it got, should the run be ended
    except (UnavailableError, GuestError) as error:
        print(f"truth: {error}", file=sys.stderr)
        return 1
    wrong = [line for machine in machines for line in wrong_in(machine)]
    print("\n".join(wrong) or "truth: all agree", file=sys.stderr)
    return 1 if wrong else 0


def _publish(kernel: Kernel, version: str, machines: list[Machine]) -> None:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    about = (
        f"Measured {day} on Linux {kernel.release} (Debian's source, {version}),"
        " in QEMU with 2 CPUs."
    )
    publish(PAGE, "make truth", [about, "", *_table(machines)])


def _boot(kernel: Kernel, way: str) -> Machine:
    started = time.monotonic()
    print(f"truth: booting, randomize_kstack_offset={way}", file=sys.stderr, flush=True)
    facts = boot(kernel, "2", ["truth"], f"randomize_kstack_offset={way}")["truth"]
    print(f"truth: ended after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return Machine(
        offset=way,
        calm=_round(facts["calm"]),
        loaded=_round(facts["loaded"]),
        exits=compare_exits(facts["before"], facts["after"]),
        lost=int(facts["after"]["dynstack_lost_events_total"]),
    )


def _round(facts: dict[str, Any]) -> Round:
    with tempfile.TemporaryDirectory() as name:
        frames = []
        for number, capture in enumerate(facts["captures"]):
            path = Path(name) / f"{number}.dsp"
            path.write_bytes(base64.b64decode(capture))
            frames.append(next(iter(read_frames(path))))
        told = subprocess.run(
            [*TOOL, "estimate", f"{name}/0.dsp", "--format", "json"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
    before, after = frames
    size = before.host.thread_size_bytes
    pages = json.loads(told)["measured"]["tasks_by_pages"]
    return Round(
        tasks=compare_tasks(before.stacks, facts["log"], after.stacks, size),
        before=before,
        tasks_by_pages=Counter({int(n): count for n, count in pages.items()}),
        kernels_by_pages=Counter(
            -(-(size - free) // PAGE_BYTES) for free in free_bytes(facts["log"]).values()
        ),
    )


def wrong_in(machine: Machine) -> list[str]:
    """What must agree and does not, a line each."""
    said = []
    for name, one in (("calm", machine.calm), ("loaded", machine.loaded)):
        where = f"offset {machine.offset}, {name}"
        comms = list(one.before.stacks.comms)
        if one.tasks.different:
            said.append(f"{where}: did not run, but differ: {one.tasks.different}")
        if one.tasks.outside:
            said.append(f"{where}: not between the captures: {one.tasks.outside}")
        if one.tasks.same < SLEEPERS:
            said.append(f"{where}: only {one.tasks.same} tasks did not run")
        if comms.count(SLEEPERS_NAME.encode()) != SLEEPERS:
            said.append(f"{where}: {comms.count(SLEEPERS_NAME.encode())} of {SLEEPERS} threads")
        if comms.count(NAMESPACED_NAME.encode()) != 1:
            said.append(f"{where}: the task in another PID namespace is missing")
        counted = Counter(one.before.stacks.mark_pages())
        if one.tasks_by_pages != counted:
            said.append(f"{where}: estimate's tasks_by_pages are not those of its capture")
    exits = machine.exits
    if sum(exits.kernel.values()) != sum(exits.tool.values()):
        said.append(f"offset {machine.offset}: exits {exits.tool}, the kernel's {exits.kernel}")
    if machine.lost:
        said.append(f"offset {machine.offset}: {machine.lost} events lost")
    if any(exits.tool[size] > exits.kernel[size] for size in exits.kernel if size != (1,)):
        said.append(f"offset {machine.offset}: deeper than the kernel says: {exits}")
    return said


def _table(machines: list[Machine]) -> list[str]:
    rows: list[tuple[str, list[object]]] = []

    def row(title: str, *values: object) -> None:
        rows.append((title, list(values)))

    for name in ("calm", "loaded"):
        rounds: list[Round] = [getattr(machine, name) for machine in machines]
        title = {"calm": "calm", "loaded": "under load"}[name]
        row(
            f"{title}: tasks that did not run, equal to sysrq-t to the byte",
            *(f"{r.tasks.same} of {r.tasks.same + len(r.tasks.different)}" for r in rounds),
        )
        row(
            f"{title}: of them by pages used, 1, 2, 3, 4",
            *(_by_pages(r.tasks.pages_same) for r in rounds),
        )
        row(
            f"{title}: tasks that ran, sysrq-t between the two captures",
            *(f"{r.tasks.grown} of {r.tasks.grown + len(r.tasks.outside)}" for r in rounds),
        )
        row(
            f"{title}: `estimate`'s tasks by pages / sysrq-t's a moment later, without idle tasks",
            *(f"{_by_pages(r.tasks_by_pages)} / {_by_pages(r.kernels_by_pages)}" for r in rounds),
        )
        row(
            f"{title}: began or ended meanwhile, not compared",
            *(len(r.tasks.unpaired) for r in rounds),
        )
        row(
            f"{title}: sleeping tasks with only zeros down at the saved stack pointer",
            *(f"{r.tasks.zeros_below_sp} of {r.tasks.sleeping}" for r in rounds),
        )
        row(
            f"{title}: pages beyond the first, mean of user tasks",
            *(f"{pages_over_one(_user_marks(r.before)):.3f}" for r in rounds),
        )
        row(
            f"{title}: mark, mean of user tasks, bytes",
            *(f"{sum(m) / len(m):.0f}" for m in (_user_marks(r.before) for r in rounds)),
        )
    for size, words in (((1,), "one page"), ((2,), "two pages"), ((3, 4), "three or four")):
        row(
            f"exits with {words}: dynstack-probe / kstack_*",
            *(f"{m.exits.tool[size]:,} / {m.exits.kernel[size]:,}" for m in machines),
        )
    return [
        "| | " + " | ".join(f"random offset {machine.offset}" for machine in machines) + " |",
        "|---" + "|---:" * len(machines) + "|",
        *(f"| {title} | {' | '.join(str(value) for value in values)} |" for title, values in rows),
    ]


def _by_pages(counts: Counter[int]) -> str:
    return ", ".join(str(counts[pages]) for pages in (1, 2, 3, 4))


def _user_marks(frame: Frame) -> list[int]:
    pairs = zip(frame.stacks.mark_bytes, frame.stacks.kinds, strict=True)
    return [mark for mark, kind in pairs if kind == Kind.USER]


if __name__ == "__main__":
    sys.exit(main())
