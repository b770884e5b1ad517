# SPDX-License-Identifier: GPL-2.0-or-later
"""`dynstack-probe cost`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from dynstack_probe.commands import options
from dynstack_probe.commands.options import (
    Format,
    choose_policies,
    refuse_unused_common,
    seconds_of,
)
from dynstack_probe.errors import ProbeError, UsageError

if TYPE_CHECKING:
    from dynstack_probe.analysis.evidence import Evidence
    from dynstack_probe.measure.call_paths import ContextWatch

# Frames in a live measurement.
FRAMES = 6

HELP = """Estimate the CPU cost, and check safety.

What would growing stacks cost in CPU time, and is it safe? Watches this host for
--duration, or reads a capture that holds a series: stack faults and cheaper forks as
shares of all CPU time, at prices calibrated on this host; the break-even cost of a
fault; how much memory was free when stacks grew.

\b
  sudo dynstack-probe cost
  sudo dynstack-probe cost --duration 5m --policy rfc-v1 --policy vendor
  dynstack-probe cost host.dsp --format json
  dynstack-probe cost host.dsp --fault-ns 5000

Each line says whether it is measured, calibrated or modelled, and which way it errs. Exit
codes: 0 good, 1 failed, 2 usage, 3 this kernel can't be measured, 4 not permitted.
"""


def command(
    context: typer.Context,
    capture: Optional[Path] = typer.Argument(  # noqa: UP045
        None, metavar="[CAPTURE]", help="A series made by `record`, instead of this host."
    ),
    policy: list[str] = typer.Option(
        ["rfc-v1"], "--policy", metavar="NAME", help="A policy, or a .toml file. Repeat to compare."
    ),
    duration: Optional[str] = typer.Option(  # noqa: UP045
        None, "--duration", metavar="TIME", help="Watch this host for this long.  [default: 30s]"
    ),
    fault_ns: Optional[float] = typer.Option(  # noqa: UP045
        None,
        "--fault-ns",
        metavar="N",
        min=1,
        max=1e9,
        help="Cost of a stack fault and its refill, instead of the calibrated range.",
    ),
    form: Format = options.FORMAT,
    partial: bool = options.PARTIAL,
    output: Optional[Path] = options.OUTPUT,  # noqa: UP045
    force: bool = options.FORCE,
    btf: Path = options.BTF,
) -> None:
    from dynstack_probe.analysis.cost import host_cost
    from dynstack_probe.analysis.evidence import evidence_of
    from dynstack_probe.analysis.safety import safety_of
    from dynstack_probe.capture import Capture
    from dynstack_probe.output import cost as report
    from dynstack_probe.output.writing import check_writable, write

    refuse_unused_common(context, live=capture is None, output=output)
    policies = choose_policies(policy)
    check_writable(output, force)

    def of(found: Evidence, watch: ContextWatch | str = "") -> str:
        if found.whole is None or found.seconds <= 0:
            raise UsageError(
                f"{found.source} holds a single frame: rates need a series, as made by"
                " record --duration 1m"
            )
        cost = host_cost(found.source, found.frame, found.whole, policies, fault_ns)
        safety = safety_of(policies[0], found)
        if isinstance(watch, str):
            safety = replace(safety, not_sampled=watch)
        else:
            safety = replace(
                safety,
                contexts=dict(watch.contexts),
                kernel_samples=watch.kernel_samples,
                sampled_by_clock=watch.by_clock,
            )
        return options.render(report, form, cost, safety)

    if capture is not None:
        if duration:
            raise UsageError("--duration is for this host: a capture lasts as long as it does")
        frames = Capture(capture, partial=partial)
        text = of(evidence_of(frames, policies, capture.name, policies[0]))
    else:
        from dynstack_probe.commands.watching import watched

        seconds = seconds_of(duration or "30s", "--duration")
        with contextlib.ExitStack() as stack:
            watch = _contexts(stack, btf)
            series = stack.enter_context(watched(seconds, seconds / FRAMES, btf))
            text = of(evidence_of(series, policies, "this host", policies[0]), watch)
    write(text, output, force)


def _contexts(stack: contextlib.ExitStack, btf: Path) -> ContextWatch | str:
    """Sample until the ExitStack is closed; if that is impossible here, the reason."""
    from dynstack_probe.loader import Loader
    from dynstack_probe.measure.call_paths import ContextWatch, load_call_paths

    try:
        with Loader() as loader:
            probe = stack.enter_context(load_call_paths(loader, btf_path=btf))
    except ProbeError as error:
        return str(error)
    return stack.enter_context(ContextWatch(probe))
