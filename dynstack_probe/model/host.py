# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine, and how its kernel was built and booted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PAGE_BYTES = 4096  # x86-64 has no other
PAGE_KIB = PAGE_BYTES // 1024


@dataclass(frozen=True)
class Host:
    """The machine. `cpus` are those online."""

    cpu_model: str
    cpus: int
    kernel_release: str
    thread_size_bytes: int
    mem_total_kib: int
    page_size_bytes: int = PAGE_BYTES

    @property
    def thread_pages(self) -> int:
        """Pages of THREAD_SIZE: of each stack at full size."""
        return self.thread_size_bytes // self.page_size_bytes


@dataclass(frozen=True)
class KernelFacts:
    """How a kernel was built and booted, where it matters to stacks.

    `config` holds CONFIG_ options that matter; random_offset says whether each system
    call begins at a random stack offset (None: can't be told).
    """

    command_line: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    random_offset: bool | None = None
