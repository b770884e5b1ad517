# SPDX-License-Identifier: GPL-2.0-or-later
"""How a part of the time stands for all of it; real counters are in tests/live."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.measure.page_faults import DutyCycle, PageFaultCounter
from dynstack_probe.model.interval import PageFaults

HOUR = 3600.0


@given(st.integers(0, 10**6), st.floats(0.01, 5.0), st.floats(0.01, 60.0))
def test_no_time_is_left_out_or_counted_twice(seed: int, on: float, more: float) -> None:
    duty = DutyCycle(on, on + more, random.Random(seed).uniform)
    duty.begin(100.0)
    covered = 0.0
    for _ in range(20):
        assert covered + more * 0.49 <= duty.on_at - 100.0 <= covered + more * 1.51
        covered += duty.end(duty.on_at + on)
        assert covered == pytest.approx(duty._began - 100.0)


def test_a_late_turn_stands_for_the_time_that_passed() -> None:
    duty = DutyCycle(1.0, 15.0, lambda low, high: 1.0)
    duty.begin(0.0)
    assert duty.end(50.0) == 50.0
    assert duty.on_at == 64.0


class Machine:
    """A clock, and a counter in front of a load that is a function of time."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, faults_until: Callable[[float], float]
    ) -> None:
        self.now, self.on_since, self.map = 0.0, -1.0, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        machine = self

        class Counter(PageFaultCounter):
            """Without a kernel: half of all page faults are the kernel's."""

            def __init__(self, duty: DutyCycle) -> None:
                self._duty, self._link = duty, None
                self._all_began, self._kernel, self._counted = 0, 0.0, PageFaults(0, 0)
                duty.begin(machine.now)

            def _switch_on(self) -> None:
                self._link = 1
                self._on_since, self._on_from = machine.now, self._read_map()

            def _switch_off(self) -> None:
                self._link = None

            def _read_map(self) -> int:
                return round(faults_until(machine.now))

            def _all(self) -> int:
                return 2 * round(faults_until(machine.now))

        self.counter = Counter(DutyCycle(uniform=random.Random(7).uniform))

    def run(self, seconds: float) -> None:
        while (due := self.counter.due_at()) is not None and due < seconds:
            self.now = due
            self.counter.turn()
        self.now = seconds


@pytest.mark.parametrize("load_period", [7.0, 15.0, 30.0])
def test_a_load_with_the_same_period_does_not_bias_it(
    monkeypatch: pytest.MonkeyPatch, load_period: float
) -> None:
    def faults_until(now: float) -> float:
        """10,000 a second in the first fifth of each period, else nothing."""
        whole, part = divmod(now, load_period)
        return (whole * load_period / 5 + min(part, load_period / 5)) * 10_000

    machine = Machine(monkeypatch, faults_until)
    machine.run(50 * HOUR)
    counted = machine.counter.read()
    assert counted.kernel == pytest.approx(faults_until(50 * HOUR), rel=0.04)
    assert counted.user + counted.kernel == pytest.approx(2 * faults_until(50 * HOUR), rel=0.001)


def test_a_steady_load_is_told_exactly_and_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda now: now * 1000)
    before = PageFaults(0, 0)
    for until in range(100, 2000, 100):
        machine.run(float(until))
        after = machine.counter.read()
        assert before.kernel <= after.kernel <= until * 1000
        assert before.user <= after.user <= until * 1000
        before = after
    assert before.kernel == pytest.approx(1_900_000, rel=0.02)  # less the last period
