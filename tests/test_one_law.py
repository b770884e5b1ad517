# SPDX-License-Identifier: GPL-2.0-or-later
"""One law over all commands: whatever the series, each figure is the same wherever it is told.

A host is made up task by task. What its frames and the daemon's samples would hold follows
from that, and so does, counted naively, what the figures must be.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Scraped

from dynstack_probe.analysis.comparison import compare
from dynstack_probe.analysis.cost import host_cost
from dynstack_probe.analysis.evidence import evidence_of
from dynstack_probe.analysis.host_estimate import host_estimate
from dynstack_probe.analysis.safety import ExportedSafety, safety_of
from dynstack_probe.analysis.timeline import has_restarted
from dynstack_probe.capture import Capture
from dynstack_probe.faults.reuse import ReuseWatch
from dynstack_probe.fleet.costs import costs_of, over_range
from dynstack_probe.model.cost import HostCost, exactly
from dynstack_probe.model.frame import Coverage, Frame
from dynstack_probe.model.history import History as Past
from dynstack_probe.model.history import Range, Track
from dynstack_probe.model.lifecycle import Lifecycle
from dynstack_probe.model.sample import Living, Sample
from dynstack_probe.model.savings import saving_ratio
from dynstack_probe.model.stacks import Kind
from dynstack_probe.output import estimate as estimate_output
from dynstack_probe.output import policies as policies_output
from dynstack_probe.output.cost import cost_rows, safety_rows
from dynstack_probe.policy import BUILT_IN
from dynstack_probe.report import as_text, from_prometheus
from dynstack_probe.report.from_frames import subject_of
from dynstack_probe.report.sections import document_of
from dynstack_probe.serve.collector import HostCollector, Scan, ScanCounter
from dynstack_probe.text import percent
from dynstack_probe.top.view import ASCII, History, Status, View, render
from tests import ROOT
from tests.analysis.test_cost import CALIBRATION
from tests.factory import COSTS, a_frame, a_host, some_stacks
from tests.live.machine import run
from tests.policy import naive

if TYPE_CHECKING:
    from dynstack_probe.measure.lifecycle import Sampler

CASES = Path(__file__).parent / "data/cases"
FRAMES, STEP_SECONDS, PAGES = 5, 10, 4
SECONDS = (FRAMES - 1) * STEP_SECONDS
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
        """A page that was once the deepest was used, and stays so."""
        bits = (1 << pages) - 1
        skipped = 0 < self.zero < pages - 1 and self.zero + 1 not in self.depths
        return bits & ~(1 << self.zero) if skipped else bits

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
        taken_at=1.0 + frame * STEP_SECONDS,
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


def scrapes(samples: Iterable[Sample]) -> Iterator[list[Scraped]]:
    """The daemon's metrics after each of them."""
    scans, newest = ScanCounter(), list[Scan | None]([None])
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
    for sample in samples:
        newest[0] = scans.add(sample, [BUILT_IN[name] for name in NAMES], CALIBRATION)
        text = generate_latest(registry).decode()
        yield [s for family in text_string_to_metric_families(text) for s in family.samples]


def daemon_pages(samples: Iterable[Sample]) -> list[dict[str, float]]:
    """The same by name and policy."""
    return [
        {f"{s.name} {s.labels.get('policy', '')}".strip(): s.value for s in scraped}
        for scraped in scrapes(samples)
    ]


def past_of(samples: Iterable[Sample]) -> Past:
    """The same as a Prometheus would answer."""
    values: dict[str, dict[tuple[tuple[str, str], ...], dict[float, float]]] = {}
    for number, scraped in enumerate(scrapes(samples)):
        for one in scraped:
            series = values.setdefault(one.name, {}).setdefault(tuple(one.labels.items()), {})
            series[float(STEP_SECONDS * number)] = one.value
    tracks = {
        name: [Track(dict(labels), at) for labels, at in series.items()]
        for name, series in values.items()
    }
    return Past("http://x", "x", "j", Range(SECONDS, SECONDS), tracks, [])


