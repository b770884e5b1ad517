# SPDX-License-Identifier: GPL-2.0-or-later
"""A web server for metrics; it knows nothing of stacks."""
