# SPDX-License-Identifier: GPL-2.0-or-later
"""One file a subcommand: parse, call, render; no logic."""
