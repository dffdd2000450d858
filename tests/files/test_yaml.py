"""YAML of strangers: nothing is made of it but plain values, and nothing of it grows."""

import pathlib
import resource

import pytest
import yaml

from smmcl.config import build_config
from smmcl.data.datasets.description import read_description
from smmcl.files.yaml import MAX_LENGTH, as_config, load_yaml, read_layers, read_yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
NESTED = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 14)
)


@pytest.mark.parametrize("reader", [build_config, read_description])
@pytest.mark.parametrize("is_base", [False, True])
def test_no_file_makes_an_object(tmp_path: pathlib.Path, reader, is_base: bool) -> None:
    folder = tmp_path / "made"
    hostile = f"OUTPUT_DIR: !!python/object/apply:os.mkdir [{folder}]\n"
    (tmp_path / "hostile.yaml").write_text(hostile)
    (tmp_path / "leaf.yaml").write_text("_BASE_: hostile.yaml\n")
    with pytest.raises(ValueError, match=r"hostile\.yaml cannot be read.*line 1: .*os\.mkdir"):
        reader(str(tmp_path / ("leaf.yaml" if is_base else "hostile.yaml")))
    assert not folder.exists()


def test_the_text_of_a_config_makes_no_object(tmp_path: pathlib.Path) -> None:
    text = f"SEED: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]"
    with pytest.raises(ValueError, match=r"the config in a\.pth cannot be read"):
        build_config("the config in a.pth", text=text)
    assert not list(tmp_path.iterdir())
    assert build_config("it", ["SEED", "4"], text="OUTPUT_DIR: here").OUTPUT_DIR == "here"
    with pytest.raises(ValueError, match="it has a _BASE_, which only a file may have"):
        build_config("it", text="_BASE_: /etc/hostname")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NESTED, "with its aliases written out it is longer"),
        ("a: &a [*a]", "nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),
        ("a: " + "[" * 33 + "]" * 33, "nested more than 32 deep"),
        ("#" * (MAX_LENGTH + 1), "longer than"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "line 5: the key 'c' stands there twice"),
        ("1: a\n0x1: b", "line 2: the key 1 stands there twice"),
        ("? [1]\n: 2", "line 1: a key is a list"),
        ("a: " + "9" * 5000, "line 1: a number has more than 100 digits"),
        ("a: 1" + ":1" * 60_000, "line 1: a number has more than 100 digits"),
        ("a: [1", "line 1: "),
        ("a: 1\n--- \nb: 2", "line 2: "),
    ],
)  # fmt: skip
def test_what_grows_or_is_torn_is_refused_in_a_sentence(text: str, problem: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"^x cannot be read as YAML .*{problem}") as caught:
        load_yaml(text, "x")
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200 * 1024  # KiB


def test_aliases_and_merges_of_a_usual_size_are_read() -> None:
    shared = ["a", "b"]
    text = yaml.safe_dump({"one": shared, "two": shared})
    assert "*id001" in text
    assert load_yaml(text, "x") == {"one": shared, "two": shared}
    merged = load_yaml("a: &a {k: 1, l: 2}\nb:\n  <<: *a\n  k: 3\n", "x")
    assert merged["b"] == {"k": 3, "l": 2}
    assert load_yaml("", "x") is None


def test_bases_are_merged_and_their_number_is_bounded(tmp_path: pathlib.Path) -> None:
    def write(name: str, text: str) -> pathlib.Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    write("one.yaml", "A: {x: 1, y: 1}\nB: &b {x: 1}\nC: *b\n")
    write("two.yaml", "A: {y: 2}\n")
    leaf = write("leaf.yaml", "_BASE_: [one.yaml, two.yaml]\nA: {z: 3}\nC: {x: 2}\n")
    tree = {"A": {"x": 1, "y": 2, "z": 3}, "B": {"x": 1}, "C": {"x": 2}}
    assert as_config(read_layers(leaf), leaf) == tree
    with pytest.raises(ValueError, match="is based on itself"):
        read_layers(write("self.yaml", "_BASE_: self.yaml"))
    write("0.yaml", "A: 1")
    for i in range(1, 30):
        write(f"{i}.yaml", f"_BASE_: [{i - 1}.yaml, {i - 1}.yaml]")
    with pytest.raises(ValueError, match="is based on 32 files or more"):
        read_layers(tmp_path / "29.yaml")
    with pytest.raises(ValueError, match="Name a file on this machine"):
        read_layers(write("far.yaml", "_BASE_: https://example.com/a.yaml"))


@pytest.mark.parametrize("base", ["gone.yaml", "/dev/zero", "~nobody-here/a.yaml", "."])
def test_a_base_that_is_no_file_is_told_with_the_file_that_names_it(tmp_path, base: str) -> None:
    (tmp_path / "leaf.yaml").write_text(f"_BASE_: {base}")
    with pytest.raises(FileNotFoundError, match=rf"leaf\.yaml has the _BASE_ '{base}', but"):
        read_layers(tmp_path / "leaf.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2]", "has no keys: it holds a list"),
        ("MODEL: {1: 2}", "has the key 1 in MODEL, which is not a text"),
        ("SEED: 2020-01-01", "has a date in SEED"),
        ("IMPORTS: true", "sets IMPORTS to True. Give a list"),
        ("IMPORTS: {a: 1}", "sets IMPORTS to {'a': 1}. Give a list"),
        ("VERSION: 9", "is of VERSION 9, not 2"),
    ],
)
def test_what_is_no_config_is_answered(tmp_path: pathlib.Path, text: str, problem: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"c\.yaml {problem}"):
        build_config(str(tmp_path / "c.yaml"))


def test_what_is_no_text_file_is_answered(tmp_path: pathlib.Path) -> None:
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match="is not a text in UTF-8"):
        read_yaml(tmp_path / "image.yaml")
    with pytest.raises(FileNotFoundError, match="does not exist or is not a file"):
        read_yaml(tmp_path)
    (tmp_path / "large.yaml").write_bytes(b" " * (5 * MAX_LENGTH))
    with pytest.raises(ValueError, match="it is longer than"):
        read_yaml(tmp_path / "large.yaml")


def test_yaml_is_read_in_one_place() -> None:
    sources = [
        p for f in ("smmcl", "tools", "datasets", "examples") for p in (ROOT / f).rglob("*.py")
    ]
    users = [p for p in sources if "import yaml" in p.read_text(encoding="utf-8")]
    assert users == [ROOT / "smmcl" / "files" / "yaml.py"]
