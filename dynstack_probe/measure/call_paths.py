# SPDX-License-Identifier: GPL-2.0-or-later
"""By which call paths tasks go deep: samples of probes/call_paths.c.

Exact: the depth at the sampled stack pointer, and the chain of functions as the kernel
unwinds it. The depth of each caller is where its callee's return address lies on the
stack: searched for from the stack pointer upwards, so a stale copy of the same address, left by an
earlier call, can make a frame look smaller than it is.
"""

from __future__ import annotations

import mmap
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from dynstack_probe.kernel.btf import VMLINUX, Btf
from dynstack_probe.kernel.features import Features
from dynstack_probe.kernel.kallsyms import Symbols
from dynstack_probe.kernel.offsets import preemption_macros, probe_macros, register_macros
from dynstack_probe.kernel.ring_buffer import RingBuffer
from dynstack_probe.loader import Closing, LoadedProbe, Loader, PerfEvent, probes_dir
from dynstack_probe.measure.contexts import UNKNOWN_COUNT, context_of
from dynstack_probe.measure.contexts import Context as CpuContext
from dynstack_probe.measure.faults import Context, require_fixed_stacks
from dynstack_probe.measure.records import HEADER, MappedRecords, read_constants, read_layout
from dynstack_probe.model.stacks import Kind
from dynstack_probe.model.syscalls import NONE, syscall_name

DEFAULT_RATE_HZ = 99
DEFAULT_DEEPER_THAN = 4096
RING_PAGES = 1024  # 4 MiB: 700 samples of 6 KB between two reads
MAX_PATHS = 20_000  # tallied separately; samples of further ones are only counted

EVENT_SOURCES = Path("/sys/bus/event_source/devices")
READ_SECONDS = 0.25  # between reads of the ring buffer

# How long to wait for a user-mode sample: thirty periods at 99 Hz.
LEARNING_SECONDS = 0.3

# linux/perf_event.h: PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES; PERF_TYPE_SOFTWARE,
# PERF_COUNT_SW_CPU_CLOCK. Cycles interrupt by NMI, and so also where interrupts are off.
_HARDWARE, _CPU_CYCLES = 0, 0
_SOFTWARE, _CPU_CLOCK = 1, 0
CYCLES, CLOCK = "cycles", "clock"
_CPU_PMUS = ("cpu", "cpu_core")  # in /sys/bus/event_source/devices

# asm/segment.h: __USER_CS, __USER32_CS, __USER_DS; where pt_regs, which end at the top of
# the stack, hold them, in words from the end. With FRED two words of padding follow.
_USER_CS, _USER_DS = (0x33, 0x23), 0x2B
_SS, _CS, _ORIG_AX = -1, -4, -6
_PADDINGS = (0, 2)

# Generated code between the two halves of a traced function: a trampoline, named or not.
_GENERATED = ("bpf_trampoline_", "0x")

_KIND_NAMES = {
    Kind.USER_WORKER: Context.WORKER.label,
    Kind.KTHREAD: Context.KTHREAD.label,
    Kind.IDLE: Context.IDLE.label,
}


class Frame(NamedTuple):
    """A function of a call path.

    depth_bytes is from the top of the stack to its frame's end, None if unknown.
    """

    function: str
    depth_bytes: int | None


@dataclass(frozen=True)
class Sample:
    """One sample of a task deep in its stack. Frames from the outermost to the innermost."""

    tid: int
    comm: bytes
    call: str
    depth_bytes: int
    frames: tuple[Frame, ...]
    context: CpuContext = CpuContext.UNKNOWN

    @property
    def functions(self) -> tuple[str, ...]:
        return tuple(frame.function for frame in self.frames)


@dataclass
class PathTally:
    """All samples of one path: how many, and the deepest."""

    deepest: Sample
    samples: int = 0
    contexts: Counter[CpuContext] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        self.samples += 1
        self.contexts[sample.context] += 1
        if sample.depth_bytes > self.deepest.depth_bytes:
            self.deepest = sample


