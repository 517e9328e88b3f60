"""client.views.commit_view: what changed between two commits, as far as commits are known."""

from client.views.commit_view import (
    SHOWN_MAX,
    WALKED_MAX,
    About,
    changed_commits,
    commit_view,
    request_view,
)
from common.forge_words import ForgeWords, forge_words
from common.forges.web_pages import WebPages
from common.git_commits import CommitFacts

PAGES = WebPages("gitea", "https://h.example/o/r")


def facts(name: str, *parents: str, at: int = 0) -> CommitFacts:
    return CommitFacts(name, parents, f"subject of {name}", "Ada", at, at)


def history(*commits: CommitFacts) -> dict[str, CommitFacts]:
    return {commit.id: commit for commit in commits}


def names(found: tuple[CommitFacts, ...]) -> list[str]:
    return [commit.id for commit in found]


def test_the_commits_of_a_line_the_newest_first() -> None:
    known = history(*(facts(str(n), *((str(n - 1),) if n else ()), at=n) for n in range(6)))
    found = changed_commits(known.get, "2", "5")
    assert names(found.shown) == ["5", "4", "3"]
    assert (found.count, found.is_complete, found.is_ahead) == (3, True, True)
    nothing = changed_commits(known.get, "5", "5")
    assert (nothing.count, nothing.is_complete, nothing.is_ahead) == (0, True, True)


def test_what_the_older_one_leads_to_by_another_way_is_not_new() -> None:
    """A merge of a side that left the line before the older commit."""
    known = history(
        *(facts("root"), facts("left", "root", at=1), facts("old", "left", at=2)),
        *(facts("side", "left", at=3), facts("new", "old", "side", at=4)),
    )
    found = changed_commits(known.get, "old", "new")
    assert names(found.shown) == ["new", "side"]
    assert found.is_complete
    assert found.is_ahead


def test_a_rewritten_branch_does_not_lead_to_the_older_one() -> None:
    known = history(facts("root"), facts("old", "root", at=1), facts("new", "root", at=2))
    found = changed_commits(known.get, "old", "new")
    assert names(found.shown) == ["new"]
    assert found.is_complete
    assert not found.is_ahead


def test_what_is_not_known_is_said() -> None:
    known = history(facts("new", "between", at=9), facts("old"))
    found = changed_commits(known.get, "old", "new")
    assert names(found.shown) == ["new"]
    assert not found.is_complete
    assert not found.is_ahead
    unknown = changed_commits(known.get, "old", "nobody's")
    assert (unknown.count, unknown.is_complete) == (0, False)


def test_a_long_history_is_walked_to_a_bound() -> None:
    known = history(*(facts(str(n), str(n - 1), at=n) for n in range(3 * WALKED_MAX)))
    found = changed_commits(known.get, "0", str(3 * WALKED_MAX - 1))
    assert found.count == WALKED_MAX
    assert len(found.shown) == SHOWN_MAX
    assert not found.is_complete


def test_parents_that_lead_in_a_circle_end() -> None:
    """No hash can do that; a damaged table could."""
    known = history(facts("a", "b"), facts("b", "a"))
    assert changed_commits(known.get, "none", "a").count == 2


def test_a_commit_has_its_page_where_there_is_a_forge() -> None:
    commit = facts("c" * 40)
    assert commit_view(commit, PAGES).url == f"https://h.example/o/r/commit/{'c' * 40}"
    assert commit_view(commit, None).url is None


def test_a_request_has_the_number_of_its_ref_or_of_the_forges_word() -> None:
    said = About(words=ForgeWords("ada", 9, "Fix it"), pages=PAGES)
    found = request_view("refs/pull/7/head", said)
    assert found is not None
    assert (found.number, found.url) == (7, "https://h.example/o/r/pulls/7")
    found = request_view("refs/heads/fix", said)
    assert found is not None
    assert (found.number, found.title) == (9, "Fix it")
    assert request_view("refs/heads/fix", About()) is None
    assert request_view(None, About(words=ForgeWords(request=-1))) is None


def test_a_forges_words_are_short_and_plain() -> None:
    words = forge_words(" ada\x1b[31m ", 3, "x" * 500 + "\u202e")
    assert words.sender == "ada\\x1b[31m"
    assert words.title is not None
    assert len(words.title) == 200
    assert forge_words("  ", None, "") == ForgeWords()
