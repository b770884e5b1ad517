# SPDX-License-Identifier: GPL-2.0-or-later
"""How figures are written: tables, CSV, JSON."""
