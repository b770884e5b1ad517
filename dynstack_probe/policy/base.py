# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a policy, and the registry of policies."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from dynstack_probe.model.interval import REFILLS, Interval, Work
from dynstack_probe.model.shapes import Shape


@dataclass(frozen=True)
class Policy(ABC):
    """An allocator model. All sizes are in pages; `thread_pages` is THREAD_SIZE's.

    name: the word by which users choose it; summary: one line, what it models and where it
    comes from. Of the class: `model` is its word in a .toml file, the others are what
    `policies --explain` prints: the model in words, as a formula, and what it leaves out
    with the direction in which that errs. marks_suffice: whether high-water marks are all
    it asks for, which is what the daemon counts. work_is_counted: False where it would have
    to do what we can't count, so that its cost is unknown.
    """

    name: str
    summary: str

    model: ClassVar[str]
    words: ClassVar[str]
    formula: ClassVar[str]
    ignores: ClassVar[str]
    marks_suffice: ClassVar[bool] = False
    work_is_counted: ClassVar[bool] = True

    @property
    def asleep_seconds(self) -> int:
        """The sleep time after which it acts on a task; 0 where it does not matter."""
        return 0

    @abstractmethod
    def dynamic_pages(self, shape: Shape, thread_pages: int) -> int:
        """Pages held by a stack of this shape."""

    def pages_at_fork(self, thread_pages: int) -> int:
        """Pages that a new task's stack gets: all of them, unless the policy says fewer."""
        return thread_pages

    def reserve_pages(self, cpus: int, thread_pages: int) -> int:
        """Pages kept aside on a machine with that many online CPUs."""
        return 0

    def faults(self, shape: Shape, thread_pages: int) -> tuple[int, int, int]:
        """Faults over the stack's life so far: at least, most likely, at most."""
        return 0, 0, 0

    def refill_pages(self, shape: Shape, thread_pages: int) -> int:
        """Pages mapped again when a task whose stack has this shape next runs."""
        return 0

    def work(self, interval: Interval, thread_pages: int) -> Work | None:
        """Its work in the interval; None if it never does any."""
        return None

    def avoided_pages(self, interval: Interval, thread_pages: int) -> int:
        """Pages used without a fault, since they came with a stack from the cache."""
        return 0

    def inherited_pages(self, interval: Interval, thread_pages: int) -> int:
        """Grown pages that came with cached stacks given to new tasks, used or not."""
        return 0

    def over_limit(self, shape: Shape, thread_pages: int) -> bool:
        """Whether the stack has been deeper than this policy allows: an overflow."""
        return False


def parameter(least: int, most: int, default: Any = dataclasses.MISSING) -> Any:
    """A field that a .toml file may set to a whole number within these bounds."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def held_since_birth(shape: Shape, preallocated_pages: int, limit_pages: int) -> int:
    """max(k, h, inherited), never more than the stack."""
    deepest = max(preallocated_pages, shape.inherited_pages, shape.mark_pages)
    return min(deepest, limit_pages)


def refills(policy: Policy, switches: dict[Shape, int], thread_pages: int) -> Work:
    """What must be mapped again when tasks that slept in these shapes run."""
    events = pages = 0
    for shape, count in switches.items():
        refilled = policy.refill_pages(shape, thread_pages)
        if refilled > 0:
            events += count
            pages += refilled * count
    return Work(REFILLS, events, pages)


MODELS: dict[str, type[Policy]] = {}
BUILT_IN: dict[str, Policy] = {}
_P = TypeVar("_P", bound=type[Policy])


def register(kind: _P) -> _P:
    """Register a model for .toml files, by its `model`."""
    MODELS[kind.model] = kind
    return kind


def built_in(*policies: Policy) -> None:
    """Register policies by name, in this order."""
    for policy in policies:
        BUILT_IN[policy.name] = policy
