# SPDX-License-Identifier: GPL-2.0-or-later
"""Stack crossings and call paths, as tables and flame graphs."""
