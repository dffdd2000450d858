"""The door's choice of an engine, in processes of their own: it is made once, at import."""

import ast
import importlib
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

import smmcl.d2 as d2

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOOK = "import smmcl.d2 as d2; print(d2.ENGINE, '|', d2.ENGINE_VERSION)"


def run(
    code: str, *, path: pathlib.Path, engine: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a working directory of its own, which is also on its path."""
    environment = {k: v for k, v in os.environ.items() if k not in ("SMMCL_ENGINE", "PYTHONPATH")}
    environment["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    if engine is not None:
        environment["SMMCL_ENGINE"] = engine
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=path
    )


def write_package(folder: pathlib.Path, text: str) -> None:
    package = folder / "detectron2"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(textwrap.dedent(text), encoding="utf-8")


# Stands for the release of 2021: whatever name is imported from it, from any module, is there.
OLD = """
    import importlib.abc, importlib.machinery, sys, types

    __version__ = "0.6"

    class _Anything(types.ModuleType):
        __path__ = []
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *args: {"VERSION": 2}

    class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path, target=None):
            if name.startswith("detectron2."):
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
        def create_module(self, spec):
            return _Anything(spec.name)
        def exec_module(self, module):
            pass

    sys.meta_path.insert(0, _Finder())
"""


# Detectron2 is looked for in the working directory alone, whatever is installed.
LOOK_HERE = f"""
import importlib.machinery, importlib.util, os
here = [os.getcwd()]
importlib.util.find_spec = lambda name: importlib.machinery.PathFinder.find_spec(name, here)
{LOOK}
"""


@pytest.mark.parametrize("has_clone", [False, True])
def test_without_detectron2_it_is_the_embedded_engine(
    has_clone: bool, tmp_path: pathlib.Path
) -> None:
    if has_clone:  # of its repository: a folder of the package's name, without being it
        (tmp_path / "detectron2" / "detectron2").mkdir(parents=True)
    done = run(LOOK_HERE, path=tmp_path)
    assert done.stdout.startswith("builtin | 0.6 of "), done.stderr


def test_a_missing_detectron2_is_named_where_it_is_asked_for(tmp_path: pathlib.Path) -> None:
    error = run(LOOK_HERE, path=tmp_path, engine="detectron2").stderr
    assert "ImportError: SMMCL_ENGINE is 'detectron2', but Detectron2 is not installed" in error
    assert "SMMCL_ENGINE=builtin" in error


def test_an_unknown_engine_is_refused(tmp_path: pathlib.Path) -> None:
    done = run(LOOK, path=tmp_path, engine="Detectron2")
    assert "ValueError: SMMCL_ENGINE is 'Detectron2'. Set it to 'detectron2'" in done.stderr


def test_a_broken_detectron2_is_not_replaced_in_silence(tmp_path: pathlib.Path) -> None:
    write_package(tmp_path, "raise OSError('libcudart.so.9 is missing')")
    for engine in (None, "detectron2"):
        done = run(LOOK, path=tmp_path, engine=engine)
        assert not done.stdout
        assert "failed with OSError: libcudart.so.9 is missing." in done.stderr
        assert "SMMCL_ENGINE=builtin" in done.stderr
    assert run(LOOK, path=tmp_path, engine="builtin").stdout.startswith("builtin")


def test_the_release_of_2021_is_refused(tmp_path: pathlib.Path) -> None:
    write_package(tmp_path, OLD)
    done = run(LOOK, path=tmp_path)
    assert "ImportError: Detectron2 0.6 is installed in its release of 2021" in done.stderr
    assert "main branch" in done.stderr
    newer = OLD.replace('{"VERSION": 2}', '{"FLOAT32_PRECISION": ""}')
    (tmp_path / "detectron2" / "__init__.py").write_text(textwrap.dedent(newer), encoding="utf-8")
    assert run(LOOK, path=tmp_path).stdout == "detectron2 | 0.6 main\n"


def test_a_library_that_detectron2_lacks_is_named(tmp_path: pathlib.Path) -> None:
    write_package(tmp_path, "import detectron2_probe_library.part")
    error = run(LOOK, path=tmp_path).stderr
    assert "needs the module 'detectron2_probe_library', which is not installed." in error
    assert "pip install detectron2_probe_library" in error
    write_package(tmp_path, "raise ModuleNotFoundError(name='cv2')")
    error = run(LOOK, path=tmp_path).stderr
    assert "needs the module 'cv2'" in error
    assert "`pip install opencv-python-headless`, or set SMMCL_ENGINE=builtin" in error
    write_package(tmp_path, "import detectron2.absent")
    assert "Repair it, or set SMMCL_ENGINE=builtin" in run(LOOK, path=tmp_path).stderr


def imported(node: ast.AST, module: str = "") -> set[str]:
    """The names that a piece of source imports, from `module` or from anywhere."""
    imports = [inner for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom)]
    return {
        a.name for inner in imports if inner.module == module or not module for a in inner.names
    }


def names_of_the_engines() -> tuple[set[str], set[str]]:
    """Detectron2's and the embedded engine's, read off the source: one process has one engine."""
    tree = ast.parse((ROOT / "smmcl/d2/__init__.py").read_text(encoding="utf-8"))
    [choice] = [node for node in tree.body if isinstance(node, ast.If)]
    return tuple(imported(ast.Module(body=nodes)) for nodes in (choice.body, choice.orelse))


def test_both_engines_have_the_same_names() -> None:
    upstream, embedded = names_of_the_engines()
    assert upstream - {"__version__"} == embedded
    assert all(getattr(d2, name) is not None for name in embedded)


def test_every_name_of_the_door_has_a_reader() -> None:
    files = [path for name in ("smmcl", "tools", "tests") for path in ROOT.glob(f"{name}/**/*.py")]
    outside = [path for path in files if "d2" not in path.relative_to(ROOT).parts]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in outside]
    assert not names_of_the_engines()[1] - set().union(*(imported(t, "smmcl.d2") for t in trees))


def test_names_that_are_not_here_point_to_detectron2() -> None:
    sentence = r"smmcl.d2 has no '{}': .*import it from detectron2 itself"
    with pytest.raises(AttributeError, match=sentence.format("GeneralizedRCNN")):
        d2.GeneralizedRCNN  # noqa: B018
    with pytest.raises(ImportError, match=sentence.format("Instances")):
        from smmcl.d2 import Instances  # noqa: F401
    assert not hasattr(d2, "Instances")
    for module in ("hooks", "comm"):
        with pytest.raises(AttributeError, match=sentence.format(f"{module}.Probe")):
            importlib.import_module(f"smmcl.d2.builtin.{module}").Probe  # noqa: B018


def test_training_needs_no_drawing_library(tmp_path: pathlib.Path) -> None:
    code = "import sys; from smmcl.d2 import DefaultTrainer; print('cv2' in sys.modules)"
    assert run(code, path=tmp_path, engine="builtin").stdout == "False\n"


def test_the_embedded_engine_stays_small() -> None:
    files = list((ROOT / "smmcl/d2/builtin").glob("*.py"))
    lines = [path.read_text(encoding="utf-8").count("\n") for path in files]
    assert sum(lines) <= 1700
    assert max(lines) <= 200
