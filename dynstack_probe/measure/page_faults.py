"""Page faults of this host, by mode, from probes/page_faults.c."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from dynstack_probe.kernel import host
from dynstack_probe.loader import LoadedProbe, Loader, probes_dir
from dynstack_probe.measure.records import read_layout

# arch/x86/include/asm/trace/exceptions.h
TRACEPOINTS = {"page_fault_user": "on_user_fault", "page_fault_kernel": "on_kernel_fault"}


@dataclass(frozen=True)
class PageFaults:
    """Faults since the probe was loaded."""

    user: int
    kernel: int


def load_page_faults(loader: Loader) -> LoadedProbe:
    """Attach the probe. Errors as Loader.load()."""
    return loader.load(
        probes_dir() / "page_faults.c",
        {"POSSIBLE_CPUS": host.possible_cpus()},
        [],
        maps=["page_faults"],
        tracepoints=TRACEPOINTS,
    )


class PageFaultCounter:
    """Reads the counters of a loaded probe, which must stay open. Needs no system call."""

    def __init__(self, probe: LoadedProbe) -> None:
        self._layout = read_layout(probes_dir() / "records.h", "page_fault_counters")
        self._length = self._layout.size_bytes * host.possible_cpus()
        pages = -(-self._length // mmap.PAGESIZE)
        fd = probe.maps["page_faults"]
        self._memory = mmap.mmap(fd, pages * mmap.PAGESIZE, prot=mmap.PROT_READ)

    def read(self) -> PageFaults:
        """The sum over all CPUs."""
        with memoryview(self._memory) as view:
            raw = bytes(view[: self._length])
        user = sum(self._layout.column(raw, "user"))
        return PageFaults(user, sum(self._layout.column(raw, "kernel")))

    def close(self) -> None:
        """Unmap the counters."""
        self._memory.close()
