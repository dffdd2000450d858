"""Pickles of arrays, as Detectron2's model zoo has them, read without Python's unpickler.

A pickle is a program. This module runs the few instructions that containers and arrays of numbers
need, so that nothing is imported, no object gets a state from the file, and memory stays in
proportion to the file.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_INSTRUCTIONS = 1 << 20  # a file of the zoo has some ten thousand
NUMBERS = re.compile(r"[<>=|]?[biufc?]\d{0,2}")  # types of arrays, in numpy's letters
NUMPY = ("ndarray", "dtype", "_reconstruct", "_frombuffer", "scalar")
IGNORED = ("PROTO", "FRAME")
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
LITERALS = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|(SHORT_)?(BIN)?(STRING|UNICODE|BYTES)8?|BYTEARRAY8"
)


@dataclass(frozen=True)
class _Name:
    """A function that the file calls; it is never looked up."""

    name: str


@dataclass
class _Unfinished:
    """An array or dtype between the call that makes it and the state that fills it."""

    spec: str = ""  # of a dtype; "" for an array
    places: list[int] = field(default_factory=list)  # where it is remembered


def load_arrays(content: bytes) -> Any:
    """What a pickle holds; ValueError where it is more than containers, numbers and arrays."""
    return _Machine(len(content)).run(content)


class _Machine:
    def __init__(self, length: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = 2 * length  # a text becomes bytes, and these an array

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            name = opcode.name
            if count > MAX_INSTRUCTIONS:
                raise ValueError(f"it has more than {MAX_INSTRUCTIONS} instructions")
            if name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif LITERALS.fullmatch(name):
                self.stack.append(argument)
            elif name == "STOP":
                return self.stack.pop()
            elif name not in IGNORED:
                self._step(name, argument)
        raise AssertionError("genops ends with STOP")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "MARK":
                self.marks.append(len(stack))
            case "POP":
                stack.pop()
            case "GLOBAL":
                stack.append(_allowed(*argument.split(" ")))
            case "STACK_GLOBAL":
                stack.append(_allowed(*self._taken(2)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._taken(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                items = self._since_mark()
                stack.append({})
                self._set_items(items)
            case "APPEND" | "APPENDS":
                items = self._taken(1) if name == "APPEND" else self._since_mark()
                _of_type(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                self._set_items(self._taken(2) if name == "SETITEM" else self._since_mark())
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self._remember(len(self.memo) if name == "MEMOIZE" else argument)
            case "REDUCE":
                function, arguments = self._taken(2)
                stack.append(self._called(_of_type(function, _Name).name, *arguments))
            case "BUILD":
                self._finish(*self._taken(2))
            case _:
                raise ValueError(f"it has the instruction {name}")

    def _taken(self, number: int) -> list[Any]:
        if len(self.stack) < number:
            raise ValueError("it takes more than it has put there")
        taken = self.stack[-number:]
        del self.stack[-number:]
        return taken

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _set_items(self, items: list[Any]) -> None:
        target = _of_type(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Of a tuple in tuples in tuples the hash alone overflows the processor's stack.
            target[_of_type(key, str, int, float, bytes)] = value

    def _remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], _Unfinished):
            self.stack[-1].places.append(place)

    def _called(self, name: str, *arguments: Any) -> Any:
        match name, arguments:
            case "OrderedDict", ():
                return {}
            case "OrderedDict", (list(items),):
                self.stack.append({})
                self._set_items([part for item in items for part in _of_type(item, list, tuple)])
                return self.stack.pop()
            case "encode", (str(text), "latin1"):
                return self._bytes(text)
            case "_reconstruct", _:
                return _Unfinished()
            case "dtype", (str(spec), *_) if NUMBERS.fullmatch(spec):
                return _Unfinished(spec)
            case "scalar", (dtype, raw):
                return self._array(raw, dtype, ())[()]
            case "_frombuffer", (raw, dtype, shape, order):
                return self._array(raw, dtype, shape, order)
        raise ValueError(f"it calls {name} with arguments that no array of numbers needs")

    def _finish(self, unfinished: Any, state: Any) -> None:
        """Makes the array or dtype of its state; instead of the unfinished one from here on."""
        if _of_type(unfinished, _Unfinished).spec:
            finished: Any = np.dtype(unfinished.spec).newbyteorder(state[1])
        else:
            _, shape, dtype, is_fortran, raw = state
            finished = self._array(raw, dtype, shape, "F" if is_fortran else "C")
        self.stack.append(finished)
        self.memo.update(dict.fromkeys(unfinished.places, finished))

    def _array(self, raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
        raw = self._bytes(raw) if isinstance(raw, str) else _of_type(raw, bytes, bytearray)
        dtype, shape = _of_type(dtype, np.dtype), _of_type(shape, tuple)
        if len(raw) != dtype.itemsize * math.prod(_of_type(size, int) for size in shape):
            raise ValueError(f"it has {len(raw)} bytes for an array of shape {shape} and {dtype}")
        self._spend(len(raw))
        return np.ndarray(shape, dtype, bytearray(raw), order=order)

    def _bytes(self, text: str) -> bytes:
        self._spend(len(text))
        return text.encode("latin1")

    def _spend(self, number: int) -> None:
        self.bytes_left -= number
        if self.bytes_left < 0:
            raise ValueError("its arrays are larger than the file")


def _allowed(module: Any, name: Any) -> _Name:
    is_numpy = str(module).partition(".")[0] == "numpy" and name in NUMPY
    if is_numpy or (module, name) in (("collections", "OrderedDict"), ("_codecs", "encode")):
        return _Name(name)
    raise ValueError(f"it asks for {module}.{name}")


def _of_type(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise ValueError(f"it has a {type(value).__name__} in place of a {types[0].__name__}")
    return value
