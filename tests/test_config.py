"""Config files resolve, every key has a reader, and a wrong key is answered by name."""

import ast
import json
import pathlib
import re

import pytest

from smmcl.config import add_smmcl_config, build_config, keys
from smmcl.d2 import ENGINE, CfgNode, get_cfg

ROOT = pathlib.Path(__file__).resolve().parents[1]
GRIDS = ROOT / "configs/experiments"
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(GRIDS.glob("*.yaml")))


def leaves(cfg: CfgNode, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def keys_read(path: pathlib.Path) -> set[str]:
    """Dotted config keys a file reads, following names that stand for a node of the config."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {"cfg": ""}

    def dotted(node: ast.AST) -> str | None:
        if isinstance(node, ast.Name):
            return aliases.get(node.id)
        if isinstance(node, ast.Attribute) and node.attr == "cfg":
            return ""
        if isinstance(node, ast.Attribute) and (base := dotted(node.value)) is not None:
            return f"{base}.{node.attr}".lstrip(".")
        if isinstance(node, ast.Subscript) and (base := dotted(node.value)) is not None:
            return f"{base}.*"
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (name := dotted(node.value)) is not None:
            aliases.update({t.id: name for t in node.targets if isinstance(t, ast.Name)})
    return {name for node in ast.walk(tree) if (name := dotted(node))}


def test_every_key_of_ours_has_a_reader(monkeypatch) -> None:
    monkeypatch.setattr(keys, "EXTENSIONS", [])  # which a test before may have imported
    before = set(leaves(get_cfg()))
    cfg = get_cfg()
    add_smmcl_config(cfg)
    read = {"IMPORTS"}  # by build_config itself, before there is a config
    for path in (ROOT / "smmcl").rglob("*.py"):
        if not {"config", "d2"} & set(path.relative_to(ROOT).parts):
            read |= keys_read(path)

    def is_read(key: str) -> bool:
        parts = key.split(".")
        starred = [".".join([*parts[:i], "*", *parts[i + 1 :]]) for i in range(len(parts))]
        whole = f"{key.rpartition('.')[0]}.items"  # of a node, at once
        return whole in read or key in read or any(name in read for name in starred)

    unread = [key for key in set(leaves(cfg)) - before if not is_read(key)]
    assert not unread, f"nobody reads {sorted(unread)}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_resolve(path: pathlib.Path) -> None:
    cfg = build_config(str(path))
    special = {"adapt": "LightAdapter", "darken": "Darkener", "enhance": "Enhancer",
               "classify": "ImageClassifier"}  # by the first word  # fmt: skip
    wanted = special.get(path.stem.partition("_")[0], "MultiModalSegmentor")
    assert wanted == cfg.MODEL.META_ARCHITECTURE
    assert cfg.VERSION == 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_say_what_they_are(path: pathlib.Path) -> None:
    assert path.read_text().startswith("# ")


def test_dumped_config_reads_back(tmp_path: pathlib.Path) -> None:
    cfg = build_config(str(ROOT / "configs/synthetic_night.yaml"))
    dumped = tmp_path / "config.yaml"
    dumped.write_text(cfg.dump())
    # A dump writes tuples within tuples as lists, on Detectron2 too.
    again = leaves(build_config(str(dumped)))
    assert json.dumps(again, sort_keys=True) == json.dumps(leaves(cfg), sort_keys=True)


def test_unknown_key_is_answered_by_name() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.FUSION\.SCAL.*MODEL\.FUSION\.SCALE"):
        build_config("Base-SMMCL.yaml", ["MODEL.FUSION.SCAL", "1.0"])
    with pytest.raises(ValueError, match=r"--num-gpus, .* Options come before"):
        build_config("Base-SMMCL.yaml", ["SEED", "1", "--num-gpus", "2"])


def test_only_an_unknown_key_is_called_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"command line: SEED has no value\. Give pairs"):
        build_config("Base-SMMCL.yaml", ["VERSION", "2", "SEED"])
    if ENGINE == "builtin":
        (tmp_path / "a.yaml").write_text("MODEL: {RPN: {IN_FEATURES: [p2]}}\n")
        with pytest.raises(ValueError, match=r"a\.yaml sets .*MODEL\.RPN\.IN_FEATURES is \['p2'"):
            build_config(str(tmp_path / "a.yaml"))


def test_a_key_that_has_another_name_now_is_told_it(tmp_path: pathlib.Path, monkeypatch) -> None:
    def renamed() -> CfgNode:
        cfg = get_cfg()
        cfg.register_renamed_key("OLD_SEED", "SEED")
        return cfg

    monkeypatch.setattr("smmcl.config.build.get_cfg", renamed)
    (tmp_path / "a.yaml").write_text("OLD_SEED: 3\n")
    with pytest.raises(ValueError, match=r"^\S+a\.yaml: Key OLD_SEED was renamed to SEED"):
        build_config(str(tmp_path / "a.yaml"))


def test_unknown_key_in_a_file_is_answered_by_name(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("MODEL:\n  FUSION:\n    SCAL: 1.0\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml.*MODEL\.FUSION\.SCAL"):
        build_config(str(config))


def test_missing_file_is_answered_by_name() -> None:
    with pytest.raises(FileNotFoundError, match=r"configs/no\.yaml"):
        build_config("configs/no.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_equals_its_base(path: pathlib.Path) -> None:
    """A leaf that changes nothing but its output folder is no experiment of its own."""
    found = re.search(r'^_BASE_: "(.+)"', path.read_text(), flags=re.MULTILINE)
    if not found:
        return  # the recipe
    own, others = (leaves(build_config(str(p))) for p in (path, path.parent / found[1]))
    assert {key for key in own if own[key] != others[key]} - {"OUTPUT_DIR"}
