# SPDX-License-Identifier: GPL-2.0-or-later
"""Real software as real loads: their captures, and the tables made from those."""