@dataclass
class CallPaths:
    """Samples by task name, call and path."""

    paths: dict[tuple[bytes, str, tuple[str, ...]], PathTally] = field(default_factory=dict)
    left_out: int = 0
    contexts: Counter[CpuContext] = field(default_factory=Counter)

    def add(self, sample: Sample) -> None:
        self.contexts[sample.context] += 1
        key = sample.comm, sample.call, sample.functions
        tally = self.paths.get(key)
        if tally is None:
            if len(self.paths) >= MAX_PATHS:
                self.left_out += 1
                return
            tally = self.paths[key] = PathTally(sample)
        tally.add(sample)

    def deepest_first(self) -> list[PathTally]:
        return sorted(self.paths.values(), key=lambda path: -path.deepest.depth_bytes)


class SampleCounters(NamedTuple):
    """What the probe counted over all CPUs; see sample_counters in probes/records.h."""

    taken: int
    in_kernel: int
    deep: int
    lost: int
    elsewhere: int = 0


def load_call_paths(
    loader: Loader,
    *,
    rate_hz: int = DEFAULT_RATE_HZ,
    deeper_than: int = DEFAULT_DEEPER_THAN,
    btf_path: Path = VMLINUX,
) -> LoadedProbe:
    """Load the probe; it samples from here on. Errors as load_faults().

    On CPU cycles where the machine counts them and the kernel allows it, else on the clock:
    perf_events of what is returned has CYCLES or CLOCK.
    """
    require_fixed_stacks(Features())
    with Btf(btf_path) as btf:
        values = {**probe_macros(btf), **register_macros(btf), **preemption_macros(btf)}
    values["RING_PAGES"] = RING_PAGES
    values["DEEPER_THAN"] = deeper_than
    clock = PerfEvent(CLOCK, _SOFTWARE, _CPU_CLOCK, "on_sample", frequency=rate_hz)

    def load(loader: Loader, event: PerfEvent) -> LoadedProbe:
        return loader.load(
            probes_dir() / "call_paths.c",
            values,
            [],
            maps=("paths", "counters"),
            perf_events=[event],
        )

    if not any((EVENT_SOURCES / name).exists() for name in _CPU_PMUS):
        return load(loader, clock)
    cycles = PerfEvent(
        CYCLES, _HARDWARE, _CPU_CYCLES, "on_sample", frequency=rate_hz, optional=True
    )
    probe = load(loader, cycles)
    if probe.perf_events[CYCLES]:
        return probe
    probe.close()
    with Loader() as another:
        return load(another, clock)


