# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe faults`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import Format, refuse_unused, seconds_of

HELP = """Show which system calls grow stacks.

Watches every task for --duration or until Ctrl-C. A stack's first use of its next page is
a crossing: reported are the task, its age, the system call and the depth, and then the
system calls, ranked. With grow-only stacks each crossing is a fault unless the page was
left by an earlier task on the same stack; faults, and those that reuse avoids, are
counted as `serve` counts them.

\b
  sudo dynstack-probe faults --duration 10s
  sudo dynstack-probe faults --duration 1m --format csv --output faults.csv
  sudo dynstack-probe faults -d 1m --rate 999 --deeper-than 3072 --flamegraph deep.svg

With --folded or --flamegraph it also samples the call paths of tasks deeper than
--deeper-than; this needs CAP_SYSLOG too, for symbol names.

It runs at the exit of each system call, which costs some 50 to 150 ns a call (measured and
printed at the end) and nothing afterwards. Growth outside system calls, as by a signal or a
page fault without I/O, is attributed to the task's next call.
With no file to write it drops all privileges once it has started.

Exit codes: 0 good, 1 failed, 2 usage, 3 this kernel can't be measured, 4 not permitted
(CAP_BPF and CAP_PERFMON are needed).
"""


def command(
    context: typer.Context,
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None, "--duration", "-d", metavar="TIME", help="30s, 10m or 2h.  [default: until Ctrl-C]"
    ),
    form: Format = options.FORMAT,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    folded: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--folded", help="Write sampled call paths here, for flame-graph tools."
    ),
    flamegraph: Optional[Path] = typer.Option(  # noqa: UP045
        None, "--flamegraph", help="Write a flame graph of them here: .svg or .html."
    ),
    rate: int = typer.Option(99, "--rate", metavar="HZ", help="Samples per second on each CPU."),
    deeper_than: int = typer.Option(
        4096, "--deeper-than", metavar="BYTES", help="Keep samples of stacks deeper than this."
    ),
    force: bool = typer.Option(False, "--force", help="Overwrite files that exist."),
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.faults import report
    from dynstack_probe.faults.sampling import PathOptions
    from dynstack_probe.faults.watching import watch_faults
    from dynstack_probe.output.writing import check_writable, write

    seconds = None if duration is None else seconds_of(duration, "--duration")
    check_writable(output, force)
    paths = PathOptions(folded, flamegraph, rate, deeper_than, force)
    paths.check()
    if not paths.wanted:
        unused = ["rate", "deeper_than"]
        refuse_unused(context, unused, "for call paths: give --folded or --flamegraph too")
    if not (output or paths.wanted):
        refuse_unused(context, ["force"], "for files: give --output, --folded or --flamegraph too")
    found = watch_faults(seconds, paths, btf, keep_privileges=bool(output) or paths.wanted)
    write(options.render(report, form, found), output, force)
    if found.samples is not None:
        paths.write(found.paths, found.samples)
