"""What people are shown of a build's commit, of who asked, and of what changed. Pure.

The rule: what a commit says is its author's word, proved to be in the commit by its hash. What a
forge says beside it is the forge's word, and shown as that.
"""

import heapq
from collections.abc import Callable
from typing import Annotated

import msgspec

from common.forge_words import ForgeWords
from common.forges.web_pages import WebPages, request_number
from common.git_commits import CommitFacts

# How far back the history is walked from each end, and what of it is shown.
WALKED_MAX = 200
SHOWN_MAX = 20

FindCommit = Callable[[str], CommitFacts | None]


class About(msgspec.Struct, frozen=True):
    """What is known of a build beside its record. pages: of its repository at its forge."""

    commit: CommitFacts | None = None
    words: ForgeWords = ForgeWords()
    pages: WebPages | None = None


class CommitView(msgspec.Struct, frozen=True):
    """A commit, as its author wrote it; its hash proves that it says so."""

    id: str
    subject: str
    author: str
    authored: Annotated[int, msgspec.Meta(description="seconds since 1970, by its author's clock")]
    url: Annotated[str | None, msgspec.Meta(description="its page at the forge")]


class RequestView(msgspec.Struct, frozen=True):
    """A pull or merge request. title: as the forge reported it."""

    number: int
    title: str | None
    url: Annotated[str | None, msgspec.Meta(description="its page at the forge")]


class ChangedCommits(msgspec.Struct, frozen=True):
    """The commits that one commit leads to and another does not, the newest first.

    count: all that are known; shown: the first of them. is_complete: there are no others.
    is_ahead: the older commit is among what the newer one leads to. Else the branch was rewritten,
    or more lies between than is known here.
    """

    shown: tuple[CommitFacts, ...]
    count: int
    is_complete: bool
    is_ahead: bool


def commit_view(facts: CommitFacts, pages: WebPages | None) -> CommitView:
    """One commit."""
    url = None if pages is None else pages.commit(facts.id)
    return CommitView(facts.id, facts.subject, facts.author, facts.authored, url)


def request_view(ref: str | None, about: About) -> RequestView | None:
    """The request that a build is of; None: of none whose number is known."""
    number = request_number(ref) or about.words.request
    if number is None or number < 1:
        return None
    url = None if about.pages is None else about.pages.request(number)
    return RequestView(number, about.words.title, url)


def changed_commits(find: FindCommit, old: str, new: str) -> ChangedCommits:
    """What `new` leads to and `old` does not, as far as these commits are known."""
    of_old = _ancestors(find, old)
    found: list[CommitFacts] = []
    is_complete, is_ahead = True, False
    seen = {new}
    # the newest first, as git lists them
    walked = [(0, new)]
    while walked:
        _, commit = heapq.heappop(walked)
        is_ahead |= commit == old
        if commit in of_old:
            continue
        facts = find(commit)
        if facts is None or len(found) == WALKED_MAX:
            is_complete = False
            continue
        found.append(facts)
        for parent in facts.parents:
            if parent not in seen:
                seen.add(parent)
                above = find(parent)
                heapq.heappush(walked, (-(above.committed if above else 0), parent))
    return ChangedCommits(tuple(found[:SHOWN_MAX]), len(found), is_complete, is_ahead)


def _ancestors(find: FindCommit, commit: str) -> set[str]:
    """The commit and what it leads to, as far as that is looked at."""
    seen = {commit}
    waiting = [commit]
    while waiting and len(seen) < WALKED_MAX:
        facts = find(waiting.pop(0))
        for parent in () if facts is None else facts.parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return seen
