# SPDX-License-Identifier: GPL-2.0-or-later
"""Run `serve` for long under fork storms and check that it leaks nothing.

Usage: python tests/bench/soak.py [docs/performance.md] [--minutes 30]

Meanwhile stress-ng forks, vforks and starts 30,000 sleeping threads and ends them, over and
over, and a shell starts `true` again and again. Two windows are compared: the second sixth of
the run (minutes 5 to 10 of 30) and its last sixth, so that neither start-up nor the end of
the load is part of it. Fails, with one line that says why, unless both are alike.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.live.test_serve import Serving, serving  # noqa: E402

INTERVAL_SECONDS = 3
THREADS = 30_000
LOADS = (
    ("stress-ng", "--fork", "1", "--vfork", "1", "--pthread", "1", "--pthread-max", str(THREADS)),
    ("sh", "-c", "while :; do /bin/true; done"),
)
PID_MAX = Path("/proc/sys/kernel/pid_max")
ROOM_FOR_PIDS = 131_072
WINDOWS = 6  # of which the second and the last are compared
SCRAPE_SECONDS, FEWEST_SCRAPES = 10.0, 60
RSS_SLACK_KIB, RSS_SLACK_RATIO = 1024, 0.03
MAPS_SLACK_RATIO = 0.01  # entries of living stacks that were handed out with grown pages
# In a quiet moment before and after the load, tasks of this machine still come and go,
# and those of PID 1 may be hidden from the iterator but not from the tracepoints.
BALANCE_SLACK_TASKS = 50
REST_SCANS = 8


@dataclass(frozen=True)
class Moment:
    """What the daemon was, said and held at one scrape."""

    seconds: float
    rss_kib: int
    pss_kib: int
    descriptors: int
    threads: int
    map_bytes: int
    series: Mapping[str, float]

    def total(self, name: str) -> int:
        """Sum over all series of a metric."""
        return int(sum(v for key, v in self.series.items() if key.partition("[")[0] == name))

    def bpf_bytes(self) -> int:
        return self.total("dynstack_bpf_memory_bytes")

    def balance(self) -> int:
        """Created, less exited, less living: the same at any two quiet moments."""
        exited = self.total("dynstack_exited_tasks_total")
        unread = int(self.series["dynstack_lost_events_total[('reason', 'exit_unread')]"])
        living = self.total("dynstack_stacks_read") + self.total("dynstack_stacks_unreadable")
        return self.total("dynstack_created_tasks_total") - exited - unread - living


def number(text: str, pattern: str) -> int:
    """The first group of a line."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found, text
    return int(found[1])


def map_bytes(pid: int) -> int:
    """What the kernel says all BPF maps hold that a process has open."""
    total = 0
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            text = info.read_text()
            total += number(text, r"^memlock:\s*(\d+)") if "map_type:" in text else 0
    return total


def observe(daemon: Serving, began: float) -> Moment:
    pid = daemon.process.pid
    series = daemon.samples()  # the connection is closed when its descriptors are counted
    process = Path(f"/proc/{pid}")
    memory = (process / "smaps_rollup").read_text()
    return Moment(
        seconds=time.monotonic() - began,
        rss_kib=number(memory, r"^Rss:\s*(\d+)"),
        pss_kib=number(memory, r"^Pss:\s*(\d+)"),
        descriptors=sum(1 for _ in (process / "fd").iterdir()),
        threads=sum(1 for _ in (process / "task").iterdir()),
        map_bytes=map_bytes(pid),
        series=series,
    )


@contextlib.contextmanager
def room_for_pids() -> Iterator[None]:
    """30,000 threads and a fork storm do not fit into the 32,768 ids of a small machine."""
    before = PID_MAX.read_text()
    if int(before) < ROOM_FOR_PIDS:
        PID_MAX.write_text(str(ROOM_FOR_PIDS))
    try:
        yield
    finally:
        PID_MAX.write_text(before)


