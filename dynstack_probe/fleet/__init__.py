# SPDX-License-Identifier: GPL-2.0-or-later
"""Many hosts' figures, queried from a Prometheus server.

Reads nothing from the local host, so it runs anywhere, unprivileged.
"""
