"""The models: how many pages each allocator would hold for a stack, and at what price.

With h = pages down to the high-water mark, d = pages down to the saved stack pointer of a
sleeping task, P = pages of THREAD_SIZE, C = CPUs online. `source` says where an instance
comes from; the class says, for `policies --explain`, what it ignores and how that errs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from dynstack_probe.model.host import PAGE_BYTES
from dynstack_probe.model.stacks import Kind
from dynstack_probe.policy.shapes import Shape

_PAGE_KIB = PAGE_BYTES // 1024


class Policy(Protocol):
    """An allocator model. All sizes are in pages; `thread_pages` is THREAD_SIZE's."""

    words: ClassVar[str]
    formula: ClassVar[str]
    ignores: ClassVar[str]

    @property
    def name(self) -> str:
        """The word by which users choose it."""

    @property
    def summary(self) -> str:
        """One line: what it models and where it comes from."""

    @property
    def marks_suffice(self) -> bool:
        """Whether it asks for high-water marks only, which the daemon counts."""

    @property
    def asleep_seconds(self) -> int:
        """How long a task must have slept for it to act; 0 where that does not matter."""

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """Pages that a stack of this shape holds."""

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """Pages kept aside on a machine with that many online CPUs."""

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """Faults over the stack's life so far: at least, most likely, at most."""

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        """Pages given to a stack of this shape, before it sleeps again, when it next runs."""

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Whether the stack has been deeper than this policy allows: an overflow."""


class _Uneventful:
    """No faults, nothing to give back when a task next runs, no limit: what most have."""

    marks_suffice: ClassVar[bool] = False

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """None."""
        return 0, 0, 0

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        """None: nothing was taken away."""
        return 0

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Never."""
        return False


def _held_since_birth(shape: Shape, preallocated_pages: int, limit_pages: int) -> int:
    """max(k, h, inherited), never more than the stack."""
    deepest = max(preallocated_pages, shape.inherited_pages, shape.mark_pages)
    return min(deepest, limit_pages)


@dataclass(frozen=True)
class GrowOnly(_Uneventful):
    """Pages are mapped by faults as a stack deepens and given back when it is freed.

    `preallocated_pages` are mapped at fork. Each online CPU keeps a reserve, from which
    faults are served: the rest of one stack, `reserve_factor` times; `stash_pages` more
    belong to all. `thread_kib` is the size up to which stacks grow, 0 for the host's own.
    """

    name: str
    summary: str
    preallocated_pages: int
    thread_kib: int = 0
    reserve_factor: int = 1
    stash_pages: int = 0

    marks_suffice: ClassVar[bool] = True
    asleep_seconds: ClassVar[int] = 0
    words: ClassVar[str] = (
        "k pages are mapped at fork; a fault maps all pages down to its address and they stay"
        " until the stack is freed. Each CPU keeps the rest of one stack in reserve."
    )
    formula: ClassVar[str] = "stack: max(k, h) pages, P at most; reserve: C*(P-k)*factor + stash"
    ignores: ClassVar[str] = (
        "A cached stack keeps its pages and hands them to its next owner. One scan can't see"
        " that: memory errs low and faults err high (serve counts it)."
    )

    def _limit(self, thread_pages: int) -> int:
        return self.thread_kib // _PAGE_KIB or thread_pages

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """max(k, h, inherited), never more than the stack."""
        return _held_since_birth(shape, self.preallocated_pages, self._limit(thread_pages))

    def avoided_pages(self, shape: Shape) -> int:
        """Pages that were used without a fault, since they came with a cached stack."""
        used = min(shape.mark_pages, shape.inherited_pages)
        return max(0, used - self.preallocated_pages)

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """C * (P - k): a fault may have to map all that was not mapped at fork."""
        a_cpu = max(0, self._limit(thread_pages) - self.preallocated_pages)
        return cpus * a_cpu * self.reserve_factor + self.stash_pages

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """One a deep stack at least, one a grown page at most.

        A fault maps every page from the last mapped one down to its address, so a page
        in the middle that is still all zero was most likely skipped by one.
        """
        at_first = max(self.preallocated_pages, shape.inherited_pages)
        grown = self.resident_pages(shape, thread_pages) - at_first
        if grown <= 0:
            return 0, 0, 0
        grown_bits = ((1 << grown) - 1) << at_first
        return 1, max(1, (shape.touched_pages & grown_bits).bit_count()), grown

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Only where it grows to less than this kernel's stacks have used."""
        return shape.mark_pages > self._limit(thread_pages)


