# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what `faults` costs while it runs and write it into docs/performance.md.

Usage: python tests/bench/faults_bench.py docs/performance.md [--quick]

Paired: with the probe attached and without, in turns within one run, either one first in
every other pair.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from dynstack_probe.kernel.kallsyms import read_symbols  # noqa: E402
from dynstack_probe.loader import Loader  # noqa: E402
from dynstack_probe.measure.call_paths import Sampling, load_call_paths  # noqa: E402
from dynstack_probe.measure.faults import FaultWatch, StackFault, load_faults  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.live.variants import OtherLoader  # noqa: E402

NULL_PAIRS = 15
BUILD_PAIRS = 9
QUICK_PAIRS = 3
SOURCES = 20
READ_SECONDS = 0.25

NULL_CALLS = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
	double best = 1e9;
	for (int round = 0; round < 300; round++) {
		struct timespec a, b;
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (int i = 0; i < 4000; i++)
			syscall(SYS_getppid);
		clock_gettime(CLOCK_MONOTONIC, &b);
		double ns = ((b.tv_sec - a.tv_sec) * 1e9 + b.tv_nsec - a.tv_nsec) / 4000;
		if (ns < best)
			best = ns;
	}
	printf("%f\n", best);
}
"""

HEADERS = (
    "stdio stdlib string math time errno signal pthread semaphore unistd fcntl poll dirent"
    " sys/socket sys/stat sys/mman sys/wait sys/epoll netinet/in netinet/tcp arpa/inet netdb"
    " termios regex glob locale wchar complex setjmp spawn sched"
)

FUNCTION = """
static int compare_{n}(const void *a, const void *b) {{ return strcmp(a, b) * {n}; }}
int work_{n}(char *names, int count)
{{
	double sum = 0;
	char line[256];
	qsort(names, count, 16, compare_{n});
	for (int i = 0; i < count; i++) {{
		sum += sin(i * {n}.5) * strlen(names + 16 * i);
		snprintf(line, sizeof(line), "%s %d %f", names + 16 * i, i, sum);
		if (strstr(line, "{n}"))
			fputs(line, stderr);
	}}
	return (int)sum;
}}
"""


@dataclass
class Paired:
    """Times without a probe, and what each of its pairs took more with it."""

    bare: list[float] = field(default_factory=list)
    extra: list[float] = field(default_factory=list)

    def measure(
        self,
        pairs: int,
        work: Callable[[], float],
        probe: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Take that many pairs."""
        for number in range(pairs):
            times = {}
            for with_probe in (number % 2 == 0, number % 2 == 1):
                with probe() if with_probe else contextlib.nullcontext():
                    times[with_probe] = work()
            self.bare.append(times[False])
            self.extra.append(times[True] - times[False])

    def ns(self) -> str:
        """Median and range of what was added."""
        low, high = min(self.extra), max(self.extra)
        return f"{statistics.median(self.extra):+.0f} ns ({low:+.0f} to {high:+.0f})"

    def percent(self) -> str:
        """The same as a share of the time without it; the range is the middle half."""
        ratios = [e / b * 100 for e, b in zip(self.extra, self.bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})"


class Reader:
    """Reads a probe now and then in a thread of its own, as the command does."""

    def __init__(self, read: Callable[[], object], every_seconds: float) -> None:
        self._read = read
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._read()


@contextlib.contextmanager
def watching(found: list[StackFault], *, check_window: bool = False) -> Iterator[None]:
    """`faults` at work; fills `found`."""
    macros = {"CHECK_WINDOW": 1} if check_window else {}
    with OtherLoader(macros) as loader, load_faults(loader) as probe, FaultWatch(probe) as w:
        w.begin()

        def read() -> None:
            w.scan_all_tasks()
            found.extend(w.read())

        with Reader(read, 1.0):
            yield
        read()


@contextlib.contextmanager
def doing_nothing() -> Iterator[None]:
    """An empty program where `faults` has its own: the least that any could cost."""
    source = Path(__file__).with_name("empty_sys_exit.c")
    with Loader() as loader, loader.load(source, {}, [], tracepoints={"sys_exit": "on_sys_exit"}):
        yield


