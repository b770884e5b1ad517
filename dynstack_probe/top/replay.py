# SPDX-License-Identifier: GPL-2.0-or-later
"""Step through a series of frames at its own pace, forward and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from dynstack_probe.errors import UsageError
from dynstack_probe.model.frame import Frame
from dynstack_probe.top.view import History, Moment

# Stacks in the frames kept for going back: some 100 MB.
KEPT_STACKS = 1_000_000


class Replay:
    """Reads frames lazily, one ahead, and keeps up to KEPT_STACKS stacks for going back.

    `damage` is what the reader raised after the last readable frame.
    """

    def __init__(
        self,
        frames: Iterator[Frame],
        history: History,
        interval_seconds: float | None = None,
    ) -> None:
        """`interval_seconds` from frame to frame, None for those of the series itself."""
        self._frames = frames
        self._history = history
        self._interval = interval_seconds
        self._kept: deque[Moment] = deque()
        self._stacks = 0
        self._at = -1
        self.damage: UsageError | None = None

    def forward(self) -> Moment | None:
        """The next frame; None after the last. Raises UsageError if none can be read."""
        if self._at + 1 >= len(self._kept) and not self._read():
            return None
        self._at += 1
        if self.at_end:
            self._read()
        return self._kept[self._at]

    def back(self) -> Moment | None:
        """The frame before; None at the first of those kept."""
        if self._at <= 0:
            return None
        self._at -= 1
        return self._kept[self._at]

    @property
    def at_end(self) -> bool:
        """Whether this is the last frame."""
        return self._at == len(self._kept) - 1

    def seconds_to_next(self) -> float:
        """From this frame to the next, which must be there."""
        if self._interval is not None:
            return self._interval
        here, there = self._kept[self._at], self._kept[self._at + 1]
        return max(0.0, (there.frame.boot_ns - here.frame.boot_ns) / 1e9)

    def _read(self) -> bool:
        try:
            frame = next(self._frames, None)
        except UsageError as error:
            if not self._kept:
                raise
            self.damage = error
            return False
        if frame is None:
            return False
        moment = self._history.add(frame)
        self._kept.append(moment)
        self._stacks += len(moment.frame.stacks)
        while self._stacks > KEPT_STACKS and self._at > 0:
            self._stacks -= len(self._kept.popleft().frame.stacks)
            self._at -= 1
        return True
