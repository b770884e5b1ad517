# SPDX-License-Identifier: GPL-2.0-or-later
"""What the probes see, as frozen dataclasses: no I/O after construction."""
