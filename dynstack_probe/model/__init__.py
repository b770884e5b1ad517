# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain values that all rooms speak in. No I/O."""
