# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare `serve` with other tools that one would keep running on a host, in one run.

Usage: python tests/bench/daemon_bench.py docs/performance.md [--quick]

Beside it: bcc's execsnoop and exitsnoop, bpftrace's execsnoop, node_exporter. For each its
memory, its CPU time beside 30,000 sleeping threads and beside 200 processes a second, and
by how much it slows down the loops of loops.c. The slowdown is a ratio of turns that lie
within seconds of each other, with the tool and without: machines drift.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import mmap
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from dynstack_probe.kernel import host  # noqa: E402
from dynstack_probe.kernel.btf import Btf  # noqa: E402
from dynstack_probe.loader import Loader, probes_dir  # noqa: E402
from dynstack_probe.measure.lifecycle import load_lifecycle  # noqa: E402
from dynstack_probe.measure.page_faults import DutyCycle, count_page_faults  # noqa: E402
from tests.bench.document import publish  # noqa: E402
from tests.bench.soak import number, room_for_pids  # noqa: E402
from tests.live.machine import free_port, sleepers  # noqa: E402
from tests.live.test_serve import serving  # noqa: E402

SLEEPERS = 30_000
SCRAPE_SECONDS = 15.0
PROCESSES_A_SECOND = 200
IDLE_PAGES = 16_384
LOOPS = {"exec": "fork, exec, exit", "exit": "fork, exit", "switch": "context switch"}
PAGE_FAULTS = {"fault": "user mode", "kfault": "kernel mode"}
TRACEFS = Path("/sys/kernel/tracing")
SYS_BPF, PROG_GET_FD_BY_ID, RAW_TRACEPOINT_OPEN = 321, 13, 17  # asm/unistd_64.h, linux/bpf.h
START_SECONDS = 20.0
BOOTSTRAPS = 2000

# The limits which the issue sets.
RSS_LIMIT_MB, PSS_LIMIT_MB = 26, 18
CPU_LIMIT_PERCENT = 0.1
FORK_LIMIT_PERCENT = 2
SWITCH_LIMIT_PERCENT = 0.5
PAGE_FAULT_LIMIT_PERCENT = 0.3


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    settle_seconds: float = 35.0  # two scans, of which the first reads every stack
    idle_seconds: float = 120.0
    busy_seconds: float = 30.0
    attach_rounds: int = 160
    attach_turn_ms: int = 150  # short, so that a pair lies close together
    start_rounds: int = 20
    start_turn_ms: int = 300


QUICK = Plan(17, 15, 5, attach_rounds=8, start_rounds=3)