@contextlib.contextmanager
def running(*command: str) -> Iterator[None]:
    """A load, with all that it starts, in a session of its own so that it can be ended."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
        if process.poll() is not None:
            raise SystemExit(f"soak: {command[0]} ended by itself: {process.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def progress(moment: Moment) -> None:
    print(
        f"{moment.seconds:5.0f} s: RSS {moment.rss_kib} KiB, PSS {moment.pss_kib} KiB,"
        f" {moment.descriptors} descriptors, {moment.threads} threads, maps"
        f" {moment.map_bytes // 1024} KiB, {moment.total('dynstack_created_tasks_total')} created,"
        f" {moment.total('dynstack_stacks_read')} living",
        file=sys.stderr,
        flush=True,
    )


@dataclass(frozen=True)
class Soak:
    """A whole run."""

    before: Moment
    under_load: Sequence[Moment]
    after: Moment

    def windows(self) -> tuple[list[Moment], list[Moment]]:
        """The second sixth and the last."""
        width = self.under_load[-1].seconds / WINDOWS
        early = [m for m in self.under_load if width <= m.seconds < 2 * width]
        late = [m for m in self.under_load if m.seconds >= (WINDOWS - 1) * width]
        return early, late

    def most_living(self) -> int:
        return max(moment.total("dynstack_stacks_read") for moment in self.under_load)

    def created(self) -> int:
        name = "dynstack_created_tasks_total"
        return self.after.total(name) - self.before.total(name)

    def lost(self) -> dict[str, int]:
        """Events that could not be counted or remembered, by reason."""
        name = "dynstack_lost_events_total"
        return {
            series.split("'")[3]: int(value - self.before.series[series])
            for series, value in self.after.series.items()
            if series.startswith(name)
        }

    def resets(self) -> list[str]:
        """Counters that fell or vanished, by name."""
        moments = [self.before, *self.under_load, self.after]
        return sorted(
            {
                series
                for old, new in itertools.pairwise(moments)
                for series, value in old.series.items()
                if series.partition("[")[0].endswith("_total")
                and new.series.get(series, -1) < value
            }
        )


def rest(daemon: Serving, began: float) -> Moment:
    """Wait until no task is in flight. This takes a while after the load: 30,000 dying tasks
    queue, counted as exited but still alive."""
    newest = observe(daemon, began)
    for _ in range(REST_SCANS):
        before = newest
        time.sleep(2.5 * INTERVAL_SECONDS)
        newest = observe(daemon, began)
        if newest.balance() == before.balance():
            break
    return newest


def soak(minutes: float) -> Soak:
    """Raises SystemExit if a load ends, OSError if the daemon does or no longer answers."""
    pause = min(SCRAPE_SECONDS, minutes * 60 / FEWEST_SCRAPES)
    moments: list[Moment] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(room_for_pids())
        config = Path(folder) / "soak.toml"
        config.write_text(f"interval_seconds = {INTERVAL_SECONDS}\n")
        daemon = stack.enter_context(serving("--config", str(config)))
        before = rest(daemon, time.monotonic())
        began = time.monotonic()
        with contextlib.ExitStack() as load:
            for command in LOADS:
                load.enter_context(running(*command))
            while not moments or moments[-1].seconds < minutes * 60:
                time.sleep(pause)
                moments.append(observe(daemon, began))
                progress(moments[-1])
        after = rest(daemon, began)
    return Soak(before, moments, after)


@dataclass(frozen=True)
class Check:
    """A row of the table: one figure in both windows, and whether it stayed."""

    what: str
    early: str
    late: str
    flat: bool


def no_slack(_: float) -> float:
    return 0


def compare(
    run: Soak,
    what: str,
    figure: Callable[[Moment], int],
    *,
    of: Callable[[Iterable[int]], float] = statistics.median,
    slack: Callable[[float], float] = no_slack,
    show: Callable[[float], str] = "{:.0f}".format,
) -> Check:
    """Both windows; flat if the later is no more than `slack` above the earlier."""
    early, late = (of(map(figure, window)) for window in run.windows())
    return Check(what, show(early), show(late), late - early <= slack(early))


def checks(run: Soak) -> list[Check]:
    def resident(early: float) -> float:
        return max(RSS_SLACK_KIB, early * RSS_SLACK_RATIO)

    def megabytes(kib: float) -> str:
        return f"{kib / 1024:.1f} MB"

    def in_maps(what: str, figure: Callable[[Moment], int]) -> Check:
        return compare(
            run,
            what,
            figure,
            of=min,
            slack=lambda early: early * MAPS_SLACK_RATIO,
            show=lambda size: f"{size / 1024:.0f} KiB",
        )

    return [
        compare(run, "RSS", lambda m: m.rss_kib, slack=resident, show=megabytes),
        compare(run, "PSS", lambda m: m.pss_kib, slack=resident, show=megabytes),
        compare(run, "threads", lambda m: m.threads),
        # Least, since a scan or an answer under way holds one more for a moment ...
        compare(run, "open descriptors, least", lambda m: m.descriptors, of=min),
        # ... and stacks on their way out are remembered until their addresses are freed.
        in_maps("`dynstack_bpf_memory_bytes`, least", Moment.bpf_bytes),
        in_maps("BPF maps by the kernel, least", lambda m: m.map_bytes),
    ]


def complaints(run: Soak, rows: Sequence[Check]) -> list[str]:
    """Why this run failed; empty if it passed."""
    found = [f"{row.what}: {row.early}, later {row.late}" for row in rows if not row.flat]
    resets = run.resets()
    if resets:
        found.append(f"counters fell: {', '.join(resets)}")
    drift = run.after.balance() - run.before.balance()
    if abs(drift) > BALANCE_SLACK_TASKS:
        found.append(f"created less exited less living moved by {drift}")
    return found


def table(run: Soak, rows: Sequence[Check], minutes: float) -> list[str]:
    lost = ", ".join(f"{reason} {count:,}" for reason, count in run.lost().items())
    drift = run.after.balance() - run.before.balance()
    width = minutes / WINDOWS
    return [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}: {minutes:g} minutes, {len(run.under_load)} scrapes, a scan"
        f" every {INTERVAL_SECONDS} s; {run.created():,} tasks created, up to {run.most_living():,}"
        " alive at a time.",
        "",
        f"| medians, of minutes | {width:.3g} to {2 * width:.3g}"
        f" | {minutes - width:.3g} to {minutes:.3g} | flat |",
        "|---|---:|---:|---|",
        *(f"| {r.what} | {r.early} | {r.late} | {'yes' if r.flat else 'NO'} |" for r in rows),
        "",
        f"Counters that fell: {len(run.resets())}. Lost, by reason: {lost}. Created, less exited,"
        f" less what came to live: {drift} of {run.created():,}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", help="where to write the figures")
    parser.add_argument("--minutes", type=float, default=30)
    arguments = parser.parse_args()
    if shutil.which("stress-ng") is None:
        raise SystemExit("soak: stress-ng is not installed")
    # So that pid_max is put back and the loads are ended, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: terminated"))
    try:
        run = soak(arguments.minutes)
    except OSError as error:
        raise SystemExit(f"soak: the daemon ended or does not answer: {error}") from None
    rows = checks(run)
    lines = table(run, rows, arguments.minutes)
    if arguments.document:
        publish(arguments.document, "make soak", lines)
    else:
        print("\n".join(lines))
    wrong = complaints(run, rows)
    if wrong:
        raise SystemExit(f"soak: not flat: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
