# SPDX-License-Identifier: GPL-2.0-or-later
"""Call paths sampled during a watch: what was asked for, and the files that they go to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynstack_probe.errors import UsageError
from dynstack_probe.faults import flamegraph, folded
from dynstack_probe.kernel.kallsyms import read_symbols
from dynstack_probe.loader import Loader
from dynstack_probe.measure.call_paths import CallPaths, SampleCounters, Sampling, load_call_paths
from dynstack_probe.output.writing import check_writable, write


@dataclass(frozen=True)
class PathOptions:
    """What was asked for of call paths. deeper_than: bytes of stack."""

    folded: Path | None
    flamegraph: Path | None
    rate_hz: int
    deeper_than: int
    force: bool

    @property
    def wanted(self) -> bool:
        """Whether there is anything to sample for."""
        return self.folded is not None or self.flamegraph is not None

    def check(self) -> None:
        """Raise UsageError before any work."""
        if self.flamegraph and self.flamegraph.suffix not in (".svg", ".html"):
            raise UsageError("--flamegraph must name a .svg or .html file")
        if not 1 <= self.rate_hz <= 10_000:
            raise UsageError("--rate must be 1 to 10000 samples a second")
        if self.deeper_than < 0:
            raise UsageError("--deeper-than must be 0 bytes or more")
        check_writable(self.folded, self.force)
        check_writable(self.flamegraph, self.force)

    def write(self, paths: CallPaths, samples: SampleCounters) -> None:
        if self.folded is not None:
            write(folded.render(paths), self.folded, self.force)
        if self.flamegraph is not None:
            title = flamegraph.title_of(
                paths,
                samples,
                deeper_than=self.deeper_than,
                rate_hz=self.rate_hz,
                host=os.uname().nodename,
            )
            is_svg = self.flamegraph.suffix == ".svg"
            picture = (flamegraph.render_svg if is_svg else flamegraph.render_html)(paths, title)
            write(picture, self.flamegraph, self.force)


@contextlib.contextmanager
def sampling_of(options: PathOptions, btf: Path) -> Iterator[Sampling | None]:
    """Samples while it is open; None if none are wanted."""
    if not options.wanted:
        yield None
        return
    with Loader() as loader:
        symbols = read_symbols()  # while the child starts
        with (
            load_call_paths(
                loader, rate_hz=options.rate_hz, deeper_than=options.deeper_than, btf_path=btf
            ) as probe,
            Sampling(probe, symbols) as sampling,
        ):
            yield sampling
