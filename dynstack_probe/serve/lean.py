# SPDX-License-Identifier: GPL-2.0-or-later
"""prometheus_client without the web servers and clients that it brings along.

To import it takes a bare Python from 8 to 22 MB, half of which is TLS, http.server, wsgiref
and urllib.request: for its own servers and its push client, which the daemon never uses.
While it is imported here, stand-ins are in their places. Registry, metrics and text formats
are the library's own, and whoever needs these modules afterwards gets the real ones.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

LIBRARY = "prometheus_client"
UNUSED = ("http.server", "ssl", "urllib.request", "wsgiref.simple_server")


class _StandIn(ModuleType):
    """Has whatever it is asked for: a class of that name, to inherit from or to annotate with."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_prometheus_client() -> None:
    """Import it for the first time in this process; else do nothing."""
    if LIBRARY in sys.modules:
        return
    stand_ins = {name: _StandIn(name) for name in UNUSED if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        importlib.import_module(LIBRARY)
    except (AttributeError, ImportError, TypeError):
        _forget()  # a release that uses more of them: as it is, then
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == LIBRARY]:
        del sys.modules[name]
