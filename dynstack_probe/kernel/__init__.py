# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts about the running kernel: field offsets, features, capabilities, counters."""
