# SPDX-License-Identifier: GPL-2.0-or-later
"""Estimates for people and for other programs: table, JSON, CSV."""
