"""The table of `make mutations` does not rot, and what runs it sees a mend that no test holds."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

HERE = pathlib.Path(__file__).resolve().parent
TABLE = yaml.safe_load((HERE / "mutations.yaml").read_text(encoding="utf-8"))
PLANTED = """
import multiprocessing, pathlib, sys
sys.path.insert(0, sys.argv[1])
from mutations import Mutation

multiprocessing.set_start_method("fork")
tree = pathlib.Path(sys.argv[2])
(tree / "total.py").write_text("total = 1 + 1")
(tree / "test_total.py").write_text("import total\\ndef test_two(): assert total.total == 2")
for old, new, test in (("1 + 1", "3", "two"), ("1 + 1", "2", "two"), ("2 + 2", "3", "two"),
                       ("1 + 1", "(", "two"), ("1 + 1", "3", "three")):
    print(Mutation("", "total.py", old, new, [f"test_total.py::test_{test}"]).verdict(tree)[0])
print((tree / "total.py").read_text())
"""


def test_every_finding_has_a_name_of_its_own() -> None:
    names = [entry["finding"] for entry in TABLE]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry["finding"])
def test_text_and_tests_are_there(entry: dict) -> None:
    assert (HERE.parent / entry["file"]).read_text(encoding="utf-8").count(entry["old"]) == 1
    for test in entry["tests"]:
        file, name = re.match(r"([\w/]+\.py)::(\w+)", test).groups()
        assert f"def {name}" in (HERE.parent / file).read_text(encoding="utf-8"), test


def test_only_a_failing_test_counts(tmp_path: pathlib.Path) -> None:
    """Not one that passes, is not there, or cannot be imported; nor a text that is gone."""
    (tmp_path / "tree").mkdir()
    command = [sys.executable, "-c", PLANTED, str(HERE), str(tmp_path / "tree")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    killed, passed, gone, broken, missing, whole = done.stdout.splitlines()
    assert killed == "killed"
    assert passed == "SURVIVED: {'passed': 1}"
    assert gone == "GONE: the text stands 0 times in total.py"
    assert broken.startswith("SURVIVED")
    assert missing.startswith("SURVIVED: {'without test_total.py::test_three")
    assert whole == "total = 1 + 1"
