# SPDX-License-Identifier: GPL-2.0-or-later
"""The browser in which tests look at pages: Debian's Chromium, or Google's."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt install chromium"
)

# For scripts that ask a page: where an element is, and its colour.
LOOKING = """
  const box = one => {
    const at = one.getBoundingClientRect();
    return {left: at.left, right: at.right, top: at.top, bottom: at.bottom};
  };
  const fill = one => getComputedStyle(one).fill;
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Closed in the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()
