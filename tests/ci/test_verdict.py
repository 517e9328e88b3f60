"""The verdict rule: thresholds, order, disputes, and its invariants over random ballots."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.operations import Agreement, Ballot, BuildResult, Outcome
from ci.verdict import DISPUTED, Thresholds, Verdict, decide, is_contradicted
from pbft.quorums import Quorums, quorums_for
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    FAILED_2,
    PASSED,
    TIMED_OUT,
    artifact,
    finding,
    reported,
)

WEAK_PASSED = finding(agreement=Agreement.WEAK)
OTHER_PASSED = finding(image_digest="sha256:" + "1" * 64)
BALLOTS: list[Ballot] = [PASSED, OTHER_PASSED, FAILED, FAILED_2, TIMED_OUT, ABSTAIN]
SIZES = [1, 2, 3, 4, 7, 10]


def ordered(*ballots: Ballot) -> list[tuple[str, Ballot]]:
    return [(f"replica-{index}", ballot) for index, ballot in enumerate(ballots)]


def outcome_of(ballots: list[tuple[str, Ballot]], replicas: int = 4) -> Outcome | None:
    verdict = decide(ballots, 0, Thresholds(quorums_for(replicas)))
    return verdict.outcome if verdict else None


@pytest.mark.parametrize("replicas", SIZES)
def test_green_and_any_other_quorum_together_need_more_ballots_than_there_are(
    replicas: int,
) -> None:
    quorums = quorums_for(replicas)
    thresholds = Thresholds(quorums, is_weak_agreement_allowed=True)
    green = thresholds.equal_ballots(PASSED.compared)
    assert green == replicas - quorums.faults_max
    for other in (FAILED, FAILED_2, TIMED_OUT, WEAK_PASSED):
        assert green + thresholds.equal_ballots(other.compared) > replicas


@pytest.mark.parametrize("ballots", sorted(set(itertools.permutations("ppff"))))
def test_trap_21_a_two_two_split_is_never_passed_in_any_order(ballots: tuple[str, ...]) -> None:
    cast = ordered(*(PASSED if ballot == "p" else FAILED for ballot in ballots))
    verdicts = [outcome_of(cast[:length]) for length in range(5)]
    assert Outcome.PASSED not in verdicts
    assert verdicts[-1] is Outcome.FAILED


@pytest.mark.parametrize("ballots", sorted(set(itertools.permutations([0, 0, 1, 2]))))
def test_two_greens_against_two_different_values_are_disputed_in_any_order(
    ballots: tuple[int, ...],
) -> None:
    cast = ordered(*([PASSED, FAILED, TIMED_OUT][which] for which in ballots))
    assert outcome_of(cast[:3]) in (None, Outcome.DISPUTED)
    assert outcome_of(cast) is Outcome.DISPUTED


def test_passed_needs_three_of_four_and_failed_two() -> None:
    assert outcome_of(ordered(PASSED, PASSED)) is None
    verdict = decide(ordered(PASSED, PASSED, FAILED, PASSED), 0, Thresholds(quorums_for(4)))
    agreeing = ("replica-0", "replica-1", "replica-3")
    assert verdict == Verdict(Outcome.PASSED, PASSED.compared, agreeing, 3)
    verdict = decide(ordered(PASSED, FAILED, FAILED), 0, Thresholds(quorums_for(4)))
    assert verdict == Verdict(Outcome.FAILED, FAILED.compared, ("replica-1", "replica-2"), 2)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_without_faults_green_needs_all_and_one_other_ballot_is_enough(replicas: int) -> None:
    greens: list[Ballot] = [PASSED] * replicas
    assert outcome_of(ordered(*greens), replicas) is Outcome.PASSED
    assert outcome_of(ordered(*greens[1:]), replicas) is None
    assert outcome_of(ordered(*greens[1:], FAILED), replicas) is Outcome.FAILED
    # An abstention keeps green from its n, and nothing else can be found by nobody.
    assert outcome_of(ordered(*greens[1:], ABSTAIN), replicas) is Outcome.DISPUTED


def test_values_count_together_only_when_equal_as_a_whole() -> None:
    assert outcome_of(ordered(PASSED, PASSED, OTHER_PASSED)) is None
    assert outcome_of(ordered(PASSED, PASSED, OTHER_PASSED, OTHER_PASSED)) is Outcome.DISPUTED
    assert outcome_of(ordered(FAILED, FAILED_2)) is None


def test_artifacts_and_agreement_are_compared() -> None:
    one, other = (finding(artifacts=(artifact("a", content),)) for content in (b"1", b"2"))
    assert outcome_of(ordered(one, one, other)) is None
    assert outcome_of(ordered(one, one, other, one)) is Outcome.PASSED
    assert outcome_of(ordered(PASSED, PASSED, WEAK_PASSED, one)) is Outcome.DISPUTED


def test_a_case_that_n_minus_f_saw_pass_makes_nothing_green() -> None:
    """Why cases have no quorum. A saw X fail, B saw Y fail: 3 of 4 passed each case, yet only C and
    D saw green, and one of those may lie."""
    a = reported(FAILED, {"X": "failed", "Y": "passed"})
    b = reported(FAILED_2, {"X": "passed", "Y": "failed"})
    green = reported(PASSED, {"X": "passed", "Y": "passed"})
    for ballots in itertools.permutations((a, b, green, green)):
        assert outcome_of(ordered(*ballots)) is Outcome.DISPUTED
        assert Outcome.PASSED not in [outcome_of(ordered(*ballots)[:n]) for n in range(5)]
    equal = reported(FAILED, {"X": "passed", "Y": "failed"})
    for ballots in itertools.permutations((a, equal, green, green)):
        assert outcome_of(ordered(*ballots)) is Outcome.FAILED


def test_a_flaky_case_changes_no_verdict() -> None:
    reports = [{"X": "passed"}, {"X": "failed"}, {"X": "warned", "Y": "passed"}]
    cast = ordered(*(reported(PASSED, cases) for cases in reports))
    bare = ordered(PASSED, PASSED, PASSED)
    thresholds = Thresholds(quorums_for(4))
    assert decide(cast, 0, thresholds) == decide(bare, 0, thresholds)


# Two greens of default agreement, two of weak, two reds, and no value.
MIXED: dict[str, Ballot] = {
    "P": PASSED,
    "p": OTHER_PASSED,
    "W": WEAK_PASSED,
    "w": finding(agreement=Agreement.WEAK, artifacts=(artifact("a"),)),
    "F": FAILED,
    "f": finding(Outcome.FAILED, 1, agreement=Agreement.WEAK),
    "-": ABSTAIN,
}


def expected_of(letters: str, is_weak_allowed: bool) -> str | None:
    """The letter that wins, `?` for a dispute, None while open: the rule in other words."""
    for length in range(1, len(letters) + 1):
        cast = letters[:length]
        needed = {letter: 3 if letter in "Pp" else 2 for letter in "PpWwFf"}
        if not is_weak_allowed:
            needed |= {"W": 3, "w": 3}
        won = [letter for letter in needed if cast.count(letter) >= needed[letter]]
        assert len(won) <= 1, "one ballot more gives one value its threshold"
        if won:
            return won[0]
        missing = 4 - length
        if missing < 2 and all(cast.count(x) + missing < needed[x] for x in set(cast) - {"-"}):
            return "?"
    return None


@pytest.mark.parametrize("is_weak_allowed", [False, True])
def test_every_sequence_of_mixed_ballots_of_four(is_weak_allowed: bool) -> None:
    thresholds = Thresholds(quorums_for(4), is_weak_allowed)
    decided = Counter[str]()
    for letters in map("".join, itertools.product(MIXED, repeat=4)):
        verdict = decide(ordered(*(MIXED[letter] for letter in letters)), 0, thresholds)
        expected = expected_of(letters, is_weak_allowed)
        assert verdict is not None
        assert expected is not None
        decided[expected] += 1
        if expected == "?":
            assert verdict == DISPUTED, letters
            continue
        winner = MIXED[expected]
        assert isinstance(winner, BuildResult)
        assert verdict.compared == winner.compared, letters
        assert len(verdict.agreeing) == verdict.threshold
        if expected in "Pp" or (expected in "Ww" and not is_weak_allowed):
            # the whole of what default agreement promises: no other quorum, in no order
            rest = letters.replace(expected, "")
            assert all(rest.count(other) < 2 for other in rest), letters
    assert set(decided) == {"?", *"PpWwFf"}


@pytest.mark.parametrize("order", sorted(set(itertools.permutations("WWFF"))))
def test_with_weak_agreement_the_order_decides_between_two_values(order: tuple[str, ...]) -> None:
    thresholds = Thresholds(quorums_for(4), is_weak_agreement_allowed=True)
    verdict = decide(ordered(*(MIXED[letter] for letter in order)), 0, thresholds)
    assert verdict is not None
    first = "W" if "".join(order).rindex("W") < "".join(order).rindex("F") else "F"
    assert verdict.compared == getattr(MIXED[first], "compared", None)
    assert len(verdict.agreeing) == 2


@pytest.mark.parametrize("replicas", SIZES)
def test_liars_alone_reach_no_threshold_however_weak(replicas: int) -> None:
    quorums = quorums_for(replicas)
    thresholds = Thresholds(quorums, is_weak_agreement_allowed=True)
    for ballot in MIXED.values():
        liars: list[Ballot] = [ballot] * quorums.faults_max
        assert decide(ordered(*liars), 0, thresholds) is None


def test_evidence_is_not_compared() -> None:
    cast = ordered(*(finding(log=f"log of replica {index}") for index in range(3)))
    assert outcome_of(cast) is Outcome.PASSED


def test_only_the_first_ballot_of_a_replica_counts() -> None:
    cast: list[tuple[str, Ballot]] = [("a", PASSED), ("a", FAILED), ("a", FAILED), ("b", FAILED)]
    assert decide(cast, 0, Thresholds(quorums_for(4))) is None
    verdict = decide([*cast, ("c", FAILED)], 0, Thresholds(quorums_for(4)))
    assert verdict is not None
    assert verdict.agreeing == ("b", "c")


def test_an_abstention_is_a_ballot_without_a_value() -> None:
    # Two abstentions leave two ballots: too few for green, enough for a value not named yet.
    assert outcome_of(ordered(ABSTAIN, ABSTAIN)) is None
    assert outcome_of(ordered(ABSTAIN, ABSTAIN, PASSED)) is Outcome.DISPUTED
    assert outcome_of(ordered(ABSTAIN, ABSTAIN, FAILED)) is None
    assert outcome_of(ordered(ABSTAIN, ABSTAIN, ABSTAIN)) is Outcome.DISPUTED


@pytest.mark.parametrize("replicas", SIZES)
def test_strong_deadline_reports_dispute_an_undecided_build(replicas: int) -> None:
    quorums = quorums_for(replicas)
    assert decide([], quorums.strong - 1, Thresholds(quorums)) is None
    assert decide([], quorums.strong, Thresholds(quorums)) == DISPUTED


def test_a_verdict_by_ballots_goes_before_deadline_reports() -> None:
    verdict = decide(ordered(FAILED, FAILED), 4, Thresholds(quorums_for(4)))
    assert verdict is not None
    assert verdict.outcome is Outcome.FAILED


@st.composite
def ballot_sequences(draw: st.DrawFn) -> tuple[Quorums, list[tuple[str, Ballot]]]:
    replicas = draw(st.sampled_from([1, 2, 3, 4, 7]))
    ballots = draw(st.lists(st.sampled_from(BALLOTS), min_size=replicas, max_size=replicas))
    order = draw(st.permutations([f"replica-{index}" for index in range(replicas)]))
    return quorums_for(replicas), list(zip(order, ballots, strict=True))


@given(ballot_sequences())
def test_the_verdict_is_one_and_backed_and_disputes_are_hopeless(
    drawn: tuple[Quorums, list[tuple[str, Ballot]]],
) -> None:
    quorums, ballots = drawn
    first: Verdict | None = None
    for length in range(len(ballots) + 1):
        verdict = decide(ballots[:length], 0, Thresholds(quorums))
        if first is not None:
            assert verdict == first
            continue
        counts = Counter(
            ballot.compared for _, ballot in ballots[:length] if isinstance(ballot, BuildResult)
        )
        missing = quorums.replicas - length
        reachable = missing >= quorums.weak or any(
            count + missing >= _needed(value.outcome, quorums) for value, count in counts.items()
        )
        won = [v for v, count in counts.items() if count >= _needed(v.outcome, quorums)]
        assert len(won) <= 1
        if verdict is None:
            assert not won
            assert reachable
        elif verdict.outcome is Outcome.DISPUTED:
            assert not won
            assert not reachable
        else:
            assert [verdict.compared] == won
            assert len(verdict.agreeing) == verdict.threshold
            found = [dict(ballots)[name] for name in verdict.agreeing]
            assert all(isinstance(b, BuildResult) and b.compared == verdict.compared for b in found)
        first = verdict
    assert first is not None, "all ballots are in"


@given(ballot_sequences())
def test_green_has_no_second_quorum_among_all_ballots(
    drawn: tuple[Quorums, list[tuple[str, Ballot]]],
) -> None:
    quorums, ballots = drawn
    verdict = decide(ballots, 0, Thresholds(quorums))
    assert verdict is not None
    if verdict.outcome is Outcome.PASSED:
        counts = Counter(b.compared for _, b in ballots if isinstance(b, BuildResult))
        assert verdict.compared is not None
        assert counts.pop(verdict.compared) >= quorums.replicas - quorums.faults_max
        assert all(count < quorums.weak for count in counts.values())


@given(
    ballot_sequences(),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(BALLOTS)), max_size=10),
)
def test_repeated_ballots_change_nothing(
    drawn: tuple[Quorums, list[tuple[str, Ballot]]], repeats: list[tuple[int, Ballot]]
) -> None:
    quorums, ballots = drawn
    repeated = list(ballots)
    for position, ballot in repeats:
        after = position % len(ballots)
        name = ballots[after][0]
        place = max(index for index, (other, _) in enumerate(repeated) if other == name)
        repeated.insert(place + 1, (name, ballot))
    assert decide(repeated, 0, Thresholds(quorums)) == decide(ballots, 0, Thresholds(quorums))


def _needed(outcome: Outcome, quorums: Quorums) -> int:
    faults_max = (quorums.replicas - 1) // 3
    return quorums.replicas - faults_max if outcome is Outcome.PASSED else faults_max + 1


@pytest.mark.parametrize(
    ("ballots", "is_expected"),
    [
        ((PASSED, PASSED), True),
        ((PASSED,), False),
        # two replicas that agree with each other, with nobody else, or with this one
        ((PASSED, FAILED_2), False),
        ((FAILED, FAILED), False),
        ((PASSED, FAILED, PASSED), True),
        # f liars and this replica's own ballot make no f + 1
        ((PASSED, ABSTAIN, ABSTAIN), False),
        ((), False),
    ],
)
def test_f_plus_one_others_contradict_a_finding(
    ballots: tuple[Ballot, ...], is_expected: bool
) -> None:
    cast = ordered(*ballots)
    quorums = quorums_for(4)
    assert is_contradicted(cast, FAILED.compared, "own", quorums=quorums) is is_expected
    # its own ballot is none of the others'
    if is_expected:
        assert not is_contradicted(cast[:1], FAILED.compared, "own", quorums=quorums)
        own = [*cast[:1], ("own", PASSED)]
        assert not is_contradicted(own, FAILED.compared, "own", quorums=quorums)


@pytest.mark.parametrize("place", range(4))
def test_a_claim_of_other_bytes_takes_f_plus_one_to_be_the_verdict(place: int) -> None:
    """One mirror that lies, or one replica that says so, is a dissent. Two of four are red."""
    claim = finding(Outcome.DEPENDENCIES_UNAVAILABLE, None)
    ballots = [PASSED] * 3
    ballots.insert(place, claim)
    assert outcome_of(ordered(*ballots)) is Outcome.PASSED
    ballots[3 - place] = claim
    assert outcome_of(ordered(*ballots)) is Outcome.DEPENDENCIES_UNAVAILABLE
    assert outcome_of(ordered(claim, FAILED, FAILED)) is Outcome.FAILED
