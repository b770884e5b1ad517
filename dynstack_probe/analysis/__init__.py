# SPDX-License-Identifier: GPL-2.0-or-later
"""What follows from frames: estimates, comparisons, rates."""
