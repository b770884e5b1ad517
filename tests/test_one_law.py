# SPDX-License-Identifier: GPL-2.0-or-later
"""One law over all commands: whatever the series, each figure is the same wherever it is told.

A host is made up task by task. What its frames and the daemon's samples would hold follows
from that, and so does, counted naively, what the figures must be.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dynstack_probe.analysis.comparison import compare
from dynstack_probe.analysis.cost import host_cost
from dynstack_probe.analysis.evidence import evidence_of
from dynstack_probe.analysis.safety import safety_of
from dynstack_probe.analysis.timeline import has_restarted
from dynstack_probe.capture import Capture
from dynstack_probe.fleet.costs import costs_of
from dynstack_probe.model.frame import Coverage, Frame
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import policies as policies_output
from dynstack_probe.output.cost import cost_rows, safety_rows
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.report import as_text
from dynstack_probe.report.from_frames import subject_of
from dynstack_probe.report.sections import document_of
from dynstack_probe.serve.collector import HostCollector, Pass, PassCounter
from dynstack_probe.text import percent
from dynstack_probe.top.view import ASCII, History, Status, View, render
from tests.analysis.test_cost import CALIBRATION
from tests.factory import COSTS, a_frame, a_host, some_stacks

CASES = Path(__file__).parent / "data/cases"
FRAMES, STEP_SECONDS, PAGES = 5, 10, 4
NAMES = ("rfc-v1", "grow-8k", "grow-12k", "reserve-stash", "grow-16k-to-32k")


@dataclass(frozen=True)
class Life:
    """One task. `depths`: pages at each frame from its birth on, only rising.

    born, gone: the first frame that sees it and the first that does not (0 and FRAMES: before
    and after the series). in_flight: it exits while frame `gone` is being taken, after the
    counters were read. zero: a page in the middle that it skipped, 0 if none. inherited:
    pages that its stack had already; known to the exit, not to a scan.
    """

    born: int
    gone: int
    depths: Sequence[int]
    zero: int
    in_flight: bool
    inherited: int = 1

    def pages_at(self, frame: int) -> int:
        return self.depths[min(max(0, frame - self.born), len(self.depths) - 1)]

    def last_pages(self) -> int:
        return self.pages_at(self.gone)

    def touched(self, pages: int) -> int:
        bits = (1 << pages) - 1
        return bits & ~(1 << self.zero) if 0 < self.zero < pages - 1 else bits

    def counted_from(self) -> int:
        """The first frame whose counters have its exit."""
        return self.gone + 1 if self.in_flight else self.gone


def lives(seen: bool) -> st.SearchStrategy[Life]:
    """Tasks that some frame sees, or that live and die between two."""

    @st.composite
    def one(draw: st.DrawFn) -> Life:
        born = draw(st.integers(0 if seen else 1, FRAMES - 1))
        gone = draw(st.integers(born + 1, FRAMES)) if seen else born
        steps = draw(st.lists(st.integers(1, PAGES), min_size=FRAMES, max_size=FRAMES))
        depths = [max(steps[: at + 1]) for at in range(FRAMES)]
        zero = draw(st.integers(0, PAGES - 2))
        in_flight = seen and draw(st.booleans())
        inherited = 1 if seen else draw(st.integers(1, PAGES))
        return Life(born, gone, depths, zero, in_flight, inherited)

    return one()


HOSTS = st.tuples(st.lists(lives(True), max_size=8), st.lists(lives(False), max_size=5)).map(
    lambda both: [*both[0], *both[1]]
)


def is_seen(life: Life, frame: int) -> bool:
    return life.born <= frame < life.gone


def exited_by(host: Sequence[Life], frame: int) -> list[Life]:
    return [life for life in host if life.counted_from() <= frame]


def lifecycle_at(host: Sequence[Life], frame: int) -> Lifecycle:
    exited: Counter[tuple[int, int]] = Counter()
    skipped = [0] * 8
    for life in exited_by(host, frame):
        pages = life.last_pages()
        exited[pages, life.inherited] += 1
        for page in range(life.inherited, pages):
            skipped[page] += not life.touched(pages) >> page & 1
    born = [life for life in host if 0 < life.born <= frame]
    reused = sum(1 for life in born if life.inherited > 1)
    return Lifecycle(len(born), reused, exited, tuple(skipped), (0,) * 6, {}, 0, 0.0)


def frame_at(host: Sequence[Life], frame: int) -> Frame:
    tids = [tid for tid, life in enumerate(host, 1) if is_seen(life, frame)]
    pages = [host[tid - 1].pages_at(frame) for tid in tids]
    stacks = some_stacks(
        [4096 * n - 8 for n in pages],
        touched=[host[tid - 1].touched(n) for tid, n in zip(tids, pages, strict=True)],
    )
    return a_frame(
        replace(stacks, tids=tids),
        boot_ns=(1000 + frame * STEP_SECONDS) * 10**9,
        context_switches=1000 * frame,
        lifecycle=lifecycle_at(host, frame),
        calibration=CALIBRATION if not frame else None,
    )


def sample_at(host: Sequence[Life], frame: int) -> Sample:
    living: Counter[tuple[int, int]] = Counter()
    skipped = [0] * 8
    for life in host:
        if is_seen(life, frame):
            pages = life.pages_at(frame)
            living[pages, 1] += 1
            for page in range(1, pages):
                skipped[page] += not life.touched(pages) >> page & 1
    count = living.total()
    return Sample(
        host=a_host(),
        living=Living({Kind.USER: living}, tuple(skipped), (0,) * 6, 0),
        lifecycle=lifecycle_at(host, frame),
        coverage=Coverage(count, 0, count, count * 16, False),
        cgroups={},
        scan_seconds=0.001,
        taken_at=1.0,
        kernel_counters={},
        bpf_memory_bytes=4096,
    )


def naive_counts(host: Sequence[Life], first: int, last: int) -> tuple[int, int]:
    """(faults, pages) of a policy that maps `first` pages at fork and `last` at most, by frame.

    Task by task and page by page; a count that seems to fall has only not been taken yet.
    """
    faults = pages = 0
    for page in range(first, last):
        seen_faults, seen_pages = [], []
        for frame in range(FRAMES):
            alive = [(one, one.pages_at(frame)) for one in host if is_seen(one, frame)]
            ended = [(one, one.last_pages()) for one in exited_by(host, frame)]
            having = [(one, n) for one, n in (*alive, *ended) if one.inherited <= page < n]
            seen_pages.append(len(having))
            seen_faults.append(sum(one.touched(n) >> page & 1 for one, n in having))
        faults += max(seen_faults) - seen_faults[0]
        pages += max(seen_pages) - seen_pages[0]
    return faults, pages


def daemon_pages(host: Sequence[Life]) -> list[dict[str, float]]:
    passes, newest = PassCounter(), list[Pass | None]([None])
    registry = CollectorRegistry()
    registry.register(
        HostCollector(
            lambda: newest[0],
            lambda: [BUILT_IN[name] for name in NAMES],
            lambda: 2,
            dict,
            lambda: COSTS,
        )
    )
    pages = []
    for frame in range(FRAMES):
        sample = sample_at(host, frame)
        newest[0] = passes.add(sample, [BUILT_IN[name] for name in NAMES], CALIBRATION)
        text = generate_latest(registry).decode()
        pages.append(
            {
                f"{s.name} {s.labels.get('policy', '')}".strip(): s.value
                for family in text_string_to_metric_families(text)
                for s in family.samples
            }
        )
    return pages


IN_FLIGHT = [Life(0, 2, [3] * FRAMES, 0, True), Life(0, 5, [1] * FRAMES, 0, False)]
SKIPPED = [Life(1, 1, [3] * FRAMES, 1, False)] * 3


@settings(deadline=None, max_examples=60)
@given(HOSTS)
@example([])
@example(IN_FLIGHT)
@example([*IN_FLIGHT, *SKIPPED])
def test_every_output_tells_the_same(host: list[Life]) -> None:
    frames = [frame_at(host, number) for number in range(FRAMES)]
    seconds = (FRAMES - 1) * STEP_SECONDS
    chosen = [BUILT_IN[name] for name in NAMES]
    found = evidence_of(frames, chosen, "x")
    comparison = compare(found.frame, chosen, found.whole, "x", found.series)
    document = json.loads(policies_output.as_json(comparison))
    table = policies_output.as_table(comparison)
    daemon = daemon_pages(host)
    for row in document["policies"]:
        name, policy = row["name"], BUILT_IN[row["name"]]
        first = getattr(policy, "preallocated_pages", 0)
        faults, pages = naive_counts(host, first, PAGES)
        assert row["rate"]["events_per_second"] == faults / seconds
        assert row["rate"]["pages_per_second"] == pages / seconds
        assert re.search(rf"^{name} .* {faults / seconds:.1f}f$", table, re.MULTILINE)
        for metric, count in (("faults", faults), ("fault_pages", pages)):
            key = f"dynstack_policy_{metric}_total {name}"
            assert daemon[-1][key] - daemon[0][key] == count
    rfc = document["policies"][0]
    events = rfc["rate"]["events_per_second"]

    report = " ".join(
        as_text.render(document_of([subject_of(frames, chosen, "x", "x")], [], 1.0)).split()
    )
    assert f"rfc-v1 would have taken {events:.2f} faults a second" in report
    assert f"would hold {rfc['dynamic_kib']} KiB, {percent(rfc['saving_ratio'])} less" in report

    _same_cost(host, daemon, report)
    history = History(BUILT_IN["rfc-v1"])
    moments = [history.add(frame) for frame in frames]
    told = 0.0
    for before, after, moment in zip(daemon[:-1], daemon[1:], moments[1:], strict=True):
        key = "dynstack_policy_faults_total rfc-v1"
        lines = render(View(), history, moment, (120, 30), ASCII, Status("x"))
        text = "\n".join(line.plain for line in lines)
        grown = after[key] - before[key]
        assert f"faults {grown / STEP_SECONDS:.1f} (modelled)" in text
        told += grown
    assert told == pytest.approx(events * seconds)

    newest = document["series"]["newest"]
    last = moments[-1].estimate
    assert newest["dynamic_kib"] == last.dynamic_kib
    assert newest["saving_ratio"] == last.saving_ratio
    assert newest["dynamic_kib"] * 1024 == daemon[-1]["dynstack_policy_stack_bytes rfc-v1"]
    assert newest["base_kib"] * 1024 == daemon[-1]["dynstack_stack_bytes"]
    assert f"would hold {newest['dynamic_kib']} KiB" in report


def _same_cost(host: Sequence[Life], daemon: list[dict[str, float]], report: str) -> None:
    """`cost`, `policies`, `report`, `top`, what `serve` counts and what `fleet` makes of it."""
    frames = [frame_at(host, number) for number in range(FRAMES)]
    chosen = [BUILT_IN[name] for name in NAMES]
    found = evidence_of(frames, chosen, "x")
    assert found.whole is not None
    cost = host_cost("x", found.frame, found.whole, chosen)
    rows = {row.policy.name: row for row in compare(found.frame, chosen, found.whole, "x").rows}
    cpu_seconds = cost.cpus * found.whole.seconds
    for row in cost.rows:
        assert rows[row.policy].cost == row
        assert row.work_ratio is not None
        assert row.fork_saving_ratio is not None
        assert row.net_ratio is not None
        rates = {}
        for figure, metric, ratio in (
            ("faults_cpu", "fault_cpu_seconds", row.work_ratio),
            ("forks_cpu", "fork_saved_cpu_seconds", row.fork_saving_ratio),
        ):
            key = f"dynstack_policy_{metric}_total {row.policy}"
            rise = daemon[-1][key] - daemon[0][key]
            assert rise == pytest.approx(ratio.best * cpu_seconds, rel=1e-9, abs=1e-15)
            rates[figure] = rise / found.whole.seconds
        asked = costs_of(rates, cost.cpus)
        assert asked.net_ratio == pytest.approx(row.net_ratio.best, rel=1e-9, abs=1e-18)
    for name, words in (*cost_rows(cost), *safety_rows(safety_of(chosen[0], found))):
        assert f"{name} {words}" in report

    history, told = History(chosen[0]), 0.0
    for frame in frames:
        moment = history.add(frame)
        if moment.cost is not None:
            assert moment.cost.work_ratio is not None
            told += moment.cost.work_ratio.best * cost.cpus * STEP_SECONDS
    assert cost.headline.work_ratio is not None
    assert told == pytest.approx(cost.headline.work_ratio.best * cpu_seconds)


@given(HOSTS.map(lambda host: [replace(life, in_flight=False) for life in host]))
@settings(deadline=None)
def test_what_happened_is_what_is_told(host: list[Life]) -> None:
    """Where no exit is in flight nothing is missed, and nothing counted twice."""
    frames = [frame_at(host, number) for number in range(FRAMES)]
    found = evidence_of(frames, [BUILT_IN["rfc-v1"]], "x")
    assert found.whole is not None
    work = BUILT_IN["rfc-v1"].work(found.whole, PAGES)
    assert work is not None
    true_pages = 0
    for life in host:
        since = life.pages_at(0) if life.born == 0 and is_seen(life, 0) else 1
        till = life.pages_at(min(FRAMES - 1, life.gone))
        true_pages += max(0, till - max(since, life.inherited))
    assert work.pages == true_pages


@given(HOSTS, st.integers(1, FRAMES - 1))
@settings(deadline=None)
def test_counters_that_begin_anew_hide_and_invent_nothing(host: list[Life], at: int) -> None:
    """The recorder's counters restart before frame `at`: exits from then on are counted."""
    host = [replace(life, in_flight=False) for life in host]
    frames = [frame_at(host, number) for number in range(FRAMES)]
    older = [life for life in host if life.counted_from() < at]
    newer = [life for life in host if life.counted_from() >= at]
    restarted = [
        frame if number < at else replace(frame, lifecycle=lifecycle_at(newer, number))
        for number, frame in enumerate(frames)
    ]
    before, after = frames[at - 1].lifecycle, restarted[at].lifecycle
    assert before is not None
    assert after is not None
    assume(not older or has_restarted(before, after))
    policy = BUILT_IN["rfc-v1"]
    told = [evidence_of(series, [policy], "x").whole for series in (frames, restarted)]
    works = [policy.work(whole, PAGES) for whole in told if whole is not None]
    one, other = (work.pages for work in works if work is not None)
    assert other == one


def test_the_cases_that_were_told_in_two_ways() -> None:
    """A skipped page, and a task seen, then gone, and counted one interval later."""
    for name, faults, pages in (("skipped-page", 10.0, 20.0), ("gone-then-exited", 0.0, 0.0)):
        frames = Capture(CASES / f"{name}.dsp")
        found = evidence_of(frames, [BUILT_IN["rfc-v1"]], name)
        [row] = compare(found.frame, [BUILT_IN["rfc-v1"]], found.whole, name).rows
        assert row.rate is not None
        assert (row.rate.events, row.rate.pages) == (faults, pages)
        assert all(moment.faults_per_second in (None, faults) for moment in found.moments)
