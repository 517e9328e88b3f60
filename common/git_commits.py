"""Commit objects of git as they travel, and what they say. Pure.

The rule: nobody is believed. The hash of a commit object is the commit's id, and it names its
parents by their ids. So from one id that is agreed on, all that it leads to is proved by the bytes,
whoever sends them (docs/decisions/0048-a-commit-proves-itself.md).
"""

import hashlib
import re
from collections.abc import Iterator

import msgspec

# What a node keeps of a build's history, the newest first.
COMMITS_MAX = 50
COMMITS_BYTES_MAX = 256 * 1024
SUBJECT_CHARACTERS_MAX = 200
NAME_CHARACTERS_MAX = 100
# of one merge; the widest that is known of has 66
PARENTS_MAX = 100
# the last second of the year 9999
SECONDS_MAX = 253_402_300_799

# As `git cat-file --batch` writes it before each object.
_HEADER = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) commit ([0-9]{1,9})\n")
_PARENT = re.compile(rb"^parent ([0-9a-f]{40}(?:[0-9a-f]{24})?)$", re.MULTILINE)
_PERSON = re.compile(
    rb"^(author|committer) ([^\n]*?) ?<[^\n]*> (-?[0-9]{1,15})(?: [+-][0-9]{1,6})?$", re.MULTILINE
)
_INVISIBLE = re.compile(r"[^\S ]+|[\x00-\x1f\x7f]+")


class WrongCommits(ValueError):
    """Bytes that prove nothing of the commit that was asked for; one line why."""


class CommitFacts(msgspec.Struct, frozen=True):
    """What a commit says of itself: its author's words, made safe to show, on one line each.

    authored, committed: seconds since 1970, by the clocks of those who made it.
    """

    id: str
    parents: tuple[str, ...]
    subject: str
    author: str
    authored: int
    committed: int


def read_commits(data: bytes, commit: str) -> list[CommitFacts]:
    """The commits in the output of `git cat-file --batch`, of which the first has to be `commit`,
    and each other one a parent of one before it. Raises WrongCommits.
    """
    found: list[CommitFacts] = []
    expected = {commit}
    for claimed, content in _objects(data):
        if claimed not in expected:
            raise WrongCommits(f"{claimed} is no commit that those before it lead to")
        if commit_id(content, is_sha256=len(claimed) == 64) != claimed:
            raise WrongCommits(f"{claimed} is not the hash of its bytes")
        facts = read_commit(claimed, content)
        if not found:
            expected.clear()
        expected.update(facts.parents)
        found.append(facts)
        if len(found) == COMMITS_MAX:
            break
    if not found:
        raise WrongCommits("there is no commit")
    return found


def commit_id(content: bytes, *, is_sha256: bool) -> str:
    """The id of a commit object with that content."""
    data = b"commit %d\0" % len(content) + content
    # git chose it, not we; what it proves is what the request's commit id proves
    return (hashlib.sha256(data) if is_sha256 else hashlib.sha1(data)).hexdigest()  # noqa: S324


def read_commit(commit: str, content: bytes) -> CommitFacts:
    """What a commit object says; what it does not say, or not as git writes it, is empty or 0."""
    head, _, message = content.partition(b"\n\n")
    people = {match[1]: match for match in _PERSON.finditer(head)}
    author, committer = people.get(b"author"), people.get(b"committer")
    return CommitFacts(
        id=commit,
        parents=tuple(match[1].decode() for match in _PARENT.finditer(head))[:PARENTS_MAX],
        subject=_plain(_first_paragraph(message), SUBJECT_CHARACTERS_MAX),
        author="" if author is None else _plain(author[2], NAME_CHARACTERS_MAX),
        authored=_seconds(author),
        committed=_seconds(committer),
    )


def _objects(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(id as it is claimed, content) of each object. Raises WrongCommits."""
    place = 0
    while place < len(data):
        header = _HEADER.match(data, place)
        if header is None:
            raise WrongCommits("it is not a list of commit objects")
        end = header.end() + int(header[2])
        if data[end : end + 1] != b"\n":
            raise WrongCommits("an object is cut short")
        yield header[1].decode(), data[header.end() : end]
        place = end + 1


def _first_paragraph(message: bytes) -> bytes:
    """As git takes a subject from a message."""
    paragraph, _, _ = message.lstrip(b"\n").partition(b"\n\n")
    # a longer one is cut anyway
    return paragraph[: 8 * SUBJECT_CHARACTERS_MAX]


def _plain(text: bytes, characters_max: int) -> str:
    """On one line, without what cannot be seen or turns the direction of writing."""
    line = _INVISIBLE.sub(" ", text.decode(errors="replace")).strip()
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)
    return shown if len(shown) <= characters_max else shown[: characters_max - 1] + "\u2026"


def _seconds(person: "re.Match[bytes] | None") -> int:
    return 0 if person is None else min(max(0, int(person[3])), SECONDS_MAX)
