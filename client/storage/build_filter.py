"""Which builds a list shows: of one repository, of one branch, that came to one outcome. Pure."""

from collections.abc import Mapping

import msgspec

from ci.operations import Outcome

REPOSITORY_CHARACTERS_MAX = 1024
BRANCH_CHARACTERS_MAX = 255
# What a build without a verdict is listed as: its status (client.views.build_view.BuildStatus).
STATUSES = ("queued", "building", "refused")
# With a verdict: its outcome. Cancelled and skipped are either, before or after the network was
# asked.
OUTCOMES: tuple[str, ...] = (*Outcome, *STATUSES)


class InvalidFilter(ValueError):
    """A filter that cannot be; the text says which part and what it may be."""


class BuildFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: any. outcome: one of OUTCOMES."""

    repository: str | None = None
    branch: str | None = None
    outcome: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """What is asked for, by the names that an address has for it."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value}


ALL = BuildFilter()


def read_filter(query: Mapping[str, str]) -> BuildFilter:
    """The filter in an address. A form sends what is not filled in as an empty value: any.

    Raises InvalidFilter.
    """
    outcome = query.get("outcome") or None
    if outcome is not None and outcome not in OUTCOMES:
        raise InvalidFilter(f"`outcome` is one of {', '.join(OUTCOMES)}")
    return BuildFilter(
        repository=_text(query, "repository", REPOSITORY_CHARACTERS_MAX),
        branch=_text(query, "branch", BRANCH_CHARACTERS_MAX),
        outcome=outcome,
    )


def _text(query: Mapping[str, str], name: str, characters_max: int) -> str | None:
    # What a person pastes often has a space at its end; no name of a branch or repository has.
    text = query.get(name, "").strip()
    if len(text) > characters_max:
        raise InvalidFilter(f"`{name}` has at most {characters_max} characters")
    return text or None


def condition_of(before: int | None, only: BuildFilter) -> tuple[str, tuple[str | int, ...]]:
    """The WHERE of a list, or nothing, and its values."""
    terms: list[tuple[str, str | int]] = []
    if only.repository is not None:
        terms.append(("repository = ?", only.repository))
    if only.branch is not None:
        terms.append(("branch = ?", only.branch))
    if only.outcome is not None:
        # With a repository or a branch the list is read in the order of that one's index, which
        # has the state too; the plus keeps SQLite from taking the index of the states instead.
        terms.append(("+state = ?" if terms else "state = ?", only.outcome))
    if before is not None:
        terms.append(("number < ?", before))
    if not terms:
        return "", ()
    text = " AND ".join(term for term, _ in terms)
    return f"WHERE {text} ", tuple(value for _, value in terms)
