"""Hooks of mkdocs: pages from outside docs/, the README first, and links that hold on the site."""

import pathlib
import posixpath
import re
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "datasets/README.md": "datasets.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
SOURCES = {page: source for source, page in OUTSIDE.items()}
LINK = re.compile(r"(!?\[([^\]]*)\])\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # the tests of this file do without mkdocs

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file that is no page becomes plain text: readers of a site have no clone."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def on_site(match: re.Match[str]) -> str:
        label, text, link, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if ":" in link or not (ROOT / target).exists():
            return match[0]
        place = OUTSIDE.get(target, target.removeprefix("docs/"))
        return text if place == target else f"{label}({place}{anchor or ''})"

    return LINK.sub(on_site, markdown)
