"""YAML as plain values: the one reader of configs, dataset files and what checkpoints hold."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from smmcl.files.paths import without_home

BASE_KEY = "_BASE_"
MAX_LENGTH = 1 << 17  # characters of a file, with its aliases written out
MAX_DEPTH = 32  # of lists and mappings in each other
MAX_DIGITS = 100  # of a number; of 1:1:1:... to the base of 60, the time grows with their square
MAX_FILES = 32  # that one file may be based on
PLAIN = (str, int, float, type(None))  # bool is an int


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, and what would grow beyond the limits."""

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        length, waiting = 0, [(root, 0)] if root else []
        while waiting:  # a node of several aliases is visited once for each of them
            node, depth = waiting.pop()
            length += 1
            if depth > MAX_DEPTH:
                _refuse(node, f"lists and mappings are nested more than {MAX_DEPTH} deep")
            if isinstance(node, yaml.ScalarNode):
                length += len(node.value)
            elif isinstance(node, yaml.SequenceNode):
                waiting += [(child, depth + 1) for child in node.value]
            else:
                waiting += [(child, depth + 1) for pair in node.value for child in pair]
            if length > MAX_LENGTH:
                _refuse(node, f"with its aliases written out it is longer than {MAX_LENGTH}")
        return root

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
            _refuse(node, f"a number has more than {MAX_DIGITS} digits")
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse(key, "a key is a list or a mapping")
            value = key.value if key.tag.endswith(":merge") else self.construct_object(key)
            if value in seen:
                _refuse(key, f"the key {value!r} stands there twice")
            seen.add(value)
        return node


def _refuse(node: yaml.Node, problem: str) -> None:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def load_yaml(text: str, source: str | Path) -> Any:
    """Reads one document; None if it is empty.

    Args:
        text: of it.
        source: what errors call it, such as its path.
    """
    try:
        if len(text) > MAX_LENGTH:
            raise ValueError(f"it is longer than {MAX_LENGTH} characters")
        return yaml.load(text, _Loader)
    except RecursionError:
        problem = f"lists and mappings are nested more than {MAX_DEPTH} deep"
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = f"{place}{getattr(error, 'problem', None) or error}".replace("\n", " ")
    raise ValueError(
        f"{source} cannot be read as YAML of plain values: {problem}. Correct it, or take the "
        "file from where it was published."
    )


def read_yaml(path: str | Path) -> Any:
    """Reads a file of one document; None if it is empty."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist or is not a file. Correct the path.")
    with path.open("rb") as file:
        content = file.read(4 * MAX_LENGTH + 1)  # UTF-8 has at most 4 bytes a character
    try:
        return load_yaml(content.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8. Name a YAML file.") from error


def read_layers(
    path: str | Path, *, shipped: Path | None = None, above: tuple[Path, ...] = ()
) -> list[dict[str, Any]]:
    """The keys of a file after those of each file that its `_BASE_` names, relative to it.

    Args:
        path: of the file.
        shipped: folder of the files that a `_BASE_` may also name, if none lies beside it.
        above: the files that led to it.
    """
    path = without_home(path)
    if path.resolve() in above:
        raise ValueError(f"{path} is based on itself. Correct the {BASE_KEY} of {above[-1]}.")
    facts = as_keys(read_yaml(path), path)
    if not facts:
        raise ValueError(f"{path} is empty. Give it keys, or name another file.")
    bases = facts.pop(BASE_KEY, [])
    layers: list[dict[str, Any]] = []
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or "://" in base:
            raise ValueError(f"{path} has the {BASE_KEY} {base!r}. Name a file on this machine.")
        below = _base_file(path, base, shipped)
        if not below.is_file():
            way_out = f", or name a file of {shipped}" if shipped else ""
            raise FileNotFoundError(
                f"{path} has the {BASE_KEY} {base!r}, but {below} does not exist or is not a file. "
                f"Correct the path{way_out}."
            )
        layers += read_layers(below, shipped=shipped, above=(*above, path.resolve()))
        if len(layers) >= MAX_FILES:
            raise ValueError(f"{path} is based on {MAX_FILES} files or more. Put them together.")
    return [*layers, facts]


def _base_file(path: Path, base: str, shipped: Path | None) -> Path:
    beside = path.parent / without_home(base)
    is_shipped = shipped and not beside.is_file() and (shipped / base).is_file()
    return shipped / base if is_shipped else beside


def find_line(
    path: str | Path, key: str, *, shipped: Path | None = None
) -> tuple[Path, int] | None:
    """The file that sets a dotted key, itself or the last of its bases, and the line there."""
    path = Path(path).expanduser()
    node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    bases = as_keys(read_yaml(path), path).get(BASE_KEY, [])
    line = None
    for name in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [(key_node, value) for key_node, value in pairs if key_node.value == name]
        if not found:
            break
        line, node = found[0][0].start_mark.line + 1, found[0][1]
    else:
        return path, line
    for base in reversed(bases if isinstance(bases, list) else [bases]):
        if place := find_line(_base_file(path, base, shipped), key, shipped=shipped):
            return place
    return None


def dump_yaml(facts: Mapping[str, Any]) -> str:
    """The text of a file, its keys in their order and short lists on one line."""
    return yaml.safe_dump(dict(facts), sort_keys=False, default_flow_style=None, width=100)


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def as_keys(facts: Any, source: str | Path) -> dict[str, Any]:
    """What YAML holds, if it is keys and values; an empty document has none."""
    if not isinstance(facts, dict | None):
        raise ValueError(f"{source} has no keys: it holds a {type(facts).__name__}.")
    return facts or {}


def as_config(layers: Sequence[dict[str, Any]], source: str | Path) -> dict[str, Any]:
    """The tree of config keys that later layers leave of earlier ones, checked to be plain."""
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = _merged(tree, layer)
    if BASE_KEY in tree:
        raise ValueError(f"{source} has a {BASE_KEY}, which only a file may have. Remove it.")
    _check_plain(tree, source)
    return tree


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A new tree, since aliases may have made one object of several."""
    merged = dict(below)
    for key, value in above.items():
        is_node = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merged(below[key], value) if is_node else value
    return merged


def _check_plain(value: Any, source: str | Path, place: str = "") -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{source} has the key {key!r}{place}, which is not a text.")
            _check_plain(item, source, f" in {key}")
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, source, place)
    elif not isinstance(value, PLAIN):
        raise ValueError(
            f"{source} has a {type(value).__name__}{place}. Give numbers, texts or lists of them."
        )
