"""ci.flaky: states by table, and the rule that f replicas never make a case flaky."""

import itertools
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.case_reports import case_report
from ci.case_results import CaseOutcome
from ci.flaky import (
    DAY_SECONDS,
    HEALTHY_OBSERVATIONS,
    WINDOW_BUILDS_MAX,
    BuildObservation,
    CaseObservation,
    CaseState,
    SeenBuild,
    comparable,
    observe,
    standings,
    wilson_lower,
)
from ci.operations import CaseReport, NamedCase

CASE = "pytest::test_net::test_reconnect"
OTHERS = tuple(f"pytest::test_other::test_{number}" for number in range(40))
REPLICAS = ("node0", "node1", "node2", "node3")
NOW = 100 * DAY_SECONDS
PASSED, FAILED, WARNED = CaseOutcome.PASSED, CaseOutcome.FAILED, CaseOutcome.WARNED


def report(
    outcomes: Mapping[str, CaseOutcome] | None = None, *, bytes_max: int = 12288
) -> CaseReport:
    """A replica's report of all cases, which passed but for these."""
    return case_report(dict.fromkeys((CASE, *OTHERS), PASSED) | dict(outcomes or {}), bytes_max)


def reports(
    failed: tuple[str, ...] = (),
    warned: tuple[str, ...] = (),
    replicas: tuple[str, ...] = REPLICAS,
    bytes_max: int = 12288,
) -> dict[str, CaseReport]:
    """A build's reports, of these replicas, in which these saw CASE fail or warn."""
    outcomes = dict.fromkeys(replicas, PASSED)
    outcomes |= dict.fromkeys(failed, FAILED) | dict.fromkeys(warned, WARNED)
    return {
        name: report({CASE: outcome}, bytes_max=bytes_max) for name, outcome in outcomes.items()
    }


def seen(
    *failed: str,
    warned: tuple[str, ...] = (),
    commit: int = 0,
    days_ago: float = 1.0,
    branch: str | None = None,
    is_red: bool = False,
    replicas: tuple[str, ...] = REPLICAS,
) -> SeenBuild:
    """A build of four replicas, of which these saw CASE fail."""
    observation = observe(reports(failed, warned, replicas), 1)
    at = NOW - days_ago * DAY_SECONDS
    return SeenBuild(at, f"{commit:040x}", branch, is_red, observation)


def state_of(*builds: SeenBuild) -> CaseState | None:
    """CASE after these builds; None: nothing is known against it."""
    found = standings(builds, 1, NOW).get(CASE)
    return None if found is None else found.state


# --- one build ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bytes_max", [12288, 200], ids=["with lines", "with names alone"])
def test_a_build_says_who_saw_a_case_fail(bytes_max: int) -> None:
    found = observe(reports(("node2",), ("node0",), bytes_max=bytes_max), 1)
    assert found.replicas == REPLICAS
    assert found.cases == {CASE: CaseObservation(("node2",), ("node0",), ("node1", "node3"))}
    (observation,) = found.cases.values()
    assert (observation.reports, observation.differing_count) == (4, 2)
    assert set(observation.differing) == {"node0", "node2"}


def test_equal_reports_cost_no_row() -> None:
    assert observe(reports(), 1).cases == {}


@pytest.mark.parametrize(
    ("failed", "passed", "differing"),
    [(1, 3, {"f0"}), (3, 1, {"p0"}), (2, 2, {"f0", "f1", "p0", "p1"}), (4, 0, set())],
)
def test_the_smaller_side_differs_and_of_a_tie_both(
    failed: int, passed: int, differing: set[str]
) -> None:
    sides = [
        tuple(f"{side}{n}" for n in range(count)) for side, count in (("f", failed), ("p", passed))
    ]
    observation = CaseObservation(sides[0], (), sides[1])
    assert observation.is_disagreement is bool(differing)
    assert set(observation.differing if differing else ()) == differing
    assert observation.differing_count == min(failed, passed)


def test_fewer_than_2f_and_1_reports_say_nothing() -> None:
    """Of two replicas one may lie, and then the honest one is on the smaller side, too."""
    assert observe(reports(("node0",), replicas=("node0", "node3")), 1) == BuildObservation(None)
    assert observe(reports(("node0",), replicas=REPLICAS[:3]), 1).cases[CASE].reports == 3


