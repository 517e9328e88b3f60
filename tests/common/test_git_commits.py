"""common.git_commits: a commit is what its hash says, whoever sends it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.git_commits import (
    COMMITS_MAX,
    NAME_CHARACTERS_MAX,
    PARENTS_MAX,
    SECONDS_MAX,
    SUBJECT_CHARACTERS_MAX,
    WrongCommits,
    commit_id,
    read_commit,
    read_commits,
)

HEAD = b"tree %s\nauthor A <a@x> 1700000000 +0100\ncommitter C <c@x> 1700000060 +0000\n"


def content(message: bytes = b"\nsubject\n", *, parents: tuple[str, ...] = ()) -> bytes:
    """A commit object's content."""
    named = b"".join(b"parent %s\n" % parent.encode() for parent in parents)
    tree, _, people = (HEAD % (b"0" * 40)).partition(b"\n")
    return tree + b"\n" + named + people + message


def packed(*contents: bytes) -> bytes:
    """As `git cat-file --batch` writes them."""
    return b"".join(
        b"%s commit %d\n%s\n" % (commit_id(data, is_sha256=False).encode(), len(data), data)
        for data in contents
    )


def chain(length: int) -> list[bytes]:
    """Commits of which each is the parent of the one before it."""
    made: list[bytes] = [content()]
    while len(made) < length:
        parent = commit_id(made[0], is_sha256=False)
        made.insert(0, content(b"\nnumber %d\n" % len(made), parents=(parent,)))
    return made


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_git_says_the_same(tmp_path: Path, kind: str) -> None:
    """Real objects of git, of both kinds of hash."""

    def git(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run(
            ["git", "-c", "user.name=Ada L\u00f6w", "-c", "user.email=a@x", *arguments],
            cwd=tmp_path,
            input=data,
            capture_output=True,
            check=True,
        ).stdout

    git("init", "-q", f"--object-format={kind}", ".")
    for subject in ("first", "second\nline\n\nbody"):
        git("commit", "-q", "--allow-empty", "-m", subject)
    listed = git("rev-list", "HEAD")
    found = read_commits(git("cat-file", "--batch", data=listed), listed.split()[0].decode())
    assert [facts.id for facts in found] == listed.decode().split()
    assert found[0].parents == (found[1].id,)
    assert [facts.subject for facts in found] == ["second line", "first"]
    assert found[0].author == "Ada L\u00f6w"
    assert found[0].committed == int(git("log", "-1", "--format=%ct"))


def test_only_what_the_commit_leads_to_is_taken() -> None:
    commits = chain(4)
    ids = [commit_id(data, is_sha256=False) for data in commits]
    assert [facts.id for facts in read_commits(packed(*commits), ids[0])] == ids
    for wrong in (packed(*commits[1:]), packed(commits[0], commits[2])):
        with pytest.raises(WrongCommits, match="no commit that those before it lead to"):
            read_commits(wrong, ids[0])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data.replace(b"number 1", b"number 7"), "not the hash of its bytes"),
        (lambda data: data[:-2], "cut short"),
        (lambda data: data + b"more", "not a list of commit objects"),
        (lambda data: data.replace(b" commit ", b" blob "), "not a list of commit objects"),
        (lambda data: b"", "no commit"),
    ],
)
def test_bytes_that_were_changed_prove_nothing(spoil: Callable[[bytes], bytes], why: str) -> None:
    commits = chain(3)
    with pytest.raises(WrongCommits, match=why):
        read_commits(spoil(packed(*commits)), commit_id(commits[0], is_sha256=False))


def test_more_than_is_kept_is_not_read() -> None:
    commits = chain(COMMITS_MAX + 5)
    found = read_commits(packed(*commits), commit_id(commits[0], is_sha256=False))
    assert len(found) == COMMITS_MAX


@pytest.mark.parametrize(
    ("message", "subject"),
    [
        (b"\n\n\n  one\ntwo\n\nthree\n", "one two"),
        (b"\n\x1b[31mred\x07\xff\n", "[31mred \N{REPLACEMENT CHARACTER}"),
        ("\nabc\u202edef\u2028g\n".encode(), "abc\N{REPLACEMENT CHARACTER}def g"),
        (b"\n" + b"x" * 10_000, "x" * (SUBJECT_CHARACTERS_MAX - 1) + "\u2026"),
        (b"", ""),
    ],
)
def test_a_subject_is_one_safe_line(message: bytes, subject: str) -> None:
    assert read_commit("0" * 40, content(message)).subject == subject


def test_what_a_commit_does_not_say_is_empty() -> None:
    facts = read_commit("0" * 40, b"tree x\nauthor\ncommitter <> nonsense\n\n")
    assert (facts.author, facts.authored, facts.committed, facts.parents) == ("", 0, 0, ())


def test_names_and_times_are_bounded() -> None:
    person = b"author %s <x> 99999999999999 +0000\n" % ("\u00e9" * 5000).encode()
    facts = read_commit("0" * 40, person + b"parent %s\n" % (b"a" * 40) * 200 + b"\n")
    assert facts.authored == SECONDS_MAX
    assert len(facts.author) == NAME_CHARACTERS_MAX
    assert len(facts.parents) == PARENTS_MAX
