"""A mapping from a YAML file as a msgspec struct, with errors written for whoever typed the file.

The struct's types are the description of the file: what a key may hold is read from them, both
for the check and for the words of the error.

msgspec.convert checks each value, but not the whole file at once: its error lacks the value, the
nearest key and the name of a key in a mapping, and has the path only as part of its text.
"""

import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from common.address import Address
from common.config_error import ConfigError, nearest
from common.yaml_text import YamlError, load_yaml

CONFIG_BYTES_MAX = 1024 * 1024
# The field that takes the file's own path; it is no key of the file.
FILE_FIELD = "file"

_Kind = TypeVar("_Kind")


def read_file(kind: type[_Kind], path: Path, text: str | None = None) -> _Kind:
    """The YAML file as `kind`, whose field `file` becomes the file's path. Raises ConfigError.

    text: what the file is to hold, if not what it holds.
    """
    file = Path(os.path.abspath(path.expanduser()))
    data = _read_bytes(file) if text is None else text.encode()
    try:
        loaded, _ = load_yaml(data, bytes_max=CONFIG_BYTES_MAX)
    except YamlError as error:
        raise ConfigError.at(
            file, f"line {error.line}", f"is not YAML: {error}", "see the files of example-config/"
        ) from error
    return read_struct(kind, loaded, file)


def read_struct(kind: type[_Kind], value: object, file: Path, *, key: str = "") -> _Kind:
    """The mapping `value`, found under `key`, as the struct `kind`. Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError.at(file, key, f"is {_shown(value)}", "a mapping of keys is needed")
    hints = get_type_hints(kind, include_extras=True)
    fields = {
        field.name: field
        for field in msgspec.structs.fields(kind)  # type: ignore[arg-type]
        if field.name != FILE_FIELD
    }
    for name in value:
        if name not in fields:
            raise ConfigError.at(
                file,
                _join(key, str(name)),
                f"there is no such key{nearest(str(name), fields)}",
                f"the keys are: {', '.join(fields)}",
            )
    arguments: dict[str, Any] = {FILE_FIELD: file} if FILE_FIELD in hints else {}
    for name, field in fields.items():
        where = _join(key, name)
        if name in value:
            arguments[name] = _read(hints[name], value[name], file, key=where)
        elif field.required:
            raise ConfigError.at(file, where, "is missing", f"{_allowed(hints[name])} is needed")
    return kind(**arguments)


def absolute_path(text: str, file: Path) -> Path:
    """The path `text` as `file` means it: from the file's folder, `~` for the home directory."""
    return Path(os.path.normpath(file.parent / Path(text).expanduser()))


def _read_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError.at(
            file, "", "there is no such file", "give one with --config, as example-config/"
        ) from error
    except OSError as error:
        raise ConfigError.at(
            file, "", f"cannot be read ({error.strerror})", "a YAML file is needed"
        ) from error


def _read(kind: Any, value: object, file: Path, *, key: str) -> Any:
    plain = _plain(kind)
    members = _union(plain)
    if members and type(None) in members:
        if value is None:
            return None
        kind = next(member for member in members if member is not type(None))
        return _read(kind, value, file, key=key)
    if plain is Address:
        return _read_address(value, file, key)
    if plain is Path:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ConfigError.at(file, key, f"is {_shown(value)}", f"{_allowed(kind)} is needed")
        return absolute_path(value, file)
    if get_origin(plain) is tuple:
        if not isinstance(value, list):
            raise ConfigError.at(file, key, f"is {_shown(value)}", f"{_allowed(kind)} is needed")
        item_kind = get_args(plain)[0]
        return tuple(
            _read(item_kind, item, file, key=f"{key}[{index}]") for index, item in enumerate(value)
        )
    if get_origin(plain) is dict and isinstance(value, dict):
        name_kind, item_kind = get_args(plain)
        return {
            _read(name_kind, name, file, key=key): _read(item_kind, item, file, key=f"{key}.{name}")
            for name, item in value.items()
        }
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return read_struct(plain, value, file, key=key)
    if value is False and "off" in _words(plain):
        value = "off"  # YAML 1.1 takes a bare `off` for false
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        guess = nearest(value, _words(plain)) if isinstance(value, str) else ""
        raise ConfigError.at(
            file, key, f"is {_shown(value)}{guess}", f"{_allowed(kind)} is needed"
        ) from error


def _read_address(value: object, file: Path, key: str) -> Address:
    allowed = f"{_allowed(Address)} is needed"
    if not isinstance(value, str):
        raise ConfigError.at(file, key, f"is {_shown(value)}", allowed)
    try:
        return Address.parse(value)
    except ValueError as error:
        raise ConfigError.at(file, key, str(error), allowed) from error


def _allowed(kind: Any) -> str:
    """In words, what a key of this type may hold."""
    meta = _meta(kind)
    if meta is not None and meta.description is not None:
        return meta.description
    plain = _plain(kind)
    members = _union(plain)
    if members:
        return " or ".join(
            "null" if member is type(None) else _allowed(member) for member in members
        )
    if words := _words(plain):
        return f"one of {', '.join(words)}"
    if plain in (int, float):
        return _allowed_number("a whole number" if plain is int else "a number", meta)
    if get_origin(plain) is tuple:
        return "a list"
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct) and plain is not Address:
        return "a mapping of keys"
    words_for = {
        Address: "a host and a port as in 127.0.0.1:10000",
        Path: "a path",
        bool: "true or false",
        str: "text",
    }
    return words_for.get(plain, "a mapping from names to values")


def _allowed_number(words: str, meta: msgspec.Meta | None) -> str:
    if meta is None:
        return words
    low = f"from {meta.ge}" if meta.ge is not None else ""
    low = f"above {meta.gt}" if meta.gt is not None else low
    high = f"to {meta.le}" if meta.le is not None else ""
    high = f"below {meta.lt}" if meta.lt is not None else high
    return " ".join(part for part in (words, low, high) if part)


def _words(plain: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(plain))) if get_origin(plain) is Literal else ()


def _union(plain: Any) -> tuple[Any, ...]:
    return get_args(plain) if get_origin(plain) in (Union, types.UnionType) else ()


def _meta(kind: Any) -> msgspec.Meta | None:
    if get_origin(kind) is not Annotated:
        return None
    return next((extra for extra in get_args(kind)[1:] if isinstance(extra, msgspec.Meta)), None)


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _shown(value: object) -> str:
    """The value as an error shows it: short, on one line."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