def test_only_reports_of_the_same_cases_are_compared() -> None:
    found = reports(("node0",))
    found["node1"] = report({"pytest::new": PASSED})
    observation = observe(found, 1)
    assert observation.replicas == ("node0", "node2", "node3")
    found["node2"] = report({"pytest::newer": PASSED})
    assert observe(found, 1).set_sha256 is None
    assert observe({}, 1).set_sha256 is None


def test_two_sets_of_as_many_replicas_are_not_compared() -> None:
    six = tuple(f"node{n}" for n in range(6))
    found = reports(replicas=six)
    found |= {name: report({"pytest::new": PASSED}) for name in six[:3]}
    assert observe(found, 1).set_sha256 is None


def test_a_report_that_is_cut_says_nothing_of_what_it_does_not_name() -> None:
    many = dict.fromkeys(OTHERS, FAILED)
    cut = report(many | {CASE: FAILED}, bytes_max=400)
    assert cut.is_cut
    found = observe(dict.fromkeys(REPLICAS, cut), 1)
    named = {case.id for case in cut.not_passed}
    assert found.cases.keys() == named
    assert found.uncut == ()


def test_a_cut_report_is_on_neither_side_of_what_it_does_not_name() -> None:
    few = dict.fromkeys(OTHERS[:6], FAILED)
    whole, cut = report(few), report(few, bytes_max=200)
    assert cut.is_cut
    unnamed = next(case for case in few if case not in {case.id for case in cut.not_passed})
    found = observe(dict.fromkeys(REPLICAS[:3], whole) | {"node3": cut}, 1)
    assert found.replicas == REPLICAS
    assert found.cases[unnamed] == CaseObservation(REPLICAS[:3], (), ())


@pytest.mark.parametrize(("cases", "is_left_out"), [(4, False), (8, False), (9, True)])
def test_a_replica_that_differs_in_a_fifth_of_all_is_left_out(
    cases: int, is_left_out: bool
) -> None:
    """41 cases: more than 8 of them are more than a fifth."""
    found = reports()
    found["node1"] = report(dict.fromkeys(OTHERS[:cases], FAILED))
    observation = observe(found, 1)
    assert observation.left_out == (("node1",) if is_left_out else ())
    assert len(observation.cases) == (0 if is_left_out else cases)


def test_few_cases_never_are_trouble_of_the_machine() -> None:
    """Of three cases one that differs is a third."""
    few = dict.fromkeys(("a", "b", "c"), PASSED)
    found = {name: case_report(few) for name in REPLICAS}
    found["node0"] = case_report(dict.fromkeys(few, FAILED))
    assert observe(found, 1).left_out == ()
    assert len(observe(found, 1).cases) == 3


def test_a_cut_report_is_left_out_by_its_count() -> None:
    """It names 2 of its 41 failures, and so differs in far more than it names."""
    found = reports(bytes_max=0)
    found["node1"] = report(dict.fromkeys((CASE, *OTHERS), FAILED), bytes_max=100)
    assert found["node1"].is_cut
    assert observe(found, 1).left_out == ("node1",)


def test_what_is_left_with_too_few_replicas_says_nothing() -> None:
    found = {name: report(dict.fromkeys(OTHERS[:20], FAILED)) for name in ("node0", "node1")}
    observation = observe(reports() | found, 1)
    assert (observation.set_sha256, observation.left_out) == (None, REPLICAS)


def test_reports_of_another_commit_or_pipeline_are_not_compared() -> None:
    one, other = ("c1", "p"), ("c2", "p")
    sources = {"node0": one, "node1": other, "node2": one, "node3": other}
    assert comparable(sources) == ("node0", "node2")
    assert comparable(sources, ["node9", "node3"]) == ("node1", "node3")
    assert comparable({**sources, "node4": other}) == ("node1", "node3", "node4")
    assert comparable({}) == ()


