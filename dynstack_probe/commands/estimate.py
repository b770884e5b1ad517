# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe estimate`."""

from __future__ import annotations

import enum
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import Format, choose_policies, refuse_unused_common
from dynstack_probe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynstack_probe.analysis.host_estimate import HostEstimate
    from dynstack_probe.policy import Policy


class By(enum.StrEnum):
    comm = "comm"
    cgroup = "cgroup"
    container = "container"
    kind = "kind"
    syscall = "syscall"


HELP = """Estimate what dynamic stacks would save.

Reads every task's kernel stack high-water mark through BPF (about a second; nothing stays
loaded) and prints the row that this host would have in the RFC's table: BASE(kb) is
what its kernel stacks hold now, Dynamic(kb) what they would hold if they grew on demand.

\b
  sudo dynstack-probe estimate
  sudo dynstack-probe estimate --policy rfc-v1 --policy static-8k
  sudo dynstack-probe estimate --by cgroup --format csv --output stacks.csv
  sudo dynstack-probe estimate --depths
  dynstack-probe estimate a.dsp b.dsp c.dsp

--by syscall groups user tasks by the system call in which they sleep now.

Given captures (see `record`) it reads those, without privileges, and prints a row for
each and a total; from a series it takes the frame with the median saving.

Dynamic(kb) errs low: under the RFC a freed stack keeps its grown pages for the next
task, which one scan cannot see. Exit codes: 0 good, 1 failed, 2 usage, 3 this kernel
can't be measured, 4 not permitted (CAP_BPF and CAP_PERFMON are needed).
"""


def command(
    context: typer.Context,
    captures: list[Path] = options.CAPTURES,
    policy: list[str] = typer.Option(
        ["rfc-v1"],
        "--policy",
        metavar="NAME",
        help="Allocator model, or a .toml file; `policies` lists them. Repeat to compare.",
    ),
    form: Format = options.FORMAT,
    by: Optional[By] = typer.Option(None, "--by", help="Also group stacks by this."),  # noqa: UP045
    depths: bool = typer.Option(
        False,
        "--depths",
        help="Also show high-water mark and current depth by role, and the random offset's cost.",
    ),
    partial: bool = options.PARTIAL,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    force: bool = options.FORCE,
    btf: Path = options.BTF,
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Show the output of bcc and the time of each step."
    ),
) -> None:
    from dynstack_probe.analysis.host_estimate import host_estimate
    from dynstack_probe.output import estimate as how
    from dynstack_probe.output.writing import check_writable, write
    from dynstack_probe.text import say

    refuse_unused_common(context, live=not captures, output=output)
    policies = choose_policies(policy)
    check_writable(output, force)
    if captures:
        if len(captures) > 1 and (by or depths):
            raise UsageError("--by and --depths are for one capture")
        reports = [_of_capture(path, policies, by, depths, partial) for path in captures]
        write(options.render(how, form, reports), output, force)
        return

    from dynstack_probe.kernel.host import peak_rss_kib
    from dynstack_probe.measure.stack_scan import take_frame

    frame = take_frame(btf, with_cgroup_paths=by in (By.cgroup, By.container))
    scanned = time.perf_counter()
    report = host_estimate(frame, policies, by, with_depths=depths)
    write(options.render(how, form, [report]), output, force)
    if verbose:
        say(how.cost_in_words(frame.cost, time.perf_counter() - scanned, peak_rss_kib()))


def _of_capture(
    path: Path, policies: Sequence[Policy], by: str | None, depths: bool, partial: bool
) -> HostEstimate:
    """The capture's frame, of a series the one with the median saving. Raises UsageError."""
    from dynstack_probe.analysis.evidence import evidence_of
    from dynstack_probe.analysis.host_estimate import host_estimate
    from dynstack_probe.capture import Capture

    frames = Capture(path, partial=partial)
    found = evidence_of(frames, policies, path.name, headline=policies[0])
    return host_estimate(
        found.frame, policies, by, source=path.name, with_depths=depths, series=found.series
    )
