# SPDX-License-Identifier: GPL-2.0-or-later
"""The loads. Each module declares some; importing this package declares them all."""

from tests.results.loads import memory, network, processes, services, storage, stress

__all__ = ["memory", "network", "processes", "services", "storage", "stress"]
