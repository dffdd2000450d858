"""The rules of the house, read off the source: layers, the door, and what no file may hold."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "smmcl").rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))

# The layer of a module is that of its longest prefix here; a file imports from its own or below.
LAYERS = {
    "smmcl": 0,
    "smmcl.modeling.layers": 0,
    "smmcl.modeling.streams": 0,
    "smmcl.modeling.fusion": 0,
    "smmcl.modeling.head.hamburger": 0,
    "smmcl.modeling.contrastive.sampling": 0,
    "smmcl.modeling.contrastive.loss": 0,
    "smmcl.modeling.contrastive.blocks": 0,
    "smmcl.modeling.contrastive.momentum": 0,
    "smmcl.evaluation.confusion": 0,
    "smmcl.data.hha": 0,
    "smmcl.data.appearance.motion": 0,
    "smmcl.data.appearance.saliency": 0,
    "smmcl.data.datasets.synthetic.raycast": 0,
    "smmcl.data.datasets.synthetic.indoor": 0,
    "smmcl.data.datasets.synthetic.night": 0,
    "smmcl.data.datasets.synthetic.day": 0,
    "smmcl.files": 1,
    "smmcl.d2": 1,
    "smmcl.config": 2,
    "smmcl.data": 2,
    "smmcl.weights": 2,
    "smmcl.modeling": 2,
    "smmcl.modeling.segmentor": 3,
    "smmcl.modeling.wrapping": 0,
    "smmcl.lowlight": 4,
    "smmcl.lowlight.curves": 0,
    "smmcl.lowlight.photometric": 0,
    "smmcl.lowlight.alignment": 0,
    "smmcl.lowlight.regions": 0,
    "smmcl.lowlight.view": 0,
    "smmcl.engine": 4,
    "smmcl.evaluation": 4,
    "smmcl.visualization": 4,
    "smmcl.inference": 4,
    "smmcl.cli": 4,
    "smmcl.register": 4,
    "tools": 5,
}
MATHEMATICS = [  # of a companion too, where it is here
    name
    for name, layer in LAYERS.items()
    if layer == 0 and name != "smmcl" and list(ROOT.glob(f"{name.replace('.', '/')}*"))
]


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name: str) -> int:
    while name not in LAYERS:
        name = name.rpartition(".")[0]
        assert name, "a new module needs a layer in this test"
    return LAYERS[name]


def imports(path: pathlib.Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                if path.name != "__init__.py":
                    package = package[:-1]
                base = ".".join(package[: len(package) - node.level + 1] + base.split(".")[:1])
            for alias in node.names:
                submodule = ROOT / (f"{base}.{alias.name}".replace(".", "/") + ".py")
                yield f"{base}.{alias.name}" if submodule.is_file() else base


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_imports_point_downhill(path: pathlib.Path) -> None:
    layer = layer_of(module_name(path))
    uphill = [n for n in imports(path) if n.split(".")[0] == "smmcl" and layer_of(n) > layer]
    assert not uphill, f"{module_name(path)} (layer {layer}) imports {uphill}"


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_only_the_door_knows_detectron2(path: pathlib.Path) -> None:
    if path.is_relative_to(ROOT / "smmcl" / "d2"):
        return
    assert "detectron2" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_imports_the_companions(path: pathlib.Path) -> None:
    if not path.is_relative_to(ROOT / "smmcl" / "lowlight"):
        assert not [name for name in imports(path) if name.startswith("smmcl.lowlight")]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_forbidden_habits(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    for pattern in (r"\.cuda\(", r"^\s*except\s*:", r"^\s*print\(", r"sys\.path\.", "nan_to_num"):
        assert not re.search(pattern, text, flags=re.MULTILINE), pattern
    assert text.isascii()


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_every_file_says_its_idea(path: pathlib.Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_a_file_is_short(path: pathlib.Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_nothing_lies_loose_at_the_top() -> None:
    names = {path.stem for path in (ROOT / "smmcl").glob("*.py")}
    assert names == {"__init__", "cli", "register"}


def test_mathematics_imports_with_torch_alone() -> None:
    # fvcore's registry, with the table it prints, is the one thing beside them: it is no engine.
    allowed = "{'torch', 'numpy', 'smmcl', 'fvcore', 'tabulate'}"
    code = (
        "import sys, importlib, torch, numpy.random\n"
        "before = set(sys.modules)\n"
        f"for name in {MATHEMATICS}: importlib.import_module(name)\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"third = {{n for n in new if n not in sys.stdlib_module_names}} - {allowed}\n"
        "assert not third and 'smmcl.d2' not in sys.modules, third\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_checks_themselves_can_fail(tmp_path: pathlib.Path) -> None:
    assert layer_of("smmcl.modeling.head.hamburger") == 0
    assert layer_of("smmcl.modeling.head.ham_head") == 2
    source = ROOT / "smmcl" / "modeling" / "segmentor.py"
    assert "smmcl.modeling.head.base" in set(imports(source))


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_torch_reads_tensors_only(path: pathlib.Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            chosen = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert chosen.get("weights_only") == "True", ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES + TOOLS, ids=module_name)
def test_files_are_written_whole(path: pathlib.Path) -> None:
    """By `atomic`, which gives the path of a part, or by `write_text`."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.search(r"""\.write_(text|bytes)\(|open\(.*["'][wx]""", line):
            assert re.search(r"partial\.|atomic\(", line), line.strip()
