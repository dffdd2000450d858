"""The pages: every link leads somewhere, and every block of code can at least be read."""

import ast
import pathlib
import re
import runpy
import subprocess
from types import SimpleNamespace

import pytest

from smmcl.files.yaml import load_yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "zoo").glob("*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "datasets/README.md",
    *sorted((ROOT / "configs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|\s)(?:python3? )?tools/(\w+)\.py((?:[^\n\\]|\\\n)*)")
LATE_OPTION = re.compile(
    r"\.py(?:[^\n\\#]|\\\n)* [A-Z]+(?:\.[A-Z_]+)+ (?:[^\n\\#]|\\\n)*(--[a-z]+)"
)


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: pathlib.Path) -> set[str]:
    """As GitHub and mkdocs make them of headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: pathlib.Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / place if place else page
        has_anchor = not anchor or target.suffix != ".md" or anchor in anchors(target)
        if not target.exists() or not has_anchor:
            broken.append(link)
    return broken


def unreadable_blocks(page: pathlib.Path) -> list[str]:
    found = []
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        try:
            if language == "python":
                ast.parse(block)
            elif language in ("yaml", "yml"):
                load_yaml(block, name_of(page))
            elif language in ("bash", "sh"):
                subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        except (SyntaxError, ValueError, subprocess.CalledProcessError) as error:
            found.append(f"{error}: {block}")
    return found


def unknown_options(page: pathlib.Path) -> list[str]:
    """Tools and options of commands that their sources do not name."""
    shared = "".join(
        (ROOT / f"smmcl/{name}.py").read_text()
        for name in (
            "inference/relight_files",
            "inference/named_model",
            "d2/builtin/setup",
            "engine/launch",
            "engine/setup",
        )
    )
    found = []
    for tool, arguments in COMMAND.findall(page.read_text(encoding="utf-8")):
        file = ROOT / f"tools/{tool}.py"
        source = file.read_text() + shared if file.is_file() else ""
        options = re.findall(r"(?<=\s)--[a-z][\w-]*", arguments.partition("#")[0])
        found += [f"{tool}.py {o}" for o in options or [""] if f'"{o}"' not in source and o]
        found += [tool] * (not source)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    assert not broken_links(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_can_be_read(page: pathlib.Path) -> None:
    assert not unreadable_blocks(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_have_their_options(page: pathlib.Path) -> None:
    assert not unknown_options(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_come_before_keys(page: pathlib.Path) -> None:
    assert not LATE_OPTION.findall(page.read_text(encoding="utf-8"))


def test_the_site_has_every_page_and_no_broken_link() -> None:
    hooks = runpy.run_path(str(ROOT / "docs/site.py"))
    nav = load_yaml((ROOT / "mkdocs.yml").read_text(), "mkdocs.yml")["nav"]
    pages = [*re.findall(r"[\w-]+\.md", str(nav))]
    assert sorted(pages) == sorted([*(p.name for p in ROOT.glob("docs/*.md")), *hooks["SOURCES"]])
    for page in pages:
        source = ROOT / hooks["SOURCES"].get(page, f"docs/{page}")
        text = hooks["on_page_markdown"](
            source.read_text(encoding="utf-8"), SimpleNamespace(file=SimpleNamespace(src_uri=page))
        )
        text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
        links = [link for link in re.findall(r"\]\(([^)\s#]+)", text) if ":" not in link]
        there = [link for link in links if link in pages or (ROOT / "docs" / link).is_file()]
        assert links == there, page


def test_the_checks_can_fail(tmp_path: pathlib.Path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n[a](#a-title) [b](none.md) [c](#none) `[d](code)`\n"
        "```python\nif:\n```\n```bash\nfor\n```\n```yaml\na: [\n```\n"
        "```bash\ntools/demo.py --visible a --colour b\ntools/none.py\n```\n"
    )
    monkeypatch.setitem(globals(), "name_of", str)
    assert LATE_OPTION.findall("a.py --x A.B_C 3 \\\n  --y z") == ["--y"]
    assert broken_links(page) == ["none.md", "#none"]
    assert len(unreadable_blocks(page)) == 3
    assert unknown_options(page) == ["demo.py --colour", "none"]
