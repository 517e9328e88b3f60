"""Each scenario shows what its two sentences say."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from common.diagram.message_diagram import draw
from simulator.lab.scenarios import SCENARIOS, Scenario, find
from simulator.lab.scripted_cluster import ScriptedCluster, Transit
from simulator.lab.show import diagram_of, page, verdict_of
from simulator.main import main

PROOF = ["proof", "against"]
NAMES = [scenario.name for scenario in SCENARIOS]


def played(name: str) -> ScriptedCluster:
    scenario = find(name)
    assert scenario is not None
    return scenario.run()


def events(scripted: ScriptedCluster, event: str) -> list[str]:
    return [entry.lane for entry in scripted.log if entry.event == event]


def sent(scripted: ScriptedCluster, kind: str) -> list[Transit]:
    return [transit for transit in scripted.transits if transit.kind == kind]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_each_agrees_unless_it_is_about_forks_and_is_the_same_again(scenario: Scenario) -> None:
    first: list[str] = []
    second: list[str] = []
    scripted = scenario.run(first.append)
    scenario.run(second.append)
    assert first == second
    assert verdict_of(scripted) == ("forked" if scenario.may_fork else "agreed")
    assert len(re.findall(r"\.(?: |$)", scenario.look)) == 2, "two sentences on what to look at"
    if not scenario.may_fork:
        states = {scripted.journal_of(n) for n in scripted.correct if scripted.processes[n].is_up}
        assert len(states) == 1


def test_normal_case_needs_no_timer_and_no_view_change() -> None:
    scripted = played("normal-case")
    assert scripted.answers == ["1: appended"]
    assert sent(scripted, "ViewChange") == []
    assert sorted(events(scripted, "executed")) == list(scripted.names)


def test_primary_crash_is_over_after_one_view_change() -> None:
    scripted = played("primary-crash")
    assert {scripted.core(name).view for name in scripted.names} == {1}
    assert scripted.answers == ["1: appended"]
    assert scripted.executed["r0"] == scripted.executed["r1"], "the one that came back followed"


def test_partition_decides_nothing_until_it_is_healed() -> None:
    scripted = played("partition")
    healed = next(t.at for t in scripted.log if "whole again" in str(t.details.get("text")))
    assert all(entry.at > healed for entry in scripted.log if entry.event == "executed")
    assert all(len(scripted.executed[name]) == 1 for name in scripted.names)


def test_equivocation_is_proved_by_who_heard_both() -> None:
    scripted = played("equivocation")
    assert scripted.evidence["r1"] == {"r0"}
    assert events(scripted, "equivocation") == ["r1"]
    assert sorted(scripted.answers) == ["1: appended", "2: appended"]


def test_slow_primary_is_deposed_only_when_it_is_too_slow() -> None:
    scripted = played("slow-primary")
    second = next(t.at for t in scripted.log if "longer than the timeout" in str(t.details))
    changes = [entry.at for entry in scripted.log if entry.event == "view_change"]
    assert changes
    assert min(changes) > second


def test_lost_prepared_value_comes_again_in_the_next_view() -> None:
    scripted = played("lost-prepared-value")
    digests = {entry.details["digest"] for entry in scripted.log if entry.event == "pre_prepared"}
    assert len(digests) == 1
    assert {scripted.core(name).view for name in ("r1", "r2", "r3")} == {1}
    assert scripted.answers == ["1: appended"]


def test_stale_replay_changes_nothing() -> None:
    scripted = played("stale-replay")
    assert [sorted(scripted.executed[name]) for name in scripted.names] == [[1, 2]] * 4
    assert scripted.journal_of("r2")[0] == 2


def test_state_transfer_brings_the_late_one_level() -> None:
    scripted = played("state-transfer")
    assert events(scripted, "state_transferred") == ["r3"]
    assert sent(scripted, "StateParts")
    assert scripted.core("r3").executed == scripted.core("r0").executed
    assert min(scripted.executed["r3"]) > 1, "what it did not execute itself came as state"


def test_two_of_seven_are_counted_for_nothing() -> None:
    scripted = played("two-of-seven")
    assert scripted.answers == ["1: appended"]
    assert sent(scripted, "ViewChange") == []


def test_too_many_faulty_fork_and_stop() -> None:
    scripted = played("too-many-faulty")
    assert scripted.forks() == [1]
    assert scripted.journal_of("r2") != scripted.journal_of("r3")
    assert {scripted.core(name).status.value for name in scripted.correct} == {"view_change"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_each_page_is_whole_and_needs_nothing_from_elsewhere(scenario: Scenario) -> None:
    trace: list[str] = []
    scripted = scenario.run(trace.append)
    text = page(scenario, scripted, trace)
    assert "default-src 'none'" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text.replace("https://forge.example", "")
    picture = text[text.index("<svg") : text.index("</svg>") + 6]
    ElementTree.fromstring(picture)
    assert diagram_of(scenario.title, scripted).arrows


def test_the_commands_list_show_and_draw(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == NAMES
    assert "The client believes" in " ".join(lines)
    assert max(len(line) for line in lines) <= 100
    assert main(["show", "normal-case"]) == 0
    short = capsys.readouterr().out.splitlines()
    assert short[-1] == "agreed"
    assert short[-6].split() == ["replica", "status", "view", "executed", "journal", *PROOF]
    assert not any(": Status " in line for line in short)
    assert not any(re.search("[0-9a-f]{32}", line) for line in short)
    assert main(["show", "normal-case", "--all"]) == 0
    assert any(": Status " in line for line in capsys.readouterr().out.splitlines())
    file = tmp_path / "page.html"
    assert main(["show", "normal-case", "--html", str(file)]) == 0
    assert file.read_text().startswith("<!doctype html>")
    assert main(["show", "nothing"]) == 2
    assert "normal-case" in capsys.readouterr().out
    assert main(["show", "normal-case", "--html", str(tmp_path)]) == 2


def test_a_fork_is_seen_in_the_picture() -> None:
    scenario = find("too-many-faulty")
    assert scenario is not None
    scripted = scenario.run()
    forks = [mark for mark in diagram_of(scenario.title, scripted).marks if mark.kind == "fork"]
    assert {mark.lane for mark in forks} == {"r2", "r3"}
    assert len({mark.text for mark in forks}) == 2
    assert not any(mark.lane in ("r0", "r1") for mark in diagram_of(scenario.title, scripted).marks)


def test_what_an_attacker_says_and_what_is_folded_are_told_apart() -> None:
    scenario = find("stale-replay")
    assert scenario is not None
    arrows = diagram_of(scenario.title, scenario.run()).arrows
    assert {arrow.target for arrow in arrows if arrow.is_forged} == {"r2"}
    away = find("state-transfer")
    assert away is not None
    diagram = diagram_of(away.title, away.run())
    (fold,) = diagram.folds
    inside = [arrow for arrow in diagram.arrows if fold.began <= arrow.sent < fold.ended]
    assert len(inside) > len(diagram.arrows) / 2
    assert draw(diagram).count("<g><title>") < len(diagram.arrows)