class Loops:
    """The process of loops.c, pinned to the last CPU."""

    def __init__(self, folder: Path) -> None:
        program = folder / "loops"
        source = Path(__file__).with_name("loops.c")
        subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
        last = max(os.sched_getaffinity(0))
        self._process = subprocess.Popen(
            [program, str(last)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ns(self, loop: str, milliseconds: int) -> float:
        """One turn of that loop, nanoseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{loop} {milliseconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@dataclass
class Slowdown:
    """Times of a loop with a tool over those without, and what it took without."""

    ratios: list[float] = field(default_factory=list)
    bare_ns: list[float] = field(default_factory=list)

    def percent(self) -> float:
        """Median."""
        return (statistics.median(self.ratios) - 1) * 100

    def bare(self) -> float:
        """Median without the tool, nanoseconds."""
        return statistics.median(self.bare_ns)

    def interval(self) -> tuple[float, float]:
        """95% of that median, by bootstrap; the same each time for the same ratios."""
        draw = random.Random(0)
        medians = sorted(
            statistics.median(draw.choices(self.ratios, k=len(self.ratios)))
            for _ in range(BOOTSTRAPS)
        )
        low, high = medians[BOOTSTRAPS // 40], medians[-BOOTSTRAPS // 40]
        return (low - 1) * 100, (high - 1) * 100

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.percent():+.2f}% ({low:+.2f} to {high:+.2f})"


def slowdowns(
    loops: Loops,
    names: Sequence[str],
    tool: Callable[[], AbstractContextManager[object]],
    rounds: int,
    milliseconds: int,
) -> dict[str, Slowdown]:
    """By loop. Each turn with the tool is held against the mean of those around it without."""
    found = {name: Slowdown() for name in names}
    before = {name: loops.ns(name, milliseconds) for name in names}
    for _ in range(rounds):
        with tool():
            loaded = {name: loops.ns(name, milliseconds) for name in names}
        after = {name: loops.ns(name, milliseconds) for name in names}
        for name, slowdown in found.items():
            slowdown.ratios.append(loaded[name] * 2 / (before[name] + after[name]))
            slowdown.bare_ns.append(after[name])
        before = after
    return found


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2), which gives a descriptor."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    fd = int(ctypes.CDLL(None).syscall(SYS_BPF, command, buffer, len(attributes)))
    assert fd >= 0
    return fd


class Probes:
    """What the daemon loads, attached and detached at will: microseconds, not its start.

    The kernel runs the same programs on the same maps; only the descriptors which keep
    them attached are opened and closed here.
    """

    def __init__(self) -> None:
        self.programs: dict[str, int] = {}
        with Loader() as loader:
            self._loaded = load_lifecycle(loader)
        for tracepoint, link in self._loaded.tracepoints.items():
            info = Path(f"/proc/self/fdinfo/{link}").read_text()
            program_id = number(info, r"^prog_id:\s*(\d+)")
            self.programs[tracepoint] = bpf(
                PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0)
            )
            os.close(link)
        self._loaded.tracepoints.clear()
        self.trust_windows(True)

    def trust_windows(self, trusted: bool) -> None:
        """Set the state to proved, or to proving: see struct exit_proof of probes/records.h."""
        with mmap.mmap(self._loaded.maps["exit_proof"], mmap.PAGESIZE) as proof:
            struct.pack_into("=QQ", proof, 0, int(trusted), int(trusted))

    def verified_instructions(self, tracepoint: str) -> int:
        """Instructions that the verifier processed; its limit is a million."""
        info = Path(f"/proc/self/fdinfo/{self.programs[tracepoint]}").read_text()
        return number(info, r"^verified_insns:\s*(\d+)")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.programs.values():
            os.close(fd)
        self._loaded.close()

    @contextlib.contextmanager
    def attached(self, tracepoints: Sequence[str] | None = None) -> Iterator[None]:
        """All of them, or those named."""
        links = []
        for tracepoint in self.programs if tracepoints is None else tracepoints:
            name = ctypes.create_string_buffer(tracepoint.encode())
            program = self.programs[tracepoint]
            attributes = struct.pack("=QII", ctypes.addressof(name), program, 0)
            links.append(bpf(RAW_TRACEPOINT_OPEN, attributes))
        try:
            yield
        finally:
            for link in links:
                os.close(link)


@dataclass(frozen=True)
class Tool:
    """An alternative tool."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None  # of its metrics; one without prints events instead
    needs_kprobes: bool = False


class NotHereError(Exception):
    """A tool that this machine can't run, and why."""


@contextlib.contextmanager
def kept_open(tool: Tool, folder: Path) -> Iterator[int]:
    """Run a tool until it works; gives its pid. Raises NotHereError."""
    if tool.needs_kprobes and not (TRACEFS / "kprobe_events").exists():
        raise NotHereError("it needs kprobes, which this kernel is built without")
    output = folder / "output"
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                tool.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **tool.environment},
            )
    except FileNotFoundError:
        raise NotHereError("not installed") from None
    try:
        _wait_until_it_works(tool, process, output)
        yield process.pid
        if process.poll() is not None:
            raise SystemExit(f"{tool.name} ended in the middle: {_last_words(output)}")
    finally:
        process.kill()
        process.wait()


