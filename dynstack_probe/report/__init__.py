# SPDX-License-Identifier: GPL-2.0-or-later
"""One document on a host or several, as an HTML page or plain text."""
