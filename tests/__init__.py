# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the checkout they test."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
