"""How a part of the time stands for all of it; real counters are in tests/live."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynstack_probe.kernel import host, perf
from dynstack_probe.measure.page_faults import DutyCycle, PerfPageFaults

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
    """A clock, and counters which count a load that is a function of time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faults_until: Callable[[float], float]):
        self.now = 0.0
        self.faults_until = faults_until
        machine = self

        class Counters:
            def __init__(self, cpu: int, config: int) -> None:
                self.cpu, self.ns, self.user, self.on_since = cpu, 0, 0, -1.0

            def switch(self, *, on: bool) -> None:
                if on:
                    self.on_since = machine.now
                else:
                    self.ns += round((machine.now - self.on_since) * 1e9)
                    more = machine.faults_until(machine.now) - machine.faults_until(self.on_since)
                    self.user += round(more)

            def read(self) -> tuple[int, int, int]:
                # CPU 1 is offline: its counter is never on
                return (self.ns, self.user, self.user // 10) if self.cpu == 0 else (0, 0, 0)

            def close(self) -> None:
                pass

        monkeypatch.setattr(perf, "ModeCounters", Counters)
        monkeypatch.setattr(host, "online_cpu_numbers", lambda: [0, 1])
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def run(self, counter: PerfPageFaults, seconds: float) -> None:
        while (due := counter.due_at()) is not None and due < seconds:
            self.now = due
            counter.turn()
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
    counter = PerfPageFaults(DutyCycle(uniform=random.Random(7).uniform))
    machine.run(counter, 50 * HOUR)
    counted = counter.read()
    assert counted.user == pytest.approx(faults_until(50 * HOUR), rel=0.04)
    assert counted.kernel == pytest.approx(counted.user / 10, rel=0.01)


def test_a_steady_load_is_told_exactly_and_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, lambda now: now * 1000)
    counter = PerfPageFaults(DutyCycle(uniform=random.Random(1).uniform))
    before = counter.read().user
    for until in range(100, 2000, 100):
        machine.run(counter, float(until))
        assert before <= counter.read().user <= until * 1000
        before = counter.read().user
    assert before == pytest.approx(1_900_000, rel=0.02)  # less the last period


def test_an_online_list_of_cpus(kernel_root: object) -> None:
    class Fake:
        def read(self, name: str) -> str:
            return "0-2,5,7-8\n" if name == "sys/devices/system/cpu/online" else ""

    assert host.online_cpu_numbers(Fake()) == [0, 1, 2, 5, 7, 8]  # type: ignore[arg-type]
