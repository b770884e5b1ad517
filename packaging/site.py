# SPDX-License-Identifier: GPL-2.0-or-later
"""A hook of mkdocs: the site has the repository's paths, so that relative links hold in both."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    *("*.md", "docs/*", "docs/results/*.svg", "packaging/README.md", "grafana/README.md"),
    "packaging/site.css",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """docs/ and the documents beside it in place of what mkdocs found, but for the theme's own."""
    ours = [
        File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path))
        for pattern in DOCUMENTS
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    ]
    docs = Path(config.docs_dir)
    theirs = [
        f for f in files if not (f.abs_src_path and Path(f.abs_src_path).is_relative_to(docs))
    ]
    return Files([*theirs, *ours])
