# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP server for metrics; independent of what is measured."""