@dataclass(frozen=True)
class FixedSize(_Uneventful):
    """Every stack is `size_pages` large from fork on, THREAD_SIZE at most."""

    name: str
    summary: str
    size_pages: int

    marks_suffice: ClassVar[bool] = True
    asleep_seconds: ClassVar[int] = 0
    words: ClassVar[str] = "All stacks are smaller, and no stack ever grows."
    formula: ClassVar[str] = "stack: its size; over the limit: h > size; no reserve, no faults"
    ignores: ClassVar[str] = (
        "A mark is what was seen so far: a task that was never over the limit may yet be, so"
        " overflows err low."
    )

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """The same for each stack."""
        return min(self.size_pages, thread_pages)

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """None."""
        return 0

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Whether the mark lies below the end of the smaller stack."""
        return shape.mark_pages > self.size_pages


@dataclass(frozen=True)
class AccessedBit(_Uneventful):
    """Whole stacks for tasks that run; of the others, pages never accessed are taken back."""

    name: str
    summary: str

    asleep_seconds: ClassVar[int] = 0
    words: ClassVar[str] = (
        "A task gets a whole stack before it is switched in. After it was switched out, pages"
        " whose accessed bit is clear are taken back; a page once touched stays for good."
    )
    formula: ClassVar[str] = "not running: max(1, h); running: P; refill at each switch-in: P - h"
    ignores: ClassVar[str] = (
        "Refills in advance are kept somewhere and scanning accessed bits takes time: both"
        " are left out, so the saving errs high. A late deepening needs no fault."
    )

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """max(1, h) while it does not run."""
        return thread_pages if shape.running else _held_since_birth(shape, 1, thread_pages)

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """None is proposed: refills come from the page allocator, outside a fault."""
        return 0

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        """P - h."""
        return thread_pages - _held_since_birth(shape, 1, thread_pages)


@dataclass(frozen=True)
class ReclaimBelowSp(_Uneventful):
    """Pages below a sleeper's stack pointer are taken back; they hold nothing in use.

    Only from tasks asleep for `asleep_seconds`, and so that `margin_kib` below the stack
    pointer stay. `stash_pages` belong to all CPUs; each has `fault_stacks` whole stacks.
    """

    name: str
    summary: str
    asleep_seconds: int = 0
    margin_kib: int = 0
    stash_pages: int = 0
    fault_stacks: int = 0

    words: ClassVar[str] = (
        "When a task has slept for T seconds, the pages more than m bytes below its saved stack"
        " pointer are taken back; they are mapped again as it runs."
    )
    formula: ClassVar[str] = (
        "asleep for T: max(1, pages of (depth + m)), h at most; else max(1, h);"
        " refill at the next run: h less that; reserve: stash + C*P*fault stacks"
    )
    ignores: ClassVar[str] = (
        "A task that runs is taken to hold its mark, though it may not have gone so deep again:"
        " memory errs high, by at most C stacks where T is 0. A refill of all pages is"
        " counted at each wake-up, so refills err high. Others who look into a sleeper's stack"
        " (unwinders, ptrace) lose what lies below; that price is not counted."
    )

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """What is left of a sleeper's stack; else all down to the mark."""
        held = _held_since_birth(shape, 1, thread_pages)
        if shape.running or shape.asleep_seconds < self.asleep_seconds:
            return held
        return min(held, self._kept(shape))

    def _kept(self, shape: Shape) -> int:
        return max(1, -(-(shape.depth_kib + self.margin_kib) // _PAGE_KIB))

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """A stash for all, and on each CPU the stacks on which faults are handled."""
        return self.stash_pages + cpus * self.fault_stacks * thread_pages

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        """What was taken back."""
        if shape.running:
            return 0
        held = _held_since_birth(shape, 1, thread_pages)
        return held - min(held, self._kept(shape))


@dataclass(frozen=True)
class FullSizeInKernel(_Uneventful):
    """One page for a task in user mode, all of its stack for one in the kernel."""

    name: str
    summary: str

    asleep_seconds: ClassVar[int] = 0
    words: ClassVar[str] = (
        "A task that enters the kernel gets its whole stack, and gives all but one page back"
        " when it returns to user mode. A sleeping task sleeps in the kernel."
    )
    formula: ClassVar[str] = "user task on a CPU: 1; every other: P"
    ignores: ClassVar[str] = (
        "A user task on a CPU is taken to be in user mode, so the saving errs high. The refill"
        " at each entry, system call or interrupt, is not counted."
    )

    def resident_pages(self, shape: Shape, thread_pages: int) -> int:
        """P unless in user mode."""
        in_user_mode = shape.running and shape.kind == Kind.USER
        return 1 if in_user_mode else thread_pages

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """The rest of one stack a CPU, handed over at each entry."""
        return cpus * (thread_pages - 1)


_POLICIES: tuple[Policy, ...] = (
    GrowOnly("rfc-v1", "grow on a fault from 4 KiB up to THREAD_SIZE (Tatashin, 2024)", 1),
    FixedSize("static-8k", "every stack 8 KiB, as x86-64 had before Linux 3.15", 2),
    FixedSize("static-12k", "every stack 12 KiB (asked for by Guzik, 2024)", 3),
    FixedSize("static-16k", "every stack 16 KiB, as x86-64 has since Linux 3.15", 4),
    GrowOnly("grow-8k", "as rfc-v1, 8 KiB at fork", 2),
    GrowOnly("grow-12k", "as rfc-v1, 12 KiB at fork", 3),
    GrowOnly("grow-to-32k", "as rfc-v1, up to 32 KiB", 1, thread_kib=32),
    GrowOnly("grow-to-64k", "as rfc-v1, up to 64 KiB", 1, thread_kib=64),
    GrowOnly("grow-16k-to-32k", "16 KiB at fork, up to 32 KiB", 4, thread_kib=32),
    GrowOnly("reserve-doubled", "as rfc-v1, twice the reserve (from review)", 1, reserve_factor=2),
    GrowOnly("reserve-stash", "as rfc-v1, 8 pages more for all (Walleij)", 1, stash_pages=8),
    AccessedBit("accessed-bit", "whole stacks to run on, untouched pages back (Lutomirski)"),
    ReclaimBelowSp("below-sp", "drop what is below SP at each switch (Gerst, 2024)"),
    ReclaimBelowSp("gc-sleepers", "the same for those asleep for 60 s (Laight)", asleep_seconds=60),
    ReclaimBelowSp(
        "vendor",
        "below SP, 1 KiB kept, once a second (Amlogic, since 2017)",
        asleep_seconds=1,
        margin_kib=1,
        stash_pages=32,
        fault_stacks=1,
    ),
    FullSizeInKernel("full-in-kernel", "one page in user mode (Tatashin, 2024)"),
)
BUILT_IN: dict[str, Policy] = {policy.name: policy for policy in _POLICIES}