IN_FLIGHT = [Life(0, 2, [3] * FRAMES, 0, True), Life(0, 5, [1] * FRAMES, 0, False)]
SKIPPED = [Life(1, 1, [3] * FRAMES, 1, False)] * 3
REUSED = [Life(2, 2, [3] * FRAMES, 0, False, inherited=2), Life(3, 3, [2] * FRAMES, 0, False, 4)]
COMING_AND_GOING = [Life(1, 3, [1, 2, 3, 3, 3], 0, False), Life(2, 4, [4] * FRAMES, 2, False)]


@dataclass(frozen=True)
class Told:
    """What the commands on a series tell; of rfc-v1 where no policy is named."""

    policies: dict[str, Any]
    table: str
    report: str
    screens: Sequence[str]
    newest_kib: int


def told_by_commands(frames: Sequence[Frame]) -> Told:
    """And by `estimate`, which is held to the same saving at once."""
    chosen = [BUILT_IN[name] for name in NAMES]
    found = evidence_of(frames, chosen, "x")
    comparison = compare(found.frame, chosen, found.whole, "x", found.series)
    document = json.loads(policies_output.as_json(comparison))
    history = History(BUILT_IN["rfc-v1"])
    moments = [history.add(frame) for frame in frames]
    status = Status("x", of_series=True)
    views = [render(View(), history, m, (120, 30), ASCII, status) for m in moments]
    report = as_text.render(document_of([subject_of(frames, chosen, "x", "x")], [], 1.0))

    estimates = estimate_output.document(host_estimate(found.frame, chosen))["policies"]
    for row, one in zip(document["policies"], estimates, strict=True):
        assert all(one[key] == row[key] for key in row.keys() & one.keys() if "kib" in key), row
        assert one["saving_ratio"] == row["saving_ratio"]
    return Told(
        document,
        policies_output.as_table(comparison),
        " ".join(report.split()),
        ["\n".join(line.plain for line in view) for view in views],
        moments[-1].estimate.dynamic_kib,
    )


def check_rates(told: Told, host: Sequence[Life]) -> None:
    """Over the whole series, as the naive count has them."""
    for row in told.policies["policies"]:
        name = row["name"]
        faults, pages = naive_counts(host, getattr(BUILT_IN[name], "preallocated_pages", 0), PAGES)
        assert row["rate"]["events_per_second"] == faults / SECONDS
        assert row["rate"]["pages_per_second"] == pages / SECONDS
        assert re.search(rf"^{name} .* {faults / SECONDS:.1f}f$", told.table, re.MULTILINE)
    rfc = told.policies["policies"][0]
    events = rfc["rate"]["events_per_second"]
    assert f"rfc-v1 would have taken {events:.2f} faults a second" in told.report
    saving = f"{rfc['dynamic_kib']} KiB, {percent(rfc['saving_ratio'])} less"
    assert f"would hold {saving}" in told.report


@settings(deadline=None, max_examples=60)
@given(HOSTS)
@example([])
@example(IN_FLIGHT)
@example([*IN_FLIGHT, *SKIPPED])
@example([*COMING_AND_GOING, *REUSED])
def test_every_output_tells_the_same(host: list[Life]) -> None:
    frames = [frame_at(host, number) for number in range(FRAMES)]
    told = told_by_commands(frames)
    check_rates(told, host)
    daemon = daemon_pages(sample_at(host, number) for number in range(FRAMES))
    for row in told.policies["policies"]:
        name = row["name"]
        counts = naive_counts(host, getattr(BUILT_IN[name], "preallocated_pages", 0), PAGES)
        for metric, count in zip(("faults", "fault_pages"), counts, strict=True):
            key = f"dynstack_policy_{metric}_total {name}"
            assert daemon[-1][key] - daemon[0][key] == count
    _same_cost(host, daemon, told.report)
    for before, after, screen in zip(daemon[:-1], daemon[1:], told.screens[1:], strict=True):
        key = "dynstack_policy_faults_total rfc-v1"
        assert f"faults {(after[key] - before[key]) / STEP_SECONDS:.1f} (modelled)" in screen

    newest = told.policies["series"]["newest"]
    expected = naive.figures("rfc-v1", naive.tasks_of(frames[-1].stacks), a_host())
    assert newest["dynamic_kib"] == told.newest_kib == expected.dynamic_kib
    assert newest["base_kib"] == expected.base_kib
    assert newest["saving_ratio"] == saving_ratio(expected.base_kib, expected.dynamic_kib)
    assert newest["dynamic_kib"] * 1024 == daemon[-1]["dynstack_policy_stack_bytes rfc-v1"]
    assert newest["base_kib"] * 1024 == daemon[-1]["dynstack_stack_bytes"]
    assert f"would hold {newest['dynamic_kib']} KiB" in told.report
    assert f"KiB would be {newest['dynamic_kib']}" in told.screens[-1]
    headline = percent(told.policies["policies"][0]["saving_ratio"])
    assert f"Saving    {headline} (rfc-v1), median of {FRAMES} frames" in told.screens[-1]