@contextlib.contextmanager
def sampling(rate_hz: int) -> Iterator[None]:
    """Call paths being sampled."""
    symbols = read_symbols()
    with (
        Loader() as loader,
        load_call_paths(loader, rate_hz=rate_hz) as probe,
        Sampling(probe, symbols) as samples,
        Reader(samples.read, READ_SECONDS),
    ):
        yield


def null_call(folder: Path) -> Callable[[], float]:
    """The least that getppid() takes, nanoseconds."""
    source, program = folder / "null.c", folder / "null"
    source.write_text(NULL_CALLS)
    subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    return lambda: float(subprocess.run([program], capture_output=True, check=True).stdout)


def build(folder: Path) -> Callable[[], float]:
    """make -j of some C files: seconds of CPU time, which other load changes least."""
    tree = folder / "tree"
    tree.mkdir()
    includes = "".join(f"#include <{name}.h>\n" for name in HEADERS.split())
    for n in range(SOURCES):
        body = "".join(FUNCTION.format(n=n * 100 + k) for k in range(5))
        (tree / f"part{n}.c").write_text(includes + body)
    (tree / "main.c").write_text("int main(void) { return 0; }\n")
    objects = " ".join(f"part{n}.o" for n in range(SOURCES))
    (tree / "Makefile").write_text(f"program: main.o {objects}\n\tgcc -o $@ $^ -lm\n")

    def once() -> float:
        for path in (*tree.glob("*.o"), tree / "program"):
            path.unlink(missing_ok=True)
        command = ["make", f"-j{host.online_cpus()}", "CFLAGS=-O2"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=tree, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    once()  # the page cache knows it from here on
    return once


def main() -> None:
    quick = "--quick" in sys.argv
    null_pairs, build_pairs = (QUICK_PAIRS,) * 2 if quick else (NULL_PAIRS, BUILD_PAIRS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("null system calls ...", file=sys.stderr)
        null = Paired()
        call = null_call(folder)
        null.measure(null_pairs, call, lambda: watching([]))
        least = Paired()
        least.measure(null_pairs, call, doing_nothing)
        make = build(folder)
        found: list[StackFault] = []
        print("builds ...", file=sys.stderr)
        builds = Paired()
        builds.measure(build_pairs, make, lambda: watching(found))
        sampled = {}
        for rate_hz in (99, 999):
            print(f"builds sampled at {rate_hz} Hz ...", file=sys.stderr)
            sampled[rate_hz] = Paired()
            sampled[rate_hz].measure(build_pairs, make, partial(sampling, rate_hz))
        print("exactness ...", file=sys.stderr)
        checked: list[StackFault] = []
        with watching(checked, check_window=True):
            make()
    hidden = sum(fault.hidden for fault in checked)
    late = sum(fault.late for fault in checked)
    seconds = statistics.median(builds.bare)
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}; medians of {null_pairs} and {build_pairs} pairs.",
        "",
        "| while it runs | it costs |",
        "|---|---:|",
        f"| `faults`, a null system call ({statistics.median(null.bare):.0f} ns without)"
        f" | {null.ns()} |",
        f"| an empty program at the same tracepoint, a null system call | {least.ns()} |",
        f"| `faults`, a build (`make -j{host.online_cpus()}` of {SOURCES} C files, {seconds:.1f} s"
        f" of CPU time without) | {builds.percent()} |",
        *(
            f"| sampling at {rate_hz} Hz, the same build | {pairs.percent()} |"
            for rate_hz, pairs in sampled.items()
        ),
        "",
        f"Crossings in one build, {len(checked)}: when all of the next page was looked at at each"
        f" system call's end, {hidden} were found that the window of 128 bytes did not show;"
        f" {late} were found by a scan.",
    ]
    publish(Path(sys.argv[1]), "make bench, faults", lines)


if __name__ == "__main__":
    main()
