"""The one error for everything a person has to put right in a configuration."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Self


class ConfigError(ValueError):
    """A configuration that cannot be used; the text is one line: file: key: wrong; allowed."""

    @classmethod
    def at(cls, file: Path, key: str, wrong: str, allowed: str) -> Self:
        """The error for one key of one file; `key` may be empty where the whole file is meant."""
        place = f"{file}: {key}" if key else str(file)
        return cls(" ".join(f"{place}: {wrong}; {allowed}".split()))


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the known word nearest to `word`, or nothing where none is near."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
