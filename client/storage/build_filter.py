"""Which builds a list shows: of a repository, branch, commit, author, event, outcome. Pure.

The API takes repository, branch and author as they are. On a page they may be parts, in any case.
"""

import re
from collections.abc import Mapping

import msgspec

from ci.operations import Event, Outcome

REPOSITORY_CHARACTERS_MAX = 1024
BRANCH_CHARACTERS_MAX = 255
AUTHOR_CHARACTERS_MAX = 255
COMMIT_CHARACTERS_MIN = 4
EVENTS: tuple[str, ...] = tuple(Event)
# What a build without a verdict is listed as: its status (client.views.build_view.BuildStatus).
STATUSES = ("queued", "building", "refused")
# With a verdict: its outcome. Cancelled and skipped are either, before or after the network was
# asked.
OUTCOMES: tuple[str, ...] = (*Outcome, *STATUSES)

_COMMIT = re.compile(r"[0-9a-f]{4,64}")


class InvalidFilter(ValueError):
    """A filter that cannot be; the text says which part and what it may be."""


class BuildFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: any. outcome: one of OUTCOMES; event: one of EVENTS; commit: how its id begins.

    is_part: repository, branch and author may be parts of the names, in any case (of ASCII).
    """

    repository: str | None = None
    branch: str | None = None
    outcome: str | None = None
    commit: str | None = None
    author: str | None = None
    event: str | None = None
    is_part: bool = False

    @property
    def fields(self) -> dict[str, str]:
        """What is asked for, by the names that an address has for it."""
        fields = msgspec.structs.asdict(self)
        return {name: fields[name] for name in FILTERS if fields[name]}


ALL = BuildFilter()
FILTERS = ("repository", "branch", "commit", "author", "event", "outcome")


def read_filter(query: Mapping[str, str], *, is_part: bool = False) -> BuildFilter:
    """The filter in an address. A form sends what is not filled in as an empty value: any.

    Raises InvalidFilter.
    """
    commit = query.get("commit", "").strip().lower() or None
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise InvalidFilter(
            f"`commit` is how a commit's id begins: at least {COMMIT_CHARACTERS_MIN} of the digits "
            "0-9 and a-f"
        )
    return BuildFilter(
        repository=_text(query, "repository", REPOSITORY_CHARACTERS_MAX),
        branch=_text(query, "branch", BRANCH_CHARACTERS_MAX),
        outcome=_choice(query, "outcome", OUTCOMES),
        commit=commit,
        author=_text(query, "author", AUTHOR_CHARACTERS_MAX),
        event=_choice(query, "event", EVENTS),
        is_part=is_part,
    )


def _choice(query: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    chosen = query.get(name) or None
    if chosen is not None and chosen not in choices:
        raise InvalidFilter(f"`{name}` is one of {', '.join(choices)}")
    return chosen


def _text(query: Mapping[str, str], name: str, characters_max: int) -> str | None:
    # What a person pastes often has a space at its end; no name of a branch or repository has.
    text = query.get(name, "").strip()
    if len(text) > characters_max:
        raise InvalidFilter(f"`{name}` has at most {characters_max} characters")
    return text or None


def condition_of(before: int | None, only: BuildFilter) -> tuple[str, tuple[str | int, ...]]:
    """The WHERE of a list, or nothing, and its values."""
    terms: list[tuple[str, str | int]] = []
    for column, text in (
        ("repository", only.repository),
        ("branch", only.branch),
        ("author", only.author),
    ):
        if text is not None and only.is_part:
            # LIKE does not tell the cases of ASCII apart
            terms.append((f"{column} LIKE ? ESCAPE '!'", f"%{_escaped(text)}%"))
        elif text is not None:
            terms.append((f"{column} = ?", text))
    if only.commit is not None:
        terms.append(("commit_hex LIKE ?", f"{only.commit}%"))
    if only.event is not None:
        terms.append(("+event = ?", only.event))
    if only.outcome is not None:
        # With a repository or a branch the list is read in the order of that one's index, which
        # has the state too; the plus keeps SQLite from taking the index of the states instead.
        terms.append(("+state = ?" if terms else "state = ?", only.outcome))
    if before is not None:
        terms.append(("number < ?", before))
    if not terms:
        return "", ()
    condition = " AND ".join(term for term, _ in terms)
    return f"WHERE {condition} ", tuple(value for _, value in terms)


def _escaped(text: str) -> str:
    """The text for LIKE, in which it stands for itself."""
    return re.sub(r"([!%_])", r"!\1", text)
