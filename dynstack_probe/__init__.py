# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimates the memory that Linux would save on this host if kernel stacks grew on demand."""

__version__ = "0.1.0"
