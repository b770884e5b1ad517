# SPDX-License-Identifier: GPL-2.0-or-later
"""Of the stack pages first used during a watch: those that a kernel would have had to map.

The kernel reuses the stacks of exited tasks, and grow-only ones keep their pages. Counted
by the probe that `serve` uses, so that both tell the same in the same words.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynstack_probe.analysis.timeline import growth_of_sample
from dynstack_probe.errors import ProbeError
from dynstack_probe.loader import Loader
from dynstack_probe.measure.lifecycle import Sampler, load_lifecycle
from dynstack_probe.model.growth import GrowthCounter
from dynstack_probe.model.interval import Interval
from dynstack_probe.policy import BUILT_IN, HEADLINE


@dataclass(frozen=True)
class Reuse:
    """Under rfc-v1, modelled: crossed = fault_pages + avoided_pages, which came with a stack.

    faults: for the fault_pages, of which one may map several.
    """

    faults: int
    fault_pages: int
    avoided_pages: int

    @property
    def crossed_pages(self) -> int:
        """All pages that stacks came to use."""
        return self.fault_pages + self.avoided_pages


class ReuseWatch:
    """Counts from its creation on."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._counter = GrowthCounter()
        self._pages = 0
        self._take()

    def _take(self) -> Interval:
        sample = self._sampler.take()
        self._pages = sample.host.thread_pages
        return Interval(growth=self._counter.advance(*growth_of_sample(sample)))

    def end(self) -> Reuse | None:
        """Counts since creation; None if the probe can no longer be read."""
        try:
            interval = self._take()
        except (ProbeError, OSError):
            return None
        policy = BUILT_IN[HEADLINE]
        work = policy.work(interval, self._pages)
        assert work is not None
        return Reuse(work.events, work.pages, policy.avoided_pages(interval, self._pages))


@contextlib.contextmanager
def watched(btf: Path) -> Iterator[Sampler | None]:
    """The lifecycle probe while it is open; None if it can't be loaded on this kernel."""
    with contextlib.ExitStack() as stack:
        try:
            loader = stack.enter_context(Loader())
            probe = stack.enter_context(load_lifecycle(loader, btf_path=btf))
            sampler = stack.enter_context(Sampler(probe))
        except ProbeError:
            yield None
            return
        yield sampler
