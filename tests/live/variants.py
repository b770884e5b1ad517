# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes compiled for another kernel than this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynstack_probe.loader import Iterator, LoadedProbe, Loader


class OtherLoader(Loader):
    """Compiles with changed macros, None to undefine one; passes more maps."""

    def __init__(self, changes: Mapping[str, int | None], more_maps: Sequence[str] = ()) -> None:
        super().__init__()
        self._changes, self._more_maps = changes, more_maps

    def load(
        self,
        source: Path,
        macros: Mapping[str, int],
        iterators: Sequence[Iterator],
        *,
        maps: Sequence[str] = (),
        **others: Any,
    ) -> LoadedProbe:
        changed = {**macros, **self._changes}
        chosen = {name: value for name, value in changed.items() if value is not None}
        return super().load(source, chosen, iterators, maps=[*maps, *self._more_maps], **others)
