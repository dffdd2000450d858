"""The map from the paper to the code: every link leads somewhere, every key exists."""

import pathlib
import re

import pytest

from smmcl.config import build_config
from smmcl.d2 import ENGINE

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_config_keys_exist(document: pathlib.Path) -> None:
    text = document.read_text(encoding="utf-8")
    roots = "MODEL|INPUT|SOLVER|TEST|DATASETS|DATALOADER"
    for key in re.findall(rf"`((?:{roots})\.[A-Z0-9_.*]+)", text):
        if key.startswith("MODEL.RESNETS") and ENGINE == "builtin":
            continue  # of Detectron2's own ResNet, which the embedded engine does not have
        node = build_config()
        for part in key.strip(".").split("."):
            if "*" in part:
                pattern = re.compile(part.replace("*", ".*"))
                assert any(pattern.fullmatch(name) for name in node), key
                break
            assert part in node, key
            node = node[part]


def test_commands_name_tools_that_exist() -> None:
    for document in DOCUMENTS:
        for tool in re.findall(r"(?<![\w/])tools/\w+\.py", document.read_text(encoding="utf-8")):
            assert (ROOT / tool).is_file(), f"{document.name} names {tool}"
