"""Pickles that crash or fill the memory of Python's own unpickler, each tried in a process."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from smmcl.files.arrays import MAX_INSTRUCTIONS, load_arrays

ROOT = pathlib.Path(__file__).resolve().parents[2]
LOAD = """
import pathlib, resource, sys
from smmcl.files.arrays import load_arrays
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    load_arrays(pathlib.Path(sys.argv[1]).read_bytes())
except (ValueError, IndexError) as error:
    print("refused:", error)
"""
HUGE = b"\x00\x00\x00\x00\x01\x00\x00\x00"  # 4 GiB
HOSTILE = {
    "4 GiB of bytes": b"\x80\x05\x8e" + HUGE,
    "4 GiB of a byte array": b"\x80\x05\x96" + HUGE,
    "4 GiB of text": b"\x80\x05\x8d" + HUGE,
    "a remembered place far out": b"\x80\x02}r\xff\xff\xff\x7fR.",
    "an array of 4 GiB": b"\x80\x02}U\x01wcnumpy\nndarray\nJ\xff\xff\xff\x7f\x85Rs.",
    "a text encoded again and again": b"\x80\x02}U\x01w(X\x00\x00\x10\x00"
    + b"a" * (1 << 20) + b"q\x000" + b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 5000
    + b"ls.",
    "a key of tuples in tuples": b"\x80\x02})" + b"\x85" * 900_000 + b"Ns.",
    "doubled lists": b"\x80\x02}U\x01w]" + b"2\x86" * 100 + b"s.",
    "too many instructions": b"\x80\x02]" + b"]0" * MAX_INSTRUCTIONS + b".",
    "a state for a function": b"\x80\x02}U\x01wc_codecs\nencode\nN}\x86bs.",
    "a number of too many digits": b"\x80\x02}U\x01wL" + b"9" * 5000 + b"L\ns.",
    "nothing on the stack": b"\x80\x02R.",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is set by /proc")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_without_harm(tmp_path: pathlib.Path, name: str) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(HOSTILE[name])
    command = [sys.executable, "-c", LOAD, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-300:]}"
    assert "refused: " in done.stdout


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back_as_they_were(protocol: int) -> None:
    shared = np.arange(5, dtype=np.int64)
    data = {
        "big": np.arange(6, dtype=">f4").reshape(2, 3), "fortran": np.asfortranarray(np.eye(3)),
        "mask": np.array([True, False]), "half": np.ones((), np.float16), "empty": np.zeros((0, 4)),
        "shared": [shared, shared], "scalar": np.float32(1.5), "complex": np.array([1j]),
    }  # fmt: skip
    if protocol < 3:
        del data["empty"]  # its bytes are a call of `bytes`
    read = load_arrays(pickle.dumps(data, protocol=protocol))
    assert list(read) == list(data)
    for name, value in data.items():
        np.testing.assert_array_equal(read[name], value)
        if name != "shared":
            assert read[name].dtype == value.dtype
    assert read["shared"][0] is read["shared"][1]
    read["big"][0, 0] = 7  # may be written to


def test_strings_of_python_2_are_bytes() -> None:
    state = b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x80\xfftb"  # noqa: E501
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    assert load_arrays(start + state + b".").tolist() == [0x80, 0xFF]


def test_an_array_of_another_size_than_its_bytes_is_refused() -> None:
    content = pickle.dumps(np.arange(4, dtype=np.uint8), protocol=2)
    assert load_arrays(content).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"4 bytes for an array of shape \(5,\)"):
        load_arrays(content.replace(b"K\x04\x85", b"K\x05\x85"))
    with pytest.raises(ValueError, match="it calls dtype"):
        load_arrays(pickle.dumps(np.array(["a"]), protocol=4))
