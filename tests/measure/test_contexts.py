# SPDX-License-Identifier: GPL-2.0-or-later
"""Contexts from preempt counts made by hand, as include/linux/preempt.h lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynstack_probe.kernel.btf import VMLINUX
from dynstack_probe.loader import LoadedProbe, PerfEvent
from dynstack_probe.measure import call_paths
from dynstack_probe.measure.contexts import UNKNOWN_COUNT, Context, context_of

SAMPLING = 0x10000  # the timer's interrupt


@pytest.mark.parametrize(
    ("more", "on", "expected"),
    [
        (0, True, Context.PREEMPTIBLE),
        (1, True, Context.PREEMPTION_OFF),
        (0x200, True, Context.PREEMPTION_OFF),  # local_bh_disable()
        (0x100, True, Context.SOFTIRQ),
        (0x301, True, Context.SOFTIRQ),
        (0x10000, False, Context.HARDIRQ),
        (0x10100, False, Context.HARDIRQ),
        (0x110000, False, Context.NMI),
        (0, False, Context.INTERRUPTS_OFF),
        (1, False, Context.INTERRUPTS_OFF),
        (-1, True, Context.UNKNOWN),
    ],
)
def test_contexts(more: int, on: bool, expected: Context) -> None:
    assert context_of(SAMPLING + more, SAMPLING, interrupts_on=on) is expected


def test_a_kernel_that_does_not_count_preemption() -> None:
    """Without CONFIG_PREEMPT_COUNT: bottom halves and interrupts are counted all the same."""

    def told(more: int, *, on: bool = True) -> Context:
        return context_of(SAMPLING + more, SAMPLING, interrupts_on=on, counts_preemption=False)

    assert told(0) is Context.UNKNOWN
    assert told(0x200) is Context.PREEMPTION_OFF
    assert told(0x100) is Context.SOFTIRQ
    assert told(0x10000, on=False) is Context.HARDIRQ
    assert told(0, on=False) is Context.INTERRUPTS_OFF


def test_what_can_not_be_told() -> None:
    assert context_of(UNKNOWN_COUNT, SAMPLING, interrupts_on=True) is Context.UNKNOWN
    assert context_of(SAMPLING, None, interrupts_on=True) is Context.UNKNOWN
    # the saved flags suffice for this
    assert context_of(SAMPLING, None, interrupts_on=False) is Context.INTERRUPTS_OFF


class FakeLoader:
    """Grants these events, and notes which were asked for."""

    def __init__(self, granted: set[str], asked: list[str]) -> None:
        self._granted, self._asked = granted, asked

    def __enter__(self) -> FakeLoader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def load(self, *_: object, perf_events: list[PerfEvent], **__: object) -> LoadedProbe:
        (event,) = perf_events
        self._asked.append(event.name)
        fds = [os.dup(0)] if event.name in self._granted else []
        return LoadedProbe({}, {}, {}, 0, 0, 0, 0, "", {event.name: fds})


@pytest.mark.parametrize(
    ("sources", "granted", "expected"),
    [
        ([], {"cycles", "clock"}, ["clock"]),
        (["cpu"], {"cycles", "clock"}, ["cycles"]),
        (["cpu_core"], {"clock"}, ["cycles", "clock"]),
    ],
)
@pytest.mark.skipif(not VMLINUX.exists(), reason=f"this kernel has no {VMLINUX}")
def test_cycles_where_there_are_any_else_the_clock(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    granted: set[str],
    expected: list[str],
) -> None:
    for name in sources:
        (tmp_path / name).mkdir()
    asked: list[str] = []
    monkeypatch.setattr(call_paths, "EVENT_SOURCES", tmp_path)
    monkeypatch.setattr(call_paths, "Loader", lambda: FakeLoader(granted, asked))
    probe = call_paths.load_call_paths(FakeLoader(granted, asked))  # type: ignore[arg-type]
    assert asked == expected
    assert list(probe.perf_events) == expected[-1:]
    probe.close()
