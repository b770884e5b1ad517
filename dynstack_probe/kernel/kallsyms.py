# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of kernel functions by address, from /proc/kallsyms.

proc(5): the addresses are all zero for a process without CAP_SYSLOG, and for everybody
where kernel.kptr_restrict is 2.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from dynstack_probe.errors import NotPermittedError, UnmeasurableError

KALLSYMS = Path("/proc/kallsyms")
_TEXT = frozenset("tTwW")
# include/asm-generic/sections.h: end of text. What follows is unnamed, up to the first module.
_ENDS = frozenset({"_etext", "_einittext"})

# x86: ftrace patches a 5-byte call into a traced function, at its start or after ENDBR64; fentry,
# fexit and BPF LSM programs and live patches are called from there.
_HOOK_RETURNS = frozenset({5, 4 + 5})


@dataclass(frozen=True)
class Symbols:
    """Functions, sorted by address."""

    addresses: array[int]
    names: list[str]

    def name(self, address: int) -> str:
        """The function that an address lies in; the address in hex where none is known."""
        at = bisect_right(self.addresses, address) - 1
        return f"{address:#x}" if at < 0 or self.names[at] in _ENDS else self.names[at]

    def returns_to_hook(self, address: int) -> bool:
        """Whether a return address is that of the ftrace call at a function's start."""
        at = bisect_right(self.addresses, address) - 1
        return at >= 0 and address - self.addresses[at] in _HOOK_RETURNS


def read_symbols(path: Path = KALLSYMS) -> Symbols:
    """All named kernel functions, those of a module with its name in brackets.

    Raises NotPermittedError where the addresses are hidden, UnmeasurableError without
    CONFIG_KALLSYMS.
    """
    found: list[tuple[int, str]] = []
    try:
        with path.open() as lines:
            for line in lines:
                address, kind, name, *module = line.split()
                if kind in _TEXT:
                    found.append((int(address, 16), " ".join([name, *module])))
    except OSError as error:
        raise UnmeasurableError(
            f"{path} can't be read ({error.strerror}): call paths need a kernel with"
            " CONFIG_KALLSYMS"
        ) from error
    if not any(address for address, _ in found):
        raise NotPermittedError(
            f"the kernel hides symbol addresses ({path}): CAP_SYSLOG is missing, or"
            " kernel.kptr_restrict is 2"
        )
    found.sort(key=lambda symbol: symbol[0])
    return Symbols(array("Q", (address for address, _ in found)), [name for _, name in found])
