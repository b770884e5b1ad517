# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Prometheus server knows about many hosts: ask it, and make rows of its answer.

Reads nothing of this machine, so it works anywhere, without privileges.
"""
