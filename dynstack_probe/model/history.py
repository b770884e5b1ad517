# SPDX-License-Identifier: GPL-2.0-or-later
"""One host's history, as stored by a Prometheus server."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = 120
LEAST_STEP_SECONDS = 15
# Hosts are scraped so often at least; in a long range no step is shorter.
SCRAPE_SECONDS = 60
SCANNED_AT = "dynstack_scan_timestamp_seconds"

# A time, how long it lasted, and the value that a figure had meanwhile.
Span = tuple[float, float, float]


def mean(spans: Sequence[Span]) -> float:
    """Over time."""
    seconds = length(spans)
    return sum(lasted * value for _, lasted, value in spans) / seconds if seconds else 0.0


def length(spans: Sequence[Span]) -> float:
    """Of all together, in seconds."""
    return sum(lasted for _, lasted, _ in spans)


@dataclass(frozen=True)
class Track:
    """One series: its labels, and its value at each step (Unix time) that has one."""

    labels: Mapping[str, str]
    values: Mapping[float, float]


@dataclass(frozen=True)
class Range:
    """A range of `seconds` that ends at `end` (Unix time)."""

    end: float
    seconds: float

    @property
    def step_seconds(self) -> int:
        """The query step; rates are means over it."""
        least = SCRAPE_SECONDS if self.seconds >= 10 * SCRAPE_SECONDS else LEAST_STEP_SECONDS
        return max(least, math.ceil(self.seconds / STEPS))


@dataclass(frozen=True)
class History:
    """All series of one host by metric, gauges and counters, at the same moments."""

    url: str
    instance: str
    job: str
    asked: Range
    tracks: Mapping[str, Sequence[Track]]
    warnings: Sequence[str]

    def _chosen(self, metric: str, labels: Mapping[str, str]) -> Iterator[Track]:
        for track in self.tracks.get(metric, ()):
            if all(track.labels.get(name) == value for name, value in labels.items()):
                yield track

    def sums(self, metric: str, **labels: str) -> dict[float, float]:
        """The sum over all series with these labels, by time; {} if there are none."""
        total: dict[float, float] = {}
        for track in self._chosen(metric, labels):
            for at, value in track.values.items():
                total[at] = total.get(at, 0.0) + value
        return total

    def last(self, metric: str, **labels: str) -> float | None:
        """The newest value."""
        values = self.sums(metric, **labels)
        return values[max(values)] if values else None

    def at(self, moment: float, metric: str, **labels: str) -> int:
        """The value then, or the newest one before, else the first; 0 if there is none."""
        values = self.sums(metric, **labels)
        if not values:
            return 0
        before = [at for at in values if at <= moment]
        return int(values[max(before) if before else min(values)])

    def rates(self, metric: str, **labels: str) -> list[Span]:
        """The rate of a counter between new samples; a decrease means a restart.

        Times are seconds since the first step that has any.
        """
        risen: dict[tuple[float, float], float] = {}
        repeated = self._repeated()
        for track in self._chosen(metric, labels):
            values = sorted((at, v) for at, v in track.values.items() if at not in repeated)
            for (start, before), (end, after) in pairwise(values):
                grown = after - before if after >= before else after
                risen[start, end] = risen.get((start, end), 0.0) + grown
        first = min((start for start, _ in risen), default=0.0)
        return [
            (start - first, end - start, grown / (end - start))
            for (start, end), grown in sorted(risen.items())
        ]

    def _repeated(self) -> set[float]:
        """Steps that brought no new scan since the previous one."""
        scans = sorted(self.sums(SCANNED_AT).items())
        return {at for (_, before), (at, now) in pairwise(scans) if now == before}

    def label_values(self, metric: str, label: str) -> list[str]:
        """Each once, in the order of the answer."""
        return list(dict.fromkeys(t.labels.get(label, "") for t in self.tracks.get(metric, ())))
