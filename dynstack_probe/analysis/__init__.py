# SPDX-License-Identifier: GPL-2.0-or-later
"""What is derived from frames: estimates, comparisons, rates."""