# --- states -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("builds", "state"),
    [
        ([seen()], None),
        ([seen("node0")], CaseState.SUSPECT),
        ([seen(warned=("node0",))], CaseState.SUSPECT),
        ([seen("node0", "node1")], CaseState.SUSPECT),
        ([seen("node3", commit=1), seen("node3", commit=2)], CaseState.ONE_MACHINE),
        ([seen("node3"), seen("node3")], CaseState.ONE_MACHINE),
        # it passes on node3 alone
        ([seen(*REPLICAS[:3], commit=n) for n in (1, 2)], CaseState.ONE_MACHINE),
        ([seen(warned=("node3",), commit=n) for n in (1, 2)], CaseState.ONE_MACHINE),
        ([seen("node3", commit=1), seen("node0", commit=2)], CaseState.FLAKY),
        ([seen("node3", commit=1), seen(warned=("node0",), commit=2)], CaseState.FLAKY),
        ([seen("node0", "node1", commit=n) for n in (1, 2)], CaseState.FLAKY),
        # on one commit something else may have changed
        ([seen("node3"), seen("node0")], CaseState.SUSPECT),
        # agreed failures are no disagreement
        ([seen(*REPLICAS)], CaseState.HEALTHY),
        ([seen(*REPLICAS, branch="main")] * 2, CaseState.HEALTHY),
        ([seen(*REPLICAS, branch="main")] * 3, CaseState.BROKEN),
        # f replicas that say otherwise change nothing
        ([seen(*REPLICAS[:3], branch="main", commit=n) for n in range(3)], CaseState.BROKEN),
        ([seen(*REPLICAS[:2], branch="main", commit=n) for n in range(3)], CaseState.FLAKY),
        ([seen(*REPLICAS)] * 3, CaseState.HEALTHY),
        ([*[seen(*REPLICAS, branch="main")] * 3, seen(branch="main")], CaseState.HEALTHY),
        ([*[seen(*REPLICAS, branch="main")] * 3, seen(branch="dev")], CaseState.BROKEN),
    ],
)
def test_states(builds: list[SeenBuild], state: CaseState | None) -> None:
    assert state_of(*builds) == state


def flaky_builds(days_ago: float) -> list[SeenBuild]:
    return [seen(name, commit=n, days_ago=days_ago) for n, name in enumerate(("node0", "node1"))]


@pytest.mark.parametrize(
    ("days_ago", "observations", "state"),
    [
        (13, HEALTHY_OBSERVATIONS, CaseState.FLAKY),
        (15, HEALTHY_OBSERVATIONS - 1, CaseState.FLAKY),
        (15, HEALTHY_OBSERVATIONS, CaseState.HEALTHY),
        (31, 0, None),
    ],
)
def test_a_case_is_healthy_after_14_days_and_50_observations(
    days_ago: float, observations: int, state: CaseState | None
) -> None:
    assert state_of(*flaky_builds(days_ago), *[seen(days_ago=0.5)] * observations) == state


def test_only_the_newest_200_builds_count() -> None:
    builds = [*flaky_builds(1), *[seen(days_ago=0.5)] * (WINDOW_BUILDS_MAX - 1)]
    assert state_of(*builds) == CaseState.SUSPECT
    assert state_of(*builds, seen()) is None


def test_a_standing_says_who_differed_and_how_often() -> None:
    builds = [
        seen(commit=1),
        seen("node3", commit=2, days_ago=0.9, is_red=False),
        seen("node3", "node1", commit=3, days_ago=0.8, is_red=True),
        seen(*REPLICAS, commit=4, days_ago=0.7, is_red=True),
        seen(commit=5, days_ago=0.6),
    ]
    found = standings(builds, 1, NOW)[CASE]
    assert (found.observations, found.disagreements, found.made_red) == (5, 2, 2)
    assert found.differed == (("node3", 2), ("node0", 1), ("node1", 1), ("node2", 1))
    assert found.first_commit == f"{2:040x}"
    assert found.last_at == NOW - 0.7 * DAY_SECONDS
    assert found.score == wilson_lower(1 + 2, 20)


def test_builds_with_other_cases_are_no_observations() -> None:
    other = {name: report({"pytest::new": PASSED}) for name in REPLICAS}
    build = msgspec.structs.replace(seen(), seen=observe(other, 1))
    assert standings([seen("node0"), build, seen()], 1, NOW)[CASE].observations == 2


