# SPDX-License-Identifier: GPL-2.0-or-later
"""What a frame says of itself, for `estimate` and reports alike."""

from __future__ import annotations

from collections.abc import Iterable

from dynstack_probe.analysis.depths import QUANTILES, ShiftPoint
from dynstack_probe.analysis.host_estimate import DepthDetails
from dynstack_probe.model.frame import Frame
from dynstack_probe.output.savings import SAVING


def scan_in_words(frame: Frame) -> str:
    """How long reading all stacks took."""
    seconds, stacks = frame.cost.scan_seconds, max(1, frame.coverage.read)
    return f"{seconds * 1000:.1f} ms, {seconds / stacks * 1e6:.1f} us a stack"


def resident_in_words(frame: Frame) -> str:
    """What is mapped now, on a kernel whose stacks are dynamic."""
    says = "" if frame.grown_kib is None else f"; the kernel counts {frame.grown_kib} KiB grown"
    return (
        f"{frame.stacks.resident_kib()} KiB, measured: this kernel's stacks are already"
        f" dynamic{says}"
    )


DEPTH_COLUMNS = ("#Stacks", *QUANTILES)


def depth_rows(details: DepthDetails) -> Iterable[tuple[str, ...]]:
    """Two a role, with a name and DEPTH_COLUMNS: ever, and now."""
    for row in details.by_role:
        for name, count, values in (
            (f"{row.role}, ever", row.stacks, row.ever),
            ("  now, asleep", row.sleeping, row.now),
        ):
            yield (name, str(count), *(str(values.get(q, "-")) for q in QUANTILES))


SHIFT_COLUMNS = ("Each deeper by", "Dynamic(kb)", "Saving", "overflows")


def shift_rows(points: Iterable[ShiftPoint], step_bytes: int) -> list[tuple[str, ...]]:
    """SHIFT_COLUMNS of the points that are so far apart."""
    return [
        (
            f"{point.shift_bytes:+d} bytes" if point.shift_bytes else "as it is",
            str(point.dynamic_kib),
            SAVING.write(point.saving_ratio),
            str(point.over_limit_tasks),
        )
        for point in points
        if point.shift_bytes % step_bytes == 0
    ]


def random_offset_in_words(details: DepthDetails) -> str:
    """Stack pages used only because of RANDOMIZE_KSTACK_OFFSET."""
    price = details.offset_price
    if details.random_offset is False:
        return "This kernel has RANDOMIZE_KSTACK_OFFSET off: it costs nothing."
    state = "has" if details.random_offset else "may have (that can't be told)"
    return (
        f"This kernel {state} RANDOMIZE_KSTACK_OFFSET on. Of the pages of {price.user_stacks} user"
        f" stacks, {price.low_pages:.0f} to {price.high_pages} are used only because of it,"
        " modelled from measured marks: the least if one call alone went deepest, the most if many"
        " did."
    )
