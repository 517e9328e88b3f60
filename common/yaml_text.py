"""YAML text to plain values, bounded, with the line of every key. Pure.

The text may come from a stranger: no tags beyond the plain ones, no aliases, no merge keys, no
duplicate keys, at most DEPTH_MAX levels and NODES_MAX values. Keys are always text: `on:` is the
key "on", never True.
"""

from collections.abc import Callable

import yaml

DEPTH_MAX = 20
# more values than any file of ours needs; keeps a hostile file from costing seconds
NODES_MAX = 20_000
# longer numbers are refused: reading them takes time that grows with the square of their length
NUMBER_CHARACTERS_MAX = 64
SHOWN_CHARACTERS_MAX = 60

_TAG = "tag:yaml.org,2002:"
_NUMBERS = frozenset({_TAG + "int", _TAG + "float"})
_TEXTS = frozenset({_TAG + "str", _TAG + "timestamp"})

Path = tuple[str | int, ...]


class YamlError(ValueError):
    """Text that is not YAML as we take it. `line` counts from 1; the text does not repeat it."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def load_yaml(
    data: bytes, *, bytes_max: int = 262144
) -> tuple[object, Callable[[tuple[str | int, ...]], int]]:
    """The value that UTF-8 YAML text stands for, and a function from a path in it to its line.

    The value is made of dict (text keys), list, str, int, float, bool and None; a date stays
    text; empty text is None. The line of a path is that of its key or list item, counted from 1;
    for a path that is not there, that of the nearest part of it that is. Raises YamlError.
    """
    if len(data) > bytes_max:
        raise YamlError(1, f"{len(data)} bytes; at most {bytes_max}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(line, "not UTF-8") from error
    try:
        loader = _BoundedLoader(text)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, "a character that YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise YamlError(line, error.problem or error.context or "not YAML") from error
    lines: dict[Path, int] = {(): 1}
    if node is None:
        return None, lambda path: 1
    lines[()] = _line(node)
    value = _plain(loader, node, (), lines=lines)

    def line_of(path: tuple[str | int, ...]) -> int:
        while path not in lines:
            path = path[:-1]
        return lines[path]

    return value, line_of


class _BoundedLoader(yaml.SafeLoader):
    """Stops at an alias, at too deep a nesting and at too many values, while it reads."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """One value, as PyYAML composes it, within the bounds. Raises YamlError."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise YamlError(line, "aliases are not allowed")
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise YamlError(line, f"more than {NODES_MAX} values")
        if self._depth == DEPTH_MAX:
            raise YamlError(line, f"nested deeper than {DEPTH_MAX} levels")
        self._depth += 1
        node = super().compose_node(parent, index)  # type: ignore[arg-type]  # the stub wants int
        self._depth -= 1
        return node


def _plain(
    loader: yaml.SafeLoader, node: yaml.Node, path: Path, *, lines: dict[Path, int]
) -> object:
    """The plain value of a node; notes the line of everything inside it."""
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in mapping:
                raise YamlError(_line(key_node), f'the key "{_shown(key)}" is there twice')
            lines[*path, key] = _line(key_node)
            mapping[key] = _plain(loader, value_node, (*path, key), lines=lines)
        return mapping
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items: list[object] = []
        for index, item_node in enumerate(node.value):
            lines[*path, index] = _line(item_node)
            items.append(_plain(loader, item_node, (*path, index), lines=lines))
        return items
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node)
    raise YamlError(_line(node), f'the tag "{_shown(node.tag)}" is not allowed')


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> object:
    text: str = node.value
    if node.tag in _TEXTS:
        return text
    if node.tag in _NUMBERS and len(text) > NUMBER_CHARACTERS_MAX:
        raise YamlError(_line(node), f"a number of more than {NUMBER_CHARACTERS_MAX} characters")
    try:
        if node.tag == _TAG + "int":
            return loader.construct_yaml_int(node)
        if node.tag == _TAG + "float":
            return loader.construct_yaml_float(node)
        if node.tag == _TAG + "bool":
            return loader.construct_yaml_bool(node)
    except (ValueError, KeyError, IndexError) as error:
        # reached by an explicit tag only: `!!int x`
        raise YamlError(_line(node), f'"{_shown(text)}" is not of its tag') from error
    if node.tag == _TAG + "null":
        return None
    raise YamlError(_line(node), f'the tag "{_shown(node.tag)}" is not allowed')


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError(_line(node), "a key must be text")
    if node.tag == _TAG + "merge":
        raise YamlError(_line(node), 'merge keys ("<<") are not allowed')
    key: str = node.value
    return key


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _shown(text: str) -> str:
    """A stranger's text, cut and escaped, for an error of one line."""
    escaped = text.encode("unicode_escape").decode("ascii")
    if len(escaped) > SHOWN_CHARACTERS_MAX:
        return escaped[: SHOWN_CHARACTERS_MAX - 3] + "..."
    return escaped
