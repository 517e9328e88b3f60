"""A person who asks the gateway for something, as whoever vouches for them says it. Pure."""

from collections.abc import Iterable, Mapping
from typing import TypeGuard

import msgspec

from ci.operations import PersonName

NAME_CHARACTERS_MAX = 128
SUBJECT_CHARACTERS_MAX = 255
GROUPS_MAX = 1000
GROUP_CHARACTERS_MAX = 256
CLAIM_CHARACTERS_MAX = 256


class NoPerson(ValueError):
    """What was said names nobody; the text says why in one line."""


class Person(msgspec.Struct, frozen=True):
    """Somebody who logged in.

    subject: what stays the same when the name changes, with whoever vouches; name: what people call
    them, and rules too. claims: those that rules look at.
    """

    subject: str
    name: str
    groups: tuple[str, ...] = ()
    claims: Mapping[str, str] = {}


def make_person(
    subject: object,
    name: object,
    *,
    groups: object,
    claims: Mapping[str, object] = {},
) -> Person:
    """A person of what a provider said, whatever that is. Raises NoPerson.

    A group that is no text, or too long, or beyond the most that are looked at, is left out: it
    gives no role then. The name goes into the ledger, so it has to be one that replicas take.
    """
    if not _is_text(subject, SUBJECT_CHARACTERS_MAX):
        raise NoPerson(f"the subject is no text of 1 to {SUBJECT_CHARACTERS_MAX} characters")
    try:
        checked = msgspec.convert(name, PersonName)
        checked.encode()
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise NoPerson(
            f"the name is no plain text of 1 to {NAME_CHARACTERS_MAX} characters"
        ) from error
    listed: Iterable[object] = groups if isinstance(groups, list | tuple) else ()
    kept = [group for group in listed if _is_text(group, GROUP_CHARACTERS_MAX)]
    texts = {
        key: value
        for key, value in ((key, _as_text(value)) for key, value in claims.items())
        if value is not None
    }
    return Person(subject, checked, tuple(dict.fromkeys(kept[:GROUPS_MAX])), texts)


def _is_text(value: object, characters_max: int) -> TypeGuard[str]:
    """Whether it is a text of some characters that can be stored."""
    return isinstance(value, str) and 1 <= len(value) <= characters_max and value.isprintable()


def _as_text(value: object) -> str | None:
    """A claim as rules compare it; None: no rule can mean it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, int) else value
    return text if _is_text(text, CLAIM_CHARACTERS_MAX) else None
