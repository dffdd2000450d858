"""Ways to spoil a sound input: its values, its text and its bytes, all drawn from one generator."""

import copy
import random
import struct
from collections.abc import Sequence
from typing import Any

# What takes the place of a value. Numbers at the edges of types, other types, names that lead
# elsewhere, text that terminals or other readers interpret.
HOSTILE: Sequence[Any] = (
    *(0, -1, 1, 255, 256, 65535, 2**31 - 1, 2**31, -(2**63), 2**63, 2**64, 10**40, 10**400),
    *(0.0, -0.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"), True, False, None),
    *("", " ", "a", "0", "yes", "{id}", "{id}{id}", "{split}", "{}", "%s", "*", "[", "../x", "/x"),
    *(
        "C:\\x",
        "x\0y",
        "x\ny",
        "\x1b[31m",
        "\u202e",
        "\ud7ff\uffff",
        "\ud800",
        "\ufeff",
        "\u0661",
        "~x",
    ),
    *("a" * 5000, "x/" * 2000, "1e9", "nan", "2024-05-01", "_BASE_", "package://os", "a.py"),
    *([], {}, [[]], [None], {"": None}, {"a": {"a": {}}}, [1, "a", None, {}], [0] * 500),
)
# Whole numbers that fields of binary files are overwritten with.
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037")
LINE_ENDS = ("\r\n", "\r", "\n\n", "\x85", "\u2028", "\x0b", "\0")


def spoil_tree(draw: random.Random, tree: Any) -> Any:
    """A copy of nested lists and mappings with one to three changes at random places."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return draw.choice(HOSTILE)
        _spoil_place(draw, *draw.choice(places))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container in a tree with each of its keys or positions."""
    if not isinstance(tree, dict | list):
        return []
    items = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    below = [place for _, value in items for place in _places(value)]
    return [*((tree, key) for key, _ in items), *below]


def _spoil_place(draw: random.Random, holder: Any, key: Any) -> None:
    value = holder[key]
    match draw.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):  # a key of another name or type
            name = draw.choice(HOSTILE)
            holder[name if isinstance(name, str | int | float | None) else str(name)] = value
        case 1:
            holder.append(copy.deepcopy(value))
        case 2:
            holder[key] = [value] * draw.choice((1, 2, 100))
        case 3:
            holder[key] = {"a": value}
        case 4:
            for _ in range(draw.choice((5, 40, 200))):
                value = draw.choice(([value], {"a": value}))
            holder[key] = value
        case _:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE))


def spoil_text(draw: random.Random, text: str) -> bytes:
    """Bytes of a text with lines moved, odd characters, another encoding or other line ends."""
    lines = text.split("\n")
    for _ in range(draw.choice((0, 1, 1, 2))):
        index = draw.randrange(len(lines))
        match draw.randrange(6):
            case 0:
                lines.insert(draw.randrange(len(lines) + 1), lines[index])
            case 1:
                del lines[index]
                lines = lines or [""]
            case 2:
                lines[index] = (
                    draw.choice(("\t", " ", "#", "- ", "&a ", "*a ", "!!x ")) + lines[index]
                )
            case 3:
                odd = str(draw.choice(HOSTILE)).encode(errors="replace").decode()
                place = draw.randrange(len(lines[index]) + 1)
                lines[index] = lines[index][:place] + odd + lines[index][place:]
            case 4:
                lines[index] *= draw.choice((0, 2, 300))
            case 5:
                lines += lines
    end = draw.choice(LINE_ENDS) if draw.random() < 0.2 else "\n"
    encoding = draw.choice(ENCODINGS) if draw.random() < 0.2 else "utf-8"
    return end.join(lines).encode(encoding, errors="replace")


def spoil_bytes(draw: random.Random, content: bytes, other: bytes = b"") -> bytes:
    """Bytes with one to four changes: flips, cuts, repeats, edge values, parts of another file."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(len(data) + 1)
        if draw.random() < 0.4:  # headers are where the structure is
            place = min(place, draw.randrange(64))
        length = draw.choice((1, 2, 4, 8, 64, 1000))
        match draw.randrange(8):
            case 0 | 1 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 2 if place < len(data):
                data[place] = draw.randrange(256)
            case 3:
                end = len(data) if draw.random() < 0.5 else place + length
                del data[place:end]
            case 4:
                data[place:place] = data[place : place + length] * draw.choice((1, 50))
            case 5:
                data[place:place] = draw.randbytes(length)
            case 6:
                start = draw.randrange(len(other) + 1)
                data[place : place + length] = other[start : start + length]
            case _:
                size = draw.choice("BHIQ")
                value = draw.choice(EDGES) & ((1 << 8 * struct.calcsize(size)) - 1)
                packed = struct.pack(draw.choice("<>") + size, value)
                data[place : place + len(packed)] = packed
    return bytes(data)
