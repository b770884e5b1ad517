# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe policies`."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import (
    Format,
    choose_policies,
    refuse_unused,
    refuse_unused_common,
)
from dynstack_probe.errors import UsageError

HELP = """Compare all proposed stack allocators.

All on the same data: a scan of this host, or a capture. From a series it also derives
faults and refills per second.

\b
  sudo dynstack-probe policies
  dynstack-probe policies host.dsp
  dynstack-probe policies host.dsp --policy rfc-v1 --policy mine.toml
  dynstack-probe policies --explain vendor

To compare a policy of your own, describe it in a TOML file:

\b
  name = "mine"
  model = "grow-only"
  preallocated_pages = 2

`--explain` shows each model's parameters. Exit codes: 0 good, 1 failed, 2 usage, 3 this
kernel can't be measured, 4 not permitted.
"""


def command(
    context: typer.Context,
    capture: Optional[Path] = typer.Argument(  # noqa: UP045
        None, metavar="[CAPTURE]", help="A file made by `record`, instead of this host."
    ),
    policy: list[str] = typer.Option(
        [], "--policy", metavar="NAME", help="Only this policy, or a .toml file; repeatable.  [all]"
    ),
    explain: Optional[str] = typer.Option(  # noqa: UP045
        None, "--explain", metavar="NAME", help="Print a policy's description and formula."
    ),
    form: Format = options.FORMAT,
    partial: bool = options.PARTIAL,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    force: bool = options.FORCE,
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.analysis.comparison import compare
    from dynstack_probe.analysis.evidence import evidence_of
    from dynstack_probe.capture import Capture
    from dynstack_probe.output import policies as report
    from dynstack_probe.output.writing import check_writable, write
    from dynstack_probe.policy import BUILT_IN

    if explain is not None:
        if capture is not None or policy:
            raise UsageError("--explain takes no capture and no --policy")
        unused = ["form", "partial", "output", "force", "btf"]
        refuse_unused(context, unused, "not for --explain")
        typer.echo(report.explain(choose_policies([explain])[0]))
        return
    refuse_unused_common(context, live=capture is None, output=output)
    chosen = choose_policies(policy or list(BUILT_IN))
    check_writable(output, force)
    if capture is None:
        from dynstack_probe.measure.stack_scan import take_frame

        comparison = compare(take_frame(btf), chosen, None, "this host")
    else:
        frames = Capture(capture, partial=partial)
        found = evidence_of(frames, chosen, capture.name, chosen[0])
        comparison = compare(found.frame, chosen, found.whole, capture.name, found.series)
    write(options.render(report, form, comparison), output, force)
