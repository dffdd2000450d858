"""Dataset files: what each key may hold, and a sentence for each mistake."""

import pytest

from smmcl.data.datasets.description import read_description

OWN = """
classes: [floor, wall]
label_offset: 1
stored_ignore: 0
auxiliary: {kind: depth, unit: mm, high: 5000, invalid: 0}
tags: {dark: dark.txt}
splits:
  train: {lists: [train.txt]}
  val: {lists: [val.txt]}
layouts: [{visible: "rgb/{id}.png", auxiliary: "depth/{id}.png", label: "ids/{id}.png"}]
"""


@pytest.fixture
def own(tmp_path):
    """The path of a sound dataset file."""
    path = tmp_path / "dataset.yaml"
    path.write_text(OWN)
    return path


def test_colors_are_chosen_when_none_are_given(own):
    colors = read_description(own).colors
    assert len({tuple(color) for color in colors}) == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("label_offset", "label_ofset", "label_ofset"),
        ("classes: [floor, wall]", "", "lacks classes"),
        ("[floor, wall]", "[floor, floor]", "names a class twice"),
        ("label_offset: 1", "colors: [[0, 0, 0]]", "2 classes but 1 colors"),
        ("stored_ignore: 0", "absent_from_mean: [void]", "void out of the mean"),
        ("ids/{id}.png", "ids/x.png", "pattern with {id}"),
        ("{lists: [val.txt]}", "{list: val.txt}", "wrong key below splits"),
        ("{lists: [val.txt]}", "{only: night}", "'only: night' is none of its tags"),
        ("unit: mm", "units: mm", "wrong key below splits or auxiliary"),
        ("high: 5000", "high: 0", r"auxiliary.high is 0"),
        ("[floor, wall]", "[floor, yes]", "classes[1] is True (bool), but text is needed. Put it"),
        ("[floor, wall]", "[2024-05-01, wall]", "classes[0] is datetime.date(2024, 5, 1)"),
        ("[floor, wall]", "[floor, '']", "a class without a name"),
        ("[floor, wall]", "[floor, 'floor ']", "with spaces around it: ['floor', 'floor ']"),
        ("{lists: [val.txt]}", "{}\n  a b: {}", "the split 'a b', which no config can name"),
        ("high: 5000", "low: 9000, high: 5000", "dataset.yaml: auxiliary.low is 9000"),
        ("[floor, wall]", "{0: floor, 1: wall}", "the ids 0, 1, but label_offset 1 needs 1 to 2"),
        ("[floor, wall]", "{1: floor, 3: wall}", "the ids 1, 3, but"),
        ("[floor, wall]", "{a: floor, b: wall}", "the ids a, b, but"),
        ("label_offset: 1", "label_offset: '1'", "label_offset is '1' (str), but a number"),
        ("label_offset: 1", "label_offset: -1", "label_offset is -1"),
        ("label_offset: 1", "label_offset: 65535", "label_offset 65535 is above 16 bits"),
        ("stored_ignore: 0", "stored_ignore: no", "stored_ignore is False (bool)"),
        ("stored_ignore: 0", "stored_ignore: 2", "the stored value of the class wall"),
        ("label_offset: 1", "colors: [[0, 0, 0], [0, 0, 256]]", "colors[1] is [0, 0, 256]"),
        ("label_offset: 1", "skip: 7", "skip is 7 (int), but text"),
        ("label_offset: 1", "max_pixels: 0", "max_pixels is 0 (int), but a number of pixels"),
        ("label_offset: 1", "max_pixels: 900000000", "1 to 178956970"),
        ("label_offset: 1", "root: [1]", "root[0] is 1 (int)"),
        ("label_offset: 1", "yes: 1", "has the key(s) True"),
        ("{dark: dark.txt}", "[dark]", "tags is ['dark'] (list), but a mapping"),
        ("{dark: dark.txt}", "{on: dark.txt}", "a key of"),
        ("[val.txt]", "[1]", "splits.val.lists[0] is 1 (int)"),
        ("{lists: [val.txt]}", "{pairs: many}", "splits.val.pairs is 'many' (str)"),
        ("{lists: [val.txt]}", "val.txt", "splits.val is 'val.txt' (str), but a mapping"),
        ("high: 5000", "high: '5000'", "auxiliary.high is '5000' (str), but a number"),
        ("high: 5000", "high: .inf", "auxiliary.high is inf (float)"),
        ("kind: depth", "kind: 3", "auxiliary.kind is 3 (int), but text"),
        ("ids/{id}.png", "ids/{id}/{id}.png", "{id} in it, once"),
        ('"ids/{id}.png"', "7", "layouts[0].label is 7 (int)"),
        ("label_offset: 1", "_BASE_: dataset.yaml", "is based on itself"),
        ("label_offset: 1", "_BASE_: [3]", "has the _BASE_ 3"),
        ("classes:", "{", "cannot be read as a dataset file"),
        (OWN, "only words", "cannot be read as a dataset file"),
    ],
)
def test_mistakes_in_a_dataset_file(own, old, new, words):
    own.write_text(OWN.replace(old, new))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_description(own)
    assert words in str(error.value)


def test_keys_of_a_file_replace_those_of_its_base(own):
    mine = own.with_name("mine.yaml")
    mine.write_text("_BASE_: dataset.yaml\nauxiliary: [{kind: thermal}]\nsplits: {all: {}}")
    base, description = read_description(own), read_description(mine)
    assert [format.kind for format in description.auxiliary] == ["thermal"]
    assert list(description.splits) == ["all"]
    assert (description.classes, description.tags) == (base.classes, base.tags)
    mine.write_text("_BASE_: gone.yaml")
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml does not exist"):
        read_description(mine)


def test_bases_that_lead_back_are_refused(own):
    own.with_name("a.yaml").write_text("_BASE_: b.yaml")
    own.with_name("b.yaml").write_text("_BASE_: a.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml is based on itself"):
        read_description(own.with_name("a.yaml"))


def test_classes_by_their_ids(own):
    # Written in another order, so that the order of the lines cannot be taken for the ids.
    own.write_text(OWN.replace("[floor, wall]", "{2: wall, 1: floor}"))
    assert read_description(own).classes == ["floor", "wall"]
