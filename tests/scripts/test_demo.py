"""The demo's table, what it says about dissent, and when it is content."""

import io
from collections.abc import Mapping

import pytest

from node.faults.misbehaviours import DESCRIPTIONS, KINDS
from scripts import demo
from scripts.configuration import read_configuration
from scripts.demo import (
    EXPECTED,
    Progress,
    Watched,
    branches_for,
    duration,
    is_as_expected,
    remarks,
    say_where,
    started_time,
    table,
    watch,
)
from scripts.demo_faults import MEANS, what_the_others_saw
from scripts.folders import EXAMPLE_CONFIG
from scripts.gateway import BuildView, Found, Gateway, GatewayFailed

NODES = ["node0", "node1", "node2", "node3"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def found(text: str, commit: str | None = COMMIT) -> Found:
    """`passed 0` or `abstains`."""
    outcome, _, code = text.partition(" ")
    return Found(outcome, int(code) if code else None, commit)


def view(verdict: str | None, *dissenting: str, **ballots: str) -> BuildView:
    """A build with these ballots."""
    return BuildView(
        status="decided" if verdict else "building",
        commit=COMMIT,
        ballots={replica: found(text) for replica, text in ballots.items()},
        verdict=found(verdict) if verdict else None,
        dissenting=frozenset(dissenting),
    )


def all_of(text: str) -> dict[str, str]:
    """The same ballot by everybody."""
    return dict.fromkeys(NODES, text)


def watched(branch: str, seen: BuildView | None) -> Watched:
    """A branch that was posted at 10 s and decided at 12.5 s."""
    return Watched(branch, f"id of {branch}", 10.0, seen, 12.5 if seen and seen.verdict else None)


def good() -> list[Watched]:
    """All four branches as they should be."""
    return [
        watched(branch, view(f"{outcome} {code}", **all_of(f"{outcome} {code}")))
        for branch, (outcome, code) in EXPECTED.items()
    ]


class ScriptedGateway(Gateway):
    """Gives each build's views one after the other, then the last again and again."""

    def __init__(self, views: Mapping[str, list[BuildView]]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._views = {build: list(items) for build, items in views.items()}

    def build(self, build: str) -> BuildView:
        items = self._views[build]
        return items.pop(0) if len(items) > 1 else items[0]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.001)


def test_the_expected_verdicts_are_those_of_the_readme() -> None:
    assert dict(EXPECTED) == {
        "master": ("passed", 0),
        "feature": ("failed", 7),
        "dockerfile": ("passed", 0),
        "no-such-branch": ("checkout_failed", 128),
    }
    assert branches_for("docker") == list(EXPECTED)
    assert branches_for("process") == ["master", "feature", "no-such-branch"]


def test_the_demo_is_content_only_if_every_verdict_is_right() -> None:
    assert is_as_expected(good())
    for index in range(len(EXPECTED)):
        for wrong in ("passed 1", "disputed", "timed_out"):
            items = good()
            items[index].view = view(wrong)
            assert not is_as_expected(items)
        items = good()
        items[index].view = view(None)
        assert not is_as_expected(items)
        items[index].view = None
        assert not is_as_expected(items)


def test_the_table_marks_the_dissenter_and_names_it() -> None:
    items = [
        watched("master", view("passed 0", "node3", **{**all_of("passed 0"), "node3": "failed 1"})),
        watched("feature", view("failed 7", node0="failed 7", node1="abstains", node2="failed 7")),
        watched("dockerfile", None),
    ]
    lines = table(items, NODES).splitlines()
    assert lines[0].split() == ["branch", "commit", *NODES, "verdict", "time"]
    assert " ".join(lines[2].split()) == (
        "master 0123456789 passed 0 passed 0 passed 0 ! failed 1 passed 0 2.5 s"
    )
    assert " ".join(lines[3].split()) == (
        "feature 0123456789 failed 7 abstains failed 7 - failed 7 2.5 s"
    )
    assert lines[4].split() == ["dockerfile", "-", "-", "-", "-", "-", "none", "-"]
    # The columns stand under their names.
    assert lines[2].index("! failed 1") == lines[0].index("node3")
    assert remarks(items, NODES) == [
        "node1 could not build: feature; see its log",
        "node3 dissents from the verdict: master (failed 1)",
        "node3 has said nothing: feature",
    ]


def test_nothing_is_remarked_where_all_agree() -> None:
    assert remarks(good(), NODES) == []


def test_watching_ends_when_all_have_said_what_they_found(
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = [Watched("master", "m", 0.0), Watched("feature", "f", 0.0)]
    gateway = ScriptedGateway(
        {
            "m": [view(None), view(None, node0="passed 0"), view("passed 0", **all_of("passed 0"))],
            "f": [view("failed 7", node0="failed 7"), view("failed 7", **all_of("failed 7"))],
        }
    )
    watch(gateway, items, 4, silent=frozenset(), began=0.0)
    assert [item.view and len(item.view.ballots) for item in items] == [4, 4]
    assert all(item.decided is not None for item in items)
    shown = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        "master: building  feature: failed 7",
        "master: building 1/4  feature: failed 7",
        "master: passed 0  feature: failed 7",
    ]


def test_nobody_waits_for_a_silent_node(monkeypatch: pytest.MonkeyPatch) -> None:
    three = dict.fromkeys(NODES[:3], "passed 0")
    items = [Watched("master", "m", 0.0)]
    monkeypatch.setattr(demo, "LATE_SECONDS_MAX", 1000.0)
    gateway = ScriptedGateway({"m": [view("passed 0", **three)]})
    watch(gateway, items, 4, silent=frozenset({"node3"}), began=0.0)
    assert items[0].decided is not None


def test_late_ballots_are_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LATE_SECONDS_MAX", 0.05)
    items = [Watched("master", "m", 0.0)]
    watch(ScriptedGateway({"m": [view("passed 0")]}), items, 4, silent=frozenset(), began=0.0)
    assert items[0].decided is not None


def test_a_missing_verdict_and_a_refusal_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "VERDICTS_SECONDS_MAX", 0.05)
    undecided = ScriptedGateway({"m": [view(None)]})
    with pytest.raises(GatewayFailed, match=r"no verdict within 0\.05 s"):
        watch(undecided, [Watched("master", "m", 0.0)], 4, silent=frozenset(), began=0.0)
    refused = ScriptedGateway({"m": [BuildView("refused", None, {}, None, frozenset())]})
    with pytest.raises(GatewayFailed, match="master: the network refuses"):
        watch(refused, [Watched("master", "m", 0.0)], 4, silent=frozenset(), began=0.0)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def status(**changed: object) -> dict[str, object]:
    """A node's status, as far as it is looked at."""
    return {
        "byzantine_nodes": [],
        "dissenting_nodes": [],
        "counters": {"refused": 7},
        "sequence": 9,
        "peers": {"node3": {"last_heard_seconds": None}},
        **changed,
    }


