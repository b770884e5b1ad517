# SPDX-License-Identifier: GPL-2.0-or-later
"""`make site`: every document, every link and every block of code, as pages."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page

from tests import ROOT
from tests.chromium import needs_chromium
from tests.documents.blocks import DOCUMENTS, blocks


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    # not --quiet: then it counts no warnings
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(output)]
    return subprocess.run(
        command,
        cwd=source,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    result = build(ROOT, output)
    assert result.returncode == 0, result.stderr
    return output


class Parsed(HTMLParser):
    """What of a page matters here: anchors, targets, code."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.code: list[str] = []
        self._within_pre = 0
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if name := found.get("id"):
            self.ids.add(name)
        if target := found.get("href") or found.get("src"):
            self.targets.append(target)
        if tag == "pre":
            self._within_pre += 1
            self.code.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within_pre -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if self._within_pre:
            self.code[-1] += data


def page_of(document: Path) -> Path:
    """Where mkdocs puts it."""
    name = document.relative_to(ROOT)
    return name.with_name("index.html") if name.name == "README.md" else name.with_suffix(".html")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_document_is_a_page_with_its_code(site: Path, path: Path) -> None:
    shown = {code.strip("\n") for code in Parsed(site / page_of(path)).code}
    for block in blocks(path):
        assert block.text.strip("\n").expandtabs(4) in shown, block  # as Markdown does it


def test_links_lead_somewhere(site: Path) -> None:
    pages = {page: Parsed(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) >= len(DOCUMENTS)
    for page, parsed in pages.items():
        for target in parsed.targets:
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme in ("https", "mailto"), (page, target)
                continue
            goal = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            goal = goal / "index.html" if goal.is_dir() else goal
            assert goal.is_file(), (page, target)
            if parts.fragment and goal in pages:
                assert unquote(parts.fragment) in pages[goal].ids, (page, target)


def test_a_dead_link_fails(tmp_path: Path) -> None:
    for name in ("mkdocs.yml", "docs", "packaging", "grafana/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for path in ROOT.glob("*.md"):
        shutil.copy(path, tmp_path)
    with (tmp_path / "docs/faq.md").open("a") as document:
        document.write("\n[nowhere](metrics.md#nowhere)\n")
    result = build(tmp_path, tmp_path / "site")
    assert result.returncode == 1
    assert "nowhere" in result.stderr


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1300, "height": 900}) as context:
        yield context.new_page()


@pytest.mark.browser
@needs_chromium
class TestInChromium:
    def test_pages_ask_no_other_host_and_fit(self, site: Path, address: str, page: Page) -> None:
        trouble: list[str] = []
        page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
        page.on("response", lambda got: None if got.status < 400 else trouble.append(got.url))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(address) else trouble.append(request.url)
            ),
        )
        for file in sorted(site.rglob("*.html")):
            page.goto(f"{address}/{file.relative_to(site)}")
            wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wide, file
        assert trouble == []

    def test_names_of_metrics_are_in_one_piece(self, address: str, page: Page) -> None:
        page.goto(f"{address}/docs/metrics.html")
        heights = page.locator("td:first-child code").evaluate_all(
            "names => names.map(name => name.getClientRects().length)"
        )
        assert len(heights) > 40
        assert set(heights) == {1}

    def test_search_finds(self, address: str, page: Page) -> None:
        page.goto(address)
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("accessed")
        page.locator(".md-search-result", has_text="accessed-bit").wait_for()