def _same_cost(host: Sequence[Life], daemon: list[dict[str, float]], report: str) -> None:
    """`cost`, `policies`, `report`, `top`, what `serve` counts and what `fleet` makes of it."""
    frames = [frame_at(host, number) for number in range(FRAMES)]
    chosen = [BUILT_IN[name] for name in NAMES]
    found = evidence_of(frames, chosen, "x")
    assert found.whole is not None
    cost = host_cost("x", found.frame, found.whole, chosen)
    rows = {row.policy.name: row for row in compare(found.frame, chosen, found.whole, "x").rows}
    cpu_seconds = cost.cpus * found.whole.seconds
    past = past_of(sample_at(host, number) for number in range(FRAMES))
    _same_in_prometheus(past, cost)
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
        ranged = over_range(past, row.policy, cost.cpus)
        assert ranged.net_ratio == pytest.approx(asked.net_ratio, rel=1e-9, abs=1e-18)
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


def _same_in_prometheus(past: Past, cost: HostCost) -> None:
    """The report of that time from Prometheus: the best guesses of the report of frames."""
    subject = from_prometheus.subject_of(past)
    told = subject.cost
    assert told is not None
    for row, other in zip(cost.rows, told.rows, strict=True):
        assert (row.policy, row.what, row.feasible) == (other.policy, other.what, other.feasible)
        for of in ("work_ratio", "fork_saving_ratio", "net_ratio"):
            expected = exactly(getattr(row, of).best)
            same = [pytest.approx(value, rel=1e-9, abs=1e-18) for value in vars(expected).values()]
            assert list(vars(getattr(other, of)).values()) == same, of
        for of in ("events", "pages", "avoided_pages"):
            assert getattr(other, f"{of}_per_second") == pytest.approx(
                getattr(row, f"{of}_per_second")
            )
    assert told.stack_fault.events == cost.stack_fault.events
    assert told.stack_fault.tenth_percent == pytest.approx(cost.stack_fault.tenth_percent)
    assert (told.whole.seconds, told.whole.created) == (cost.whole.seconds, cost.whole.created)
    assert isinstance(subject.safety, ExportedSafety)
    assert COSTS.headroom is not None
    assert subject.safety.free.least_pages == COSTS.headroom.least_pages


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


class _Samples:
    """A sampler that has seen the host at its first and its last frame."""

    def __init__(self, host: list[Life]) -> None:
        self._samples = [sample_at(host, FRAMES - 1), sample_at(host, 0)]

    def take(self) -> Sample:
        return self._samples.pop()


@settings(deadline=None, max_examples=60)
@given(HOSTS.map(lambda host: [replace(life, in_flight=False) for life in host]))
@example(REUSED)
@example([*SKIPPED, *REUSED])
def test_crossings_are_the_faults_and_what_reuse_avoids(host: list[Life]) -> None:
    """`faults` looks twice, `serve` at each frame; who is in flight at the end is in neither."""
    found = ReuseWatch(cast("Sampler", _Samples(host))).end()
    assert found is not None
    daemon = daemon_pages(sample_at(host, number) for number in range(FRAMES))

    def risen(metric: str) -> float:
        key = f"dynstack_policy_{metric}_total rfc-v1"
        return daemon[-1][key] - daemon[0][key]

    assert found.faults == risen("faults")
    assert found.fault_pages == risen("fault_pages")
    assert found.avoided_pages == risen("avoided_fault_pages")
    assert found.crossed_pages == risen("fault_pages") + risen("avoided_fault_pages")
    frames = [frame_at(host, number) for number in range(FRAMES)]
    rate = told_by_commands(frames).policies["policies"][0]["rate"]
    assert found.fault_pages == rate["pages_per_second"] * SECONDS