def test_the_commands_that_are_printed_need_no_other_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A fresh Debian has no `python`, and the packages are in .venv alone."""
    say_where(read_configuration(EXAMPLE_CONFIG))
    text = capsys.readouterr().out + "".join(MEANS.values())
    assert text.count("python -m client") == text.count(".venv/bin/python -m client") == 2
    assert "curl" not in text


def test_every_fault_is_explained_and_so_is_what_the_others_saw() -> None:
    assert list(KINDS) == list(MEANS)
    seen = {
        "node0": status(),
        "node1": status(byzantine_nodes=["node3"], counters={"refused": 8, "new_view": 2}),
        "node2": None,
        "node3": status(),
    }
    assert what_the_others_saw("equivocating", "node3", seen) == [
        f"node3 is equivocating: {DESCRIPTIONS['equivocating']}. What the others saw of that:",
        "  node0: was told one story, so it holds no proof against node3, refused 7 messages,"
        " executed up to number 9",
        "  node1: holds proof against node3: two messages that contradict each other,"
        " refused 8 messages, changed the view 2 times, executed up to number 9",
        MEANS["equivocating"],
    ]
    lines = what_the_others_saw("lying", "node3", {"node0": status(dissenting_nodes=["node3"])})
    assert lines[1] == "  node0: counts node3 as dissenting, executed up to number 9"
    lines = what_the_others_saw("silent", "node3", {"node0": status()})
    assert lines[1] == "  node0: never heard from node3, executed up to number 9"
    peers = {"node3": {"last_heard_seconds": 4.2}}
    lines = what_the_others_saw("silent", "node3", {"node0": status(peers=peers)})
    assert "heard node3 4 s ago" in lines[1]


def test_a_terminal_gets_one_line_that_is_redrawn() -> None:
    stream = Terminal()
    progress = Progress(stream, 0.0)
    progress.show("one")
    progress.show("two")
    progress.end()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 2
    assert stream.getvalue().endswith("two\x1b[K\n")


def test_a_file_gets_a_line_for_each_change() -> None:
    stream = io.StringIO()
    progress = Progress(stream, 0.0)
    for text in ("one", "one", "two", "two"):
        progress.show(text)
    progress.end()
    assert [line.partition(" s  ")[2] for line in stream.getvalue().splitlines()] == ["one", "two"]


def test_durations_in_words() -> None:
    assert duration(-0.1) == "0.0 s"
    assert duration(9.96) == "10.0 s"
    assert duration(63.7) == "1 min 03 s"


def test_the_start_is_when_the_shell_script_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    for text, expected in (("990", 40.0), ("", 50.0), ("x", 50.0), ("2000", 50.0)):
        monkeypatch.setenv(demo.STARTED_VARIABLE, text)
        assert started_time() == expected