class Sampling(Closing):
    """Reads a loaded probe. Not thread-safe."""

    def __init__(self, probe: LoadedProbe, symbols: Symbols | None = None) -> None:
        """Map the buffers of `probe`, which must stay open; learn the baseline preempt count.

        Without symbols, functions are shown as addresses.
        """
        self._layout = read_layout(HEADER, "path_sample")
        self._ia32 = read_constants(HEADER, "FAULT")["IA32"]
        self.by_clock = CLOCK in probe.perf_events
        self._symbols = symbols or Symbols(array("Q"), [])
        # assumed if unknown, as all preemptible kernels do
        self._counts_preemption = Features().built_with("PREEMPT_COUNT") is not False
        counters = probe.maps["counters"]
        self._counters = MappedRecords(counters, "sample_counters", of_each_cpu=True)
        self._ring = RingBuffer(probe.maps["paths"], RING_PAGES * mmap.PAGESIZE)
        deadline = time.monotonic() + LEARNING_SECONDS
        while self._learn_baseline() is None and time.monotonic() < deadline:
            pass  # spin in user mode until a sample hits

    def close(self) -> None:
        self._counters.close()
        self._ring.close()

    def _learn_baseline(self) -> int | None:
        seen = [n - 1 for n in self._counters.column("user_preempt_count") if n]
        self._baseline = min(seen, default=None)
        if self._baseline == UNKNOWN_COUNT:
            self._baseline = None
        return self._baseline

    def read(self) -> list[Sample]:
        """Deep samples since the last read, oldest first."""
        return [self._parse(raw) for raw in self._ring.read()]

    def counters(self) -> SampleCounters:
        """Since the probe was loaded."""
        return SampleCounters(*self._counters.sums(SampleCounters._fields))

    def _parse(self, raw: bytes) -> Sample:
        head = raw[: self._layout.size_bytes]
        values = self._layout.unpack(head)
        words = array("Q")
        words.frombytes(raw[len(head) : len(head) + values["copied_bytes"] // 8 * 8])
        chain = values["frames"][: values["frame_count"]]
        frames = named_frames(chain, words, values["depth_bytes"], self._symbols)
        kind = Kind(values["kind"])
        ia32 = bool(values["flags"] & self._ia32)
        return Sample(
            tid=values["tid"],
            comm=self._layout.texts(head, "comm")[0],
            call=_KIND_NAMES.get(kind) or entry_name(words, ia32=ia32),
            depth_bytes=values["depth_bytes"],
            frames=tuple(reversed(frames)),
            context=context_of(
                values["preempt_count"],
                self._baseline,
                interrupts_on=bool(values["interrupts_on"]),
                counts_preemption=self._counts_preemption,
            ),
        )


class ContextWatch:
    """Counts the contexts of deep samples in a background thread, while entered."""

    def __init__(self, probe: LoadedProbe) -> None:
        """`probe` must stay open."""
        self.contexts: Counter[str] = Counter()
        self.by_clock = CLOCK in probe.perf_events
        self._sampling = Sampling(probe)
        self.kernel_samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="contexts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sampling.close()

    def _run(self) -> None:
        while not self._stop.wait(READ_SECONDS):
            self._read()
        self._read()

    def _read(self) -> None:
        self.contexts.update(sample.context.value for sample in self._sampling.read())
        self.kernel_samples = self._sampling.counters().in_kernel


def named_frames(
    chain: Sequence[int], words: array[int], depth_bytes: int, symbols: Symbols
) -> list[Frame]:
    """The frames of a chain, innermost first; see frame_depths.

    A traced function begins with a call to a trampoline, which calls the rest of it (BPF's fexit
    and LSM programs): the unwinder then correctly finds the function twice, as both return
    addresses are on the stack. It was called once, so the frame of that first call, eight bytes, is
    left out. A recursive call returns to a later address.
    """
    frames: list[Frame] = []
    inner = ""  # the last one that is not generated code
    for at, depth in enumerate(frame_depths(chain, words, depth_bytes)):
        function = symbols.name(chain[at] - (0 if at == 0 else 1))
        if at > 0 and function == inner and symbols.returns_to_hook(chain[at]):
            continue
        frames.append(Frame(function, depth))
        if not function.startswith(_GENERATED):
            inner = function
    return frames


def frame_depths(chain: Sequence[int], words: array[int], depth_bytes: int) -> list[int | None]:
    """How deep each frame of a chain reaches, bytes from the top of the stack.

    `chain` is innermost first: an instruction pointer, then return addresses; `words` is
    the stack from the stack pointer upwards. The innermost frame ends at the stack
    pointer, every other just above the return address into it.
    """
    depths: list[int | None] = [depth_bytes] if chain else []
    at = 0
    for address in chain[1:]:
        try:
            at = words.index(address, at) + 1
        except ValueError:  # not on this stack: the chain continued on another
            depths.append(None)
            continue
        depths.append(depth_bytes - at * 8)
    return depths


def entry_name(words: array[int], *, ia32: bool = False) -> str:
    """How a user task entered the kernel, from the registers at the top of its stack."""
    for padding in _PADDINGS:
        if len(words) < padding - _ORIG_AX:
            continue
        ss, cs = words[_SS - padding] & 0xFFFF, words[_CS - padding] & 0xFFFF
        if ss == _USER_DS and cs in _USER_CS:
            number = words[_ORIG_AX - padding] & NONE
            return Context.EXCEPTION.label if number == NONE else syscall_name(number, ia32=ia32)
    return Context.FORK_RETURN.label