def _wait_until_it_works(tool: Tool, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotHereError(_last_words(output))
        if _answers(tool.url) if tool.url else _notices(output):
            return
        time.sleep(0.05)
    raise NotHereError(f"did nothing for {START_SECONDS:g} s")


def _answers(url: str) -> bool:
    try:
        scrape(url)
    except OSError:
        return False
    return True


def _notices(output: Path) -> bool:
    """Whether a process makes the tool print a line of it."""
    seen = output.stat().st_size
    subprocess.run(["/bin/true"], check=True)
    time.sleep(0.05)
    with output.open("rb") as file:
        file.seek(seen)
        return b"true" in file.read()


def _last_words(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ended and said nothing"


def scrape(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:
        answer.read()


@contextlib.contextmanager
def tracefs() -> Iterator[None]:
    """bcc and bpftrace look tracepoints up there; not every machine has it mounted."""
    mounted = (TRACEFS / "events").is_dir()
    if not mounted:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], check=True)
    try:
        yield
    finally:
        if not mounted:
            subprocess.run(["umount", "--lazy", TRACEFS], check=True)


# The fields of task_struct that exitsnoop uses.
TASK_FIELDS = {
    "start_time": "u64",
    "pid": "int",
    "tgid": "int",
    "real_parent": "struct task_struct *",
    "exit_code": "int",
}


def kernel_source(folder: Path) -> Path:
    """Headers of this kernel, as much as exitsnoop includes, from our stubs and BTF.

    bcc's tools want the headers that the kernel was built from, and few machines have them.
    """
    shutil.copytree(probes_dir() / "stubs", folder)
    rows = []
    with Btf() as btf:
        for name, c_type in TASK_FIELDS.items():
            member = btf.find(f"task_struct.{name}")
            assert member is not None
            before = f"char before_{name}[{member.offset_bytes}]"
            rows.append(f"struct {{ {before}; {c_type} {name}; }} __attribute__((packed));")
    (folder / "include" / "linux" / "sched.h").write_text(
        "#define TASK_COMM_LEN 16\nstruct task_struct { union {\n" + "\n".join(rows) + "\n}; };\n"
    )
    return folder


def tools(folder: Path) -> list[Tool]:
    by_line = {"PYTHONUNBUFFERED": "1"}  # as they print to a terminal
    headers = {"BCC_KERNEL_SOURCE": str(kernel_source(folder / "kernel"))}
    address = f"127.0.0.1:{free_port()}"
    return [
        Tool("bcc's execsnoop", ("execsnoop-bpfcc",), by_line, needs_kprobes=True),
        Tool("bcc's exitsnoop", ("exitsnoop-bpfcc",), {**by_line, **headers}),
        Tool("bpftrace's execsnoop", ("bpftrace", "-B", "line", "/usr/sbin/execsnoop.bt")),
        Tool(
            "node_exporter",
            ("prometheus-node-exporter", f"--web.listen-address={address}"),
            url=f"http://{address}/metrics",
        ),
    ]


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, to the nanosecond: first field of schedstat."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in tasks)


@dataclass
class Use:
    """What a process holds and takes."""

    rss_mb: float = 0
    pss_mb: float = 0
    idle_percent: float = 0
    busy_percent: float = 0


def take_memory(use: Use, pid: int) -> None:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    use.rss_mb = number(text, r"^Rss:\s*(\d+)") / 1024
    use.pss_mb = number(text, r"^Pss:\s*(\d+)") / 1024


def cpu_percent(
    pids: Mapping[str, int], seconds: float, work: Callable[[float], None]
) -> dict[str, float]:
    """Of one core, by name, while `work` goes on."""
    began, before = time.perf_counter_ns(), {name: cpu_ns(pid) for name, pid in pids.items()}
    work(seconds)
    elapsed = time.perf_counter_ns() - began
    return {name: (cpu_ns(pid) - before[name]) / elapsed * 100 for name, pid in pids.items()}


def only_scrape(urls: Sequence[str], seconds: float) -> None:
    """As Prometheus would, each URL once in 15 s."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for url in urls:
            scrape(url)
        time.sleep(min(left, SCRAPE_SECONDS))


def start_processes(urls: Sequence[str], seconds: float) -> None:
    """/bin/true, 200 times a second, and scrapes as ever."""
    began = time.monotonic()
    for n in range(int(seconds * PROCESSES_A_SECOND)):
        if n % int(SCRAPE_SECONDS * PROCESSES_A_SECOND) == 0:
            for url in urls:
                scrape(url)
        time.sleep(max(0.0, began + n / PROCESSES_A_SECOND - time.monotonic()))
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def idle_page_us() -> float:
    """Time to read a page that was idle for one scrape interval, microseconds.

    About 0.1, unless the hypervisor reclaims idle guest memory meanwhile.
    """
    with mmap.mmap(-1, IDLE_PAGES * mmap.PAGESIZE) as memory:
        memory[:: mmap.PAGESIZE] = b"\1" * IDLE_PAGES
        time.sleep(SCRAPE_SECONDS)
        began = time.thread_time_ns()
        memory[:: mmap.PAGESIZE]
        return (time.thread_time_ns() - began) / IDLE_PAGES / 1000


def measure_use(kept: Sequence[Tool], folder: Path, plan: Plan) -> dict[str, Use]:
    """All of them at the same time, so under the same conditions; ours is 'serve'."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(sleepers(SLEEPERS, b"bench"))
        daemon = stack.enter_context(serving())
        pids = {"serve": daemon.process.pid}
        urls = [f"{daemon.url}/metrics"]
        for tool in kept:
            own = Path(tempfile.mkdtemp(dir=folder))
            pids[tool.name] = stack.enter_context(kept_open(tool, own))
            urls += [tool.url] if tool.url else []
        only_scrape(urls, plan.settle_seconds)
        uses = {name: Use() for name in pids}
        idle = cpu_percent(pids, plan.idle_seconds, lambda s: only_scrape(urls, s))
        busy = cpu_percent(pids, plan.busy_seconds, lambda s: start_processes(urls, s))
        for name, use in uses.items():
            use.idle_percent, use.busy_percent = idle[name], busy[name]
            take_memory(use, pids[name])
    return uses


@dataclass(frozen=True)
class Result:
    """Of one run."""

    uses: Mapping[str, Use]
    slowdowns: Mapping[str, Mapping[str, Slowdown]]
    not_here: Mapping[str, str]
    page_faults: Mapping[str, Slowdown]
    idle_page_us: float


def runnable(candidates: Sequence[Tool], folder: Path) -> tuple[list[Tool], dict[str, str]]:
    """Those that work on this machine, and why others do not."""
    good, not_here = [], {}
    for tool in candidates:
        try:
            with kept_open(tool, folder):
                good.append(tool)
        except NotHereError as error:
            not_here[tool.name] = str(error)
    return good, not_here


def measure_slowdowns(
    kept: Sequence[Tool], folder: Path, plan: Plan
) -> dict[str, dict[str, Slowdown]]:
    """By contender, then by loop."""
    found: dict[str, dict[str, Slowdown]] = {"nothing": {}, "serve": {}}
    with Loops(folder) as loops:
        with Probes() as probes:
            for name in LOOPS:
                print(f"{name}, probes on and off ...", file=sys.stderr)
                often = functools.partial(
                    slowdowns,
                    loops,
                    [name],
                    rounds=plan.attach_rounds,
                    milliseconds=plan.attach_turn_ms,
                )
                found["nothing"] |= often(contextlib.nullcontext)
                found["serve"] |= often(probes.attached)
        for tool in kept:
            print(f"{tool.name}, on and off ...", file=sys.stderr)
            found[tool.name] = slowdowns(
                loops,
                list(LOOPS),
                functools.partial(kept_open, tool, folder),
                plan.start_rounds,
                plan.start_turn_ms,
            )
    return found


def measure_page_faults(folder: Path, plan: Plan) -> dict[str, Slowdown]:
    """By loop, with the counter attached."""
    print("page faults, counted and not ...", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        loader, loops = stack.enter_context(Loader()), stack.enter_context(Loops(folder))
        counter = count_page_faults(loader, DutyCycle())
        stack.callback(counter.close)

        @contextlib.contextmanager
        def counting() -> Iterator[None]:
            counter.turn()
            yield
            counter.turn()

        often = functools.partial(
            slowdowns, loops, rounds=plan.attach_rounds, milliseconds=plan.attach_turn_ms
        )
        return {loop: often([loop], counting)[loop] for loop in PAGE_FAULTS}


def page_fault_rows(result: Result) -> list[str]:
    """Overhead per page fault: the counter is attached part of the time, and free otherwise."""
    duty = DutyCycle()
    share = duty.on_seconds / duty.period_seconds
    return [
        verdict(
            f"slowdown of a page fault in {mode} ({slower.bare() / 1000:.2f} us), counted"
            f" {duty.on_seconds:g} s in {duty.period_seconds:g}",
            slower.percent() * share,
            PAGE_FAULT_LIMIT_PERCENT,
            "%",
            f"{slower.percent() * share:+.2f}% (while it counts {slower})",
        )
        for mode, slower in ((mode, result.page_faults[loop]) for loop, mode in PAGE_FAULTS.items())
    ]


def verdict(limit: str, found: float, at_most: float, unit: str, exactly: str = "") -> str:
    """A row: one limit of the issue."""
    met = "met" if found <= at_most else "NOT met"
    return f"| {limit} | {at_most:g}{unit} | {exactly or f'{found:.3g}{unit}'} | {met} |"


def limits(result: Result) -> list[str]:
    use, slower = result.uses["serve"], result.slowdowns["serve"]

    def slowdown(what: str, loop: str, at_most: float) -> str:
        return verdict(what, slower[loop].percent(), at_most, "%", str(slower[loop]))

    return [
        "| `serve` | at most | found | |",
        "|---|---:|---:|---|",
        verdict("RSS", use.rss_mb, RSS_LIMIT_MB, " MB"),
        verdict("PSS", use.pss_mb, PSS_LIMIT_MB, " MB"),
        verdict(
            f"CPU, scraped every 15 s beside {SLEEPERS:,} sleeping threads, of one core",
            use.idle_percent,
            CPU_LIMIT_PERCENT,
            "%",
        ),
        slowdown("slowdown of fork + exec + exit", "exec", FORK_LIMIT_PERCENT),
        slowdown("slowdown of fork + exit alone", "exit", FORK_LIMIT_PERCENT),
        slowdown("slowdown of a context switch", "switch", SWITCH_LIMIT_PERCENT),
        *page_fault_rows(result),
    ]


def use_cells(use: Use | None) -> list[str]:
    if use is None:
        return [""] * 4
    memory = [f"{use.rss_mb:.1f}", f"{use.pss_mb:.1f}"]
    return [*memory, f"{use.idle_percent:.3f}%", f"{use.busy_percent:.2f}%"]


def comparison(result: Result) -> list[str]:
    rows = [
        f"| kept open | RSS, MB | PSS, MB | CPU, {SLEEPERS:,} asleep"
        f" | CPU, {PROCESSES_A_SECOND} processes a second"
        " | fork + exec + exit | fork + exit | context switch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, slower in result.slowdowns.items():
        cells = [*use_cells(result.uses.get(name)), *(str(slower[loop]) for loop in LOOPS)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def notes(result: Result, plan: Plan) -> list[str]:
    bare = {loop: result.slowdowns["nothing"][loop].bare() / 1000 for loop in LOOPS}
    lines = [
        "Slowdowns are medians of paired turns, with 95% of each median by bootstrap;"
        " *nothing* shows what chance alone does. Without any tool a fork + exec + exit of"
        f" `/bin/true` takes {bare['exec']:.0f} us, a fork + `_exit` of a small static process"
        f" {bare['exit']:.0f} us, a switch of two processes that pass a byte {bare['switch']:.2f}"
        f" us (`tests/bench/loops.c`, pinned to one CPU). Our probes were attached and detached"
        f" {plan.attach_rounds} times for each loop, the others started and killed"
        f" {plan.start_rounds} times. exitsnoop is bcc's own, with the few headers that it wants"
        " made from BTF.",
        f"Reading a page that nobody touched for {SCRAPE_SECONDS:g} s took"
        f" {result.idle_page_us:.2g} us. Where the machine is a guest, and its host takes idle"
        " memory back, that is microseconds, and all that wakes now and then pays it: the same"
        " `serve` beside the same sleepers then takes several times the CPU time, and so does"
        " node_exporter.",
    ]
    lines += [f"{name} could not be run here: {why}." for name, why in result.not_here.items()]
    return "\n\n".join(lines).split("\n")


def measure(plan: Plan) -> Result:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(tracefs())
        stack.enter_context(room_for_pids())
        kept, not_here = runnable(tools(folder), folder)
        for name, why in not_here.items():
            print(f"{name} does not run here: {why}", file=sys.stderr)
        print(f"beside {SLEEPERS:,} sleepers ...", file=sys.stderr)
        uses = measure_use(kept, folder, plan)
        return Result(
            uses,
            measure_slowdowns(kept, folder, plan),
            not_here,
            measure_page_faults(folder, plan),
            idle_page_us(),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="less often: to see that it works")
    arguments = parser.parse_args()
    if shutil.which("gcc") is None:
        raise SystemExit("daemon_bench: gcc is not installed")
    plan = QUICK if arguments.quick else Plan()
    result = measure(plan)
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {host.cpu_model()}, {host.online_cpus()} CPUs,"
        f" Linux {os.uname().release}.",
        "",
        *limits(result),
        "",
        *comparison(result),
        "",
        *notes(result, plan),
    ]
    if arguments.document:
        publish(arguments.document, "make bench, daemon", lines)
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