@given(HOSTS, st.integers(1, FRAMES - 1))
@settings(deadline=None, max_examples=25)
def test_counters_that_begin_anew_hide_and_invent_nothing(host: list[Life], at: int) -> None:
    """The recorder's counters restart before frame `at`: exits from then on are counted."""
    host = [replace(life, in_flight=False) for life in host]
    frames = [frame_at(host, number) for number in range(FRAMES)]
    newer = [life for life in host if life.counted_from() >= at]

    def counted_anew(number: int) -> Lifecycle:
        born = sum(1 for life in host if at <= life.born <= number)
        return replace(lifecycle_at(newer, number), created=born)

    restarted = [
        frame if number < at else replace(frame, lifecycle=counted_anew(number))
        for number, frame in enumerate(frames)
    ]
    before, after = frames[at - 1].lifecycle, restarted[at].lifecycle
    assert before is not None
    assert after is not None
    # one that no count shows can't be told
    assume(has_restarted(before, after) or not (before.created or before.exited))
    told = told_by_commands(restarted)
    check_rates(told, host)
    assert told.screens[at] == told_by_commands(frames).screens[at]


def as_sample(frame: Frame) -> Sample:
    """What the daemon would have found at that moment."""
    living: dict[Kind, Counter[tuple[int, int]]] = {kind: Counter() for kind in Kind}
    skipped = [0] * 8
    stacks = frame.stacks
    for kind, pages, touched in zip(
        stacks.kinds, stacks.mark_pages(), stacks.touched_pages, strict=True
    ):
        living[Kind(kind)][pages, 1] += 1
        for page in range(1, pages):
            skipped[page] += not touched >> page & 1
    assert frame.lifecycle is not None
    return Sample(
        host=frame.host,
        living=Living(living, tuple(skipped), (0,) * 6, 0),
        lifecycle=frame.lifecycle,
        coverage=frame.coverage,
        cgroups={},
        scan_seconds=0.001,
        taken_at=frame.taken_at,
        kernel_counters={},
        bpf_memory_bytes=4096,
    )


def test_the_frame_shown_is_that_of_the_first_policy_named() -> None:
    """Whose median saving need not be in the frame of rfc-v1's."""
    series = str(ROOT / "docs/results/stress-scheduler.dsp")

    def savings(*command: str) -> float:
        ratio: float = json.loads(run(*command, "--format", "json").stdout)["policies"][0][
            "saving_ratio"
        ]
        return ratio

    for name in ("rfc-v1", "accessed-bit", "vendor"):
        assert savings("policies", series, "--policy", name) == savings(
            "estimate", series, "--policy", name
        )


@pytest.mark.parametrize(
    ("name", "faults", "pages"), [("skipped-page", 10.0, 20.0), ("gone-then-exited", 0.0, 0.0)]
)
def test_the_cases_that_were_told_in_two_ways(name: str, faults: float, pages: float) -> None:
    """A skipped page; and a task seen, then gone, and counted one interval later."""
    path = CASES / f"{name}.dsp"
    frames = list(Capture(path))
    for moment in evidence_of(frames, [BUILT_IN["rfc-v1"]], name).moments[1:]:
        assert moment.faults_per_second == faults

    compared = json.loads(run("policies", str(path), "--format", "json").stdout)
    rate = compared["policies"][0]["rate"]
    assert (rate["events_per_second"], rate["pages_per_second"]) == (faults, pages)
    table = run("policies", str(path)).stdout
    assert re.search(rf"^rfc-v1\b.* {faults:.1f}f$", table, re.MULTILINE)
    report = run("report", str(path), "--format", "text").stdout
    assert f"would have taken {faults:.2f} faults a second" in " ".join(report.split())
    screen = run("top", "--replay", str(path), "--once").stdout
    assert f"faults {faults:.1f} (modelled)" in screen

    daemon = daemon_pages([as_sample(frame) for frame in frames])
    seconds = (frames[-1].boot_ns - frames[0].boot_ns) / 1e9
    for metric, rate in (("faults", faults), ("fault_pages", pages)):
        key = f"dynstack_policy_{metric}_total rfc-v1"
        assert (daemon[-1][key] - daemon[0][key]) / seconds == rate
