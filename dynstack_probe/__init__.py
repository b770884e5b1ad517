# SPDX-License-Identifier: GPL-2.0-or-later
"""Says how much memory Linux would save on this machine if kernel stacks grew on demand."""

__version__ = "0.1.0"