@pytest.mark.parametrize(
    ("differing", "reports", "low"),
    # by the formula of Wilson (1927), with another program
    [(0, 0, 0.0), (0, 40, 0.0), (1, 1, 0.2065), (10, 100, 0.0552), (50, 100, 0.4038)],
)
def test_wilson(differing: int, reports: int, low: float) -> None:
    assert wilson_lower(differing, reports) == pytest.approx(low, abs=1e-4)


# --- the rule -----------------------------------------------------------------------------------

OUTCOMES = st.sampled_from((PASSED, FAILED, WARNED))


@given(st.data())
def test_f_replicas_never_make_a_case_flaky(data: st.DataObject) -> None:
    """Honest replicas agree with each other in each build; f others say whatever they like."""
    faults_max = data.draw(st.integers(1, 2))
    replicas = [f"node{n}" for n in range(3 * faults_max + 1)]
    liars = set(data.draw(st.permutations(replicas))[:faults_max])
    builds = []
    for number in range(data.draw(st.integers(1, 8))):
        honest = data.draw(st.sampled_from((PASSED, FAILED)))
        present = [r for r in replicas if data.draw(st.integers(0, 5))]
        told = {
            name: report({CASE: data.draw(OUTCOMES) if name in liars else honest})
            for name in present
        }
        observation = observe(told, faults_max)
        builds.append(SeenBuild(NOW - 100 + number, str(number), None, False, observation))
    found = standings(builds, faults_max, NOW).get(CASE)
    assert found is None or found.state is not CaseState.FLAKY
    if found is not None:
        assert {replica for replica, _ in found.differed} <= liars


@given(
    st.lists(st.lists(OUTCOMES, min_size=4, max_size=4), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
)
def test_flaky_is_told_iff_no_f_replicas_explain_it(
    outcomes: list[list[CaseOutcome]], random: object
) -> None:
    """By brute force: one replica explains all if the others never differ nor warn without it."""
    builds = []
    for number, told in enumerate(outcomes):
        found = {name: report({CASE: o}) for name, o in zip(REPLICAS, told, strict=True)}
        builds.append(SeenBuild(NOW - 100 + number, str(number), None, False, observe(found, 1)))

    def is_explained_by(liar: str) -> bool:
        rest = [
            {o for name, o in zip(REPLICAS, told, strict=True) if name != liar} for told in outcomes
        ]
        return all(len(found) == 1 and WARNED not in found for found in rest)

    is_explained = any(is_explained_by(name) for name in REPLICAS)
    disagreements = sum(len(set(told)) > 1 or WARNED in told for told in outcomes)
    standing = standings(builds, 1, NOW).get(CASE)
    is_flaky = standing is not None and standing.state is CaseState.FLAKY
    assert is_flaky is (disagreements >= 2 and not is_explained)


def test_every_pair_of_honest_minorities_is_found() -> None:
    for one, other in itertools.permutations(REPLICAS, 2):
        assert state_of(seen(one, commit=1), seen(other, commit=2)) is CaseState.FLAKY


def test_a_liar_that_names_a_case_which_is_not_there_blames_itself() -> None:
    told = reports(bytes_max=200)
    told["node3"] = msgspec.structs.replace(
        told["node3"], failed=1, passed=40, not_passed=(NamedCase("nowhere", FAILED),)
    )
    builds = [SeenBuild(NOW - 9 + n, str(n), None, False, observe(told, 1)) for n in range(3)]
    found = standings(builds, 1, NOW)["nowhere"]
    assert (found.state, found.differed) == (CaseState.ONE_MACHINE, (("node3", 3),))


def test_a_quarantined_case_has_failed() -> None:
    """One that fails on every replica does not differ from itself."""
    cases = {CASE: WARNED} | dict.fromkeys(OTHERS, PASSED)
    quarantined = dict.fromkeys(REPLICAS, case_report(cases, quarantined={CASE}))
    (found,) = observe(quarantined, 1).cases.values()
    assert (found.failed, found.warned, found.is_disagreement) == (REPLICAS, (), False)
    (found,) = observe(dict.fromkeys(REPLICAS, case_report(cases)), 1).cases.values()
    assert (found.warned, found.is_disagreement) == (REPLICAS, True)
