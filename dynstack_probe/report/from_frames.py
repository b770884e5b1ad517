# SPDX-License-Identifier: GPL-2.0-or-later
"""A report's subject from frames: of a capture, or of this host."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from dynstack_probe.analysis.comparison import compare
from dynstack_probe.analysis.cost import host_cost
from dynstack_probe.analysis.evidence import Evidence, Frames, Moment, evidence_of
from dynstack_probe.analysis.host_estimate import host_estimate
from dynstack_probe.analysis.safety import safety_of
from dynstack_probe.capture import Capture
from dynstack_probe.model.frame import Frame
from dynstack_probe.model.history import Span
from dynstack_probe.output.frames import resident_in_words, scan_in_words
from dynstack_probe.output.savings import series_rows
from dynstack_probe.policy import BUILT_IN, HEADLINE, Policy
from dynstack_probe.report.document import Document
from dynstack_probe.report.sections import document_of
from dynstack_probe.report.subject import Depths, Subject
from dynstack_probe.text import date, printable

DEEPEST_SHOWN = 10

MEASURED_ERRORS = (
    ("BASE", "Measured: stacks read times THREAD_SIZE. Missed stacks are left out."),
    ("Depth ever", "Measured. Errs low by words that were used and held zero."),
)
_ERRORS = (
    *MEASURED_ERRORS,
    ("Depth now", "Measured for sleeping tasks only, at the saved stack pointer."),
    (
        "Dynamic, saving",
        "Modelled. Dynamic errs low and the saving high: the kernel caches two freed stacks"
        " per CPU, which would keep their grown pages for the next owner.",
    ),
    (
        "Faults so far",
        "Modelled: at least one a task that used a second page, at most one a grown page."
        " Reuse of grown stacks would make it fewer.",
    ),
)
_RATE_ERROR = (
    "Faults a second",
    "Modelled from pages grown between frames and by tasks that exited meanwhile. Errs high:"
    " of tasks that still live, none is taken to have a stack that was grown before.",
)
_NO_SERIES = (
    "A single frame has no rates. Faults over time, what it would cost and whether it is safe"
    " need a series, such as `dynstack-probe report --duration 1m` takes of this host, or"
    " `dynstack-probe record FILE --duration 10m` for later."
)


def subject_of(frames: Frames, policies: Sequence[Policy], source: str, file: str) -> Subject:
    """`file`: the name of the capture that they are in, or would be. Raises UsageError."""
    evidence = evidence_of(frames, policies, source)
    frame = evidence.frame
    report = host_estimate(frame, [BUILT_IN[HEADLINE]], "comm", source=source, with_depths=True)
    assert report.details is not None
    assert report.groups is not None
    moments = evidence.moments
    headline_of = "of the only frame"
    if evidence.series is not None:
        headline_of = "of the frame with the median saving"
    cost = safety = None
    if evidence.whole is not None and evidence.seconds > 0:
        headline = BUILT_IN[HEADLINE]
        others = [policy for policy in policies if policy.name != HEADLINE]
        cost = host_cost(source, frame, evidence.whole, [headline, *others])
        safety = safety_of(headline, evidence)
    return Subject(
        name=source,
        called=frame.host.cpu_model,
        host=frame.host,
        options=f", {_options(frame)}",
        kinds=report.kinds,
        origin=f"{source}, {_taken(evidence)}",
        coverage=list(_coverage(frame)),
        errors=[*_ERRORS, _RATE_ERROR] if evidence.whole else _ERRORS,
        missed=frame.coverage.missed,
        headline=report.estimates[0],
        headline_of=headline_of,
        rows=compare(frame, policies, evidence.whole, source).rows,
        pages=report.pages,
        groups=report.groups,
        grouped_by="Name",
        dynamic_errs="Dynamic errs low: reuse of grown stacks is not seen in it.",
        faults_err=(
            "Errs high: of tasks that still live, none is taken to have a stack that was grown"
            " before."
        ),
        rate_of="interval between two frames",
        recording=[_recording(evidence, file)],
        series=evidence.series,
        whole=evidence.whole,
        resident=resident_in_words(frame) if frame.is_dynamic else "",
        over_time=[(m.seconds, m.savings.base_kib, m.savings.dynamic_kib) for m in moments],
        faults=list(_spans(moments, lambda moment: moment.faults_per_second)),
        created=list(_spans(moments, lambda moment: moment.created_per_second)),
        exited=list(_spans(moments, lambda moment: moment.exited_per_second)),
        seconds=evidence.seconds,
        depths=Depths(frame.stacks, report.details, report.deepest(DEEPEST_SHOWN)),
        missing="" if evidence.whole else _NO_SERIES,
        facts=series_rows(evidence.series) if evidence.series else (),
        cost=cost,
        safety=safety,
        headroom=list(_headroom(evidence)),
        headroom_of="samples, taken to lie evenly in time",
    )


def document_of_captures(
    paths: Sequence[Path], policies: Sequence[Policy], *, partial: bool
) -> Document:
    """The report on these captures. Raises UsageError."""
    subjects = [
        subject_of(Capture(path, partial=partial), policies, path.name, path.name) for path in paths
    ]
    names = " ".join(shlex.quote(printable(path.name)) for path in paths)
    again = [
        f"dynstack-probe report {names} --output report.html",
        f"dynstack-probe report {names} --format text",
    ]
    return document_of(subjects, again, time.time())


def document_of_host(frames: Frames, policies: Sequence[Policy]) -> Document:
    again = ["dynstack-probe report host.dsp", "dynstack-probe report host.dsp --format text"]
    subject = subject_of(frames, policies, "this host", "host.dsp")
    return document_of([subject], again, time.time())


def _headroom(evidence: Evidence) -> Iterable[tuple[float, int]]:
    if evidence.whole is not None and evidence.whole.headroom is not None:
        samples = evidence.whole.headroom.above_min_pages
        last = max(1, len(samples) - 1)
        yield from ((evidence.seconds * at / last, pages) for at, pages in enumerate(samples))


def _spans(moments: Sequence[Moment], figure: Callable[[Moment], float | None]) -> Iterable[Span]:
    """What a rate was from each moment to the next; where it is unknown, nothing."""
    for before, after in pairwise(moments):
        value = figure(after)
        if value is not None and after.seconds > before.seconds:
            yield before.seconds, after.seconds - before.seconds, value


def _options(frame: Frame) -> str:
    config = frame.kernel.config
    random = {True: "on", False: "off", None: "unknown"}[frame.kernel.random_offset]
    told = [f"random stack offset {random}"]
    for name in ("KASAN", "KMSAN", "DEBUG_STACK_USAGE", "KSTACK_ERASE", "GCC_PLUGIN_STACKLEAK"):
        if config.get(f"CONFIG_{name}") == "y":
            told.append(name)
    compiler = config.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
    if compiler:
        told.append(f"built by {compiler}")
    return ", ".join(told)


def _taken(evidence: Evidence) -> str:
    when = date(evidence.frame.taken_at)
    count = len(evidence.moments)
    if count == 1:
        return f"one frame of {when}"
    return f"{count} frames over {evidence.seconds:.0f} s; figures of one moment: {when}"


def _coverage(frame: Frame) -> Iterable[tuple[str, str]]:
    coverage = frame.coverage
    counted = "?" if coverage.kernel_stacks is None else str(coverage.kernel_stacks)
    exact = "exact" if coverage.refreshed else "off by up to some dozens"
    yield (
        "Coverage",
        f"The kernel counts {counted} stacks ({exact}); {coverage.read} were read,"
        f" {coverage.missed} missed, of which {coverage.unreadable} were found but not readable.",
    )
    yield "Scan", scan_in_words(frame)
    if coverage.erased:
        yield (
            "Erased",
            f"{coverage.erased} stacks were overwritten by KSTACK_ERASE: their marks are lower"
            " bounds.",
        )
    for caveat in frame.caveats:
        yield "Note", caveat


def _recording(evidence: Evidence, file: str) -> str:
    line = f"sudo dynstack-probe record {shlex.quote(printable(file))}"
    if len(evidence.moments) > 1:
        interval = evidence.seconds / (len(evidence.moments) - 1)
        line += f" --duration {evidence.seconds:.0f}s --interval {interval:.3g}s"
    return line
