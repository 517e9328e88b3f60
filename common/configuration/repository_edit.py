"""Entries of `repositories:` put into and taken out of a configuration's text, comments kept. Pure.

The rule: nothing but the lines of the entry changes. What came of it is read again, and must stand
for exactly the values that were wanted; else the text is refused as it is. A library that keeps
comments (ruamel.yaml) counts those below the list to its last entry, so a new one would come to
stand below them: here PyYAML says where each entry ends, and lines are put in or taken out.
"""

from collections.abc import Mapping

import yaml

from common.yaml_text import YamlError, load_yaml

KEY = "repositories"
# Of an entry's dash, if the list has no other entry that shows it.
INDENT = 2


class CannotEdit(ValueError):
    """The list is written in a way that is not changed here; the text says what to do."""


def with_repository(text: str, entry: Mapping[str, object]) -> str:
    """The configuration with one more repository at the end of its list. Raises CannotEdit.

    text: a configuration that was read without an error.
    """
    before = text
    _, listed = _find(text)
    items = listed.value
    if items and listed.flow_style:
        raise CannotEdit("is written in brackets: write it as lines that begin with `- url:`")
    if items:
        indent = listed.start_mark.column
        place = _end_of_entry(text, items[-1], indent)
    else:
        indent = INDENT
        # `repositories: []`
        key = text[: listed.start_mark.index].rstrip(" ")
        text = key + text[listed.end_mark.index :]
        place = _next_line(text, len(key))
    if not text[:place].endswith("\n"):
        text = text[:place] + "\n" + text[place:]
        place += 1
    changed = text[:place] + _lines(entry, indent) + text[place:]
    return _checked(changed, [*_entries(before), dict(entry)], before)


def without_repository(text: str, index: int) -> str:
    """The configuration without its repository of that index, nor the comments among its lines.

    text: as for `with_repository`. Raises CannotEdit.
    """
    key, listed = _find(text)
    items = listed.value
    if listed.flow_style:
        raise CannotEdit("is written in brackets: write it as lines that begin with `- url:`")
    start = text.rfind("\n", 0, text.rfind("-", 0, items[index].start_mark.index)) + 1
    end = _end_of_entry(text, items[index], listed.start_mark.column)
    changed = text[:start] + text[end:]
    if len(items) == 1:
        colon = text.index(":", key.end_mark.index) + 1
        changed = f"{text[:colon]} []{changed[colon:]}"
    entries = _entries(text)
    return _checked(changed, [*entries[:index], *entries[index + 1 :]], text)


def _find(text: str) -> tuple[yaml.ScalarNode, yaml.SequenceNode]:
    """The key and its list, as PyYAML found them in the text."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == KEY and isinstance(value, yaml.SequenceNode):
            return key, value
    raise CannotEdit("is missing: write `repositories: []`")


def _end_of_entry(text: str, entry: yaml.Node, indent: int) -> int:
    """Where the line begins that is no more of the entry, nor a comment deeper than its dash."""
    place = _next_line(text, _end_of_value(text, entry))
    while place < len(text):
        end = _next_line(text, place)
        line = text[place:end]
        content = line.lstrip(" ")
        if not content.startswith("#") or len(line) - len(content) <= indent:
            break
        place = end
    return place


def _end_of_value(text: str, node: yaml.Node) -> int:
    """Where the last character of a value stands, which is not in a comment behind it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end_of_value(text, last[1] if isinstance(last, tuple) else last)
    start, end = node.start_mark.index, node.end_mark.index
    return start + len(text[start:end].rstrip())


def _next_line(text: str, place: int) -> int:
    end = text.find("\n", place)
    return len(text) if end < 0 else end + 1


def _lines(entry: Mapping[str, object], indent: int) -> str:
    dumped = yaml.safe_dump([dict(entry)], sort_keys=False, allow_unicode=True, width=2**16)
    return "".join(" " * indent + line for line in dumped.splitlines(keepends=True))


def _entries(text: str) -> list[object]:
    value = _values(text)[KEY]
    assert isinstance(value, list), "a configuration that was read has a list"
    return value


def _values(text: str) -> dict[str, object]:
    data = text.encode()
    value, _ = load_yaml(data, bytes_max=len(data))
    assert isinstance(value, dict), "a configuration is a mapping"
    return value


def _checked(changed: str, wanted: list[object], before: str) -> str:
    """`changed`, if it stands for what `before` does but for this list."""
    try:
        values = _values(changed)
    except YamlError as error:
        raise CannotEdit("is written in a way that is not changed here: edit the file") from error
    if values != {**_values(before), KEY: wanted}:
        raise CannotEdit("is written in a way that is not changed here: edit the file")
    return changed
