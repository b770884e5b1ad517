# SPDX-License-Identifier: GPL-2.0-or-later
"""Overhead per fork + exit while exits read whole stacks, and once windows are proved.

Usage: python tests/bench/exits_bench.py docs/performance.md [--rounds N]

The same pairs as in daemon_bench.py: the probes attached, and not, for loops of loops.c.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from tests.bench.daemon_bench import LOOPS, Loops, Probes, Slowdown, slowdowns  # noqa: E402
from tests.bench.document import publish  # noqa: E402

ROUNDS, TURN_MS = 160, 150
STATES = {"while proving: each exit read whole": False, "once proved: 512 bytes of a page": True}


@contextlib.contextmanager
def attached(probes: Probes, trusted: bool) -> Iterator[None]:
    probes.trust_windows(trusted)
    with probes.attached():
        yield


def measure(rounds: int) -> tuple[dict[str, dict[str, Slowdown]], int]:
    """By state, then by loop; and how many instructions on_exit was for the verifier."""
    found: dict[str, dict[str, Slowdown]] = {name: {} for name in ("nothing", *STATES)}
    with (
        tempfile.TemporaryDirectory() as folder,
        Loops(Path(folder)) as loops,
        Probes() as probes,
    ):
        for loop in ("exec", "exit"):
            found["nothing"] |= slowdowns(loops, [loop], contextlib.nullcontext, rounds, TURN_MS)
            for name, trusted in STATES.items():
                tool = lambda state=trusted: attached(probes, state)  # noqa: E731
                found[name] |= slowdowns(loops, [loop], tool, rounds, TURN_MS)
        return found, probes.verified_instructions("sched_process_exit")


def lines_of(found: dict[str, dict[str, Slowdown]], verified: int, rounds: int) -> list[str]:
    rows = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}; {rounds} pairs each, medians with their 95% by bootstrap.",
        "",
        f"| exits | {LOOPS['exec']} | more | {LOOPS['exit']} | more |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, slower in found.items():
        cells = []
        for loop in ("exec", "exit"):
            one = slower[loop]
            cells += [str(one), f"{one.percent() / 100 * one.bare() / 1000:+.2f} us"]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return [*rows, "", f"The verifier walks {verified:,} instructions of `on_exit`, of 1,000,000."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", help="where to write the figures")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of turns a figure")
    arguments = parser.parse_args()
    lines = lines_of(*measure(arguments.rounds), arguments.rounds)
    if arguments.document:
        publish(arguments.document, "make bench, exits", lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
