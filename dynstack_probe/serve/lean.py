# SPDX-License-Identifier: GPL-2.0-or-later
"""Import prometheus_client without its HTTP servers and clients, to save memory.

Importing it grows a bare Python from 8 to 22 MB. Half of that is TLS, http.server, wsgiref
and urllib.request, for its own servers and push client, which the daemon never uses. They
are replaced by stubs during the import only: registry, metrics and text formats are the
library's own, and later imports of these modules get the real ones.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

LIBRARY = "prometheus_client"
UNUSED = ("http.server", "ssl", "urllib.request", "wsgiref.simple_server")


class _Stub(ModuleType):
    """Any attribute is an empty class of that name, for base classes and annotations."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_prometheus_client() -> None:
    """No effect if it is already imported."""
    if LIBRARY in sys.modules:
        return
    stubs = {name: _Stub(name) for name in UNUSED if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        importlib.import_module(LIBRARY)
    except (AttributeError, ImportError, TypeError):
        _unload()  # a release that uses more of them: import it as usual
    finally:
        for name in stubs:
            del sys.modules[name]


def _unload() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == LIBRARY]:
        del sys.modules[name]
