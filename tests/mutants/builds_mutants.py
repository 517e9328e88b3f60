"""Mutants of what is replicated: who builds, ballots, verdicts and limits."""

from tests.mutants.mutation_runner import Mutant

_APPLICATION = "ci/application.py"
_BALLOTS = "ci/ballots.py"
_EXECUTORS = "ci/executors.py"
_ROOM = "ci/admission.py"
_VERDICT = "ci/verdict.py"

_APPLICATION_TEST = "tests/ci/test_application.py::"
_APPROVAL_TEST = "tests/ci/test_approval.py::"
_BALLOTS_TEST = "tests/ci/test_ballots.py::"
_DELIVERIES_TEST = "tests/ci/test_deliveries.py::"
_MAY_WAIT_TEST = "tests/ci/test_may_delay.py::"
_ROOM_TEST = "tests/ci/test_admission.py::"
_VERDICT_TEST = "tests/ci/test_verdict.py::"

BUILDS_MUTANTS: tuple[Mutant, ...] = (
    # --- ci/application.py -----------------------------------------------------------------------
    Mutant(
        name="25c a replica votes as often as it likes",
        file=_APPLICATION,
        old="        if replica in build.ballots:\n"
        '            return _refused("this replica has cast its ballot")\n',
        new='        if replica in build.ballots:\n            replica += "+"\n',
        test=_APPLICATION_TEST + "test_a_ballot_is_its_senders_and_a_second_one_is_refused",
    ),
    Mutant(
        name="25f ballots on a build that waits for approval",
        file=_APPLICATION,
        old="        if build is None or build.opened != opened or not build.is_approved:\n",
        new="        if build is None or build.opened != opened:\n",
        test=_APPROVAL_TEST + "test_ballots_and_deadlines_on_a_waiting_build_are_refused",
    ),
    Mutant(
        name="25g a redelivered build opens again",
        file=_APPLICATION,
        old="        if build_id in self._closed or build_id in self._deliveries:\n",
        new="        if build_id in self._closed:\n",
        test=_DELIVERIES_TEST
        + "test_a_redelivery_of_a_decided_build_is_answered_with_its_old_statement",
    ),
    Mutant(
        name="58 any client may cancel any build",
        file=_APPLICATION,
        old="        if not is_operator and remaining.askers == build.askers:\n",
        new="        if False:\n",
        test=_APPLICATION_TEST + "test_a_gateway_cannot_cancel_anothers_build_and_an_operator_can",
    ),
    Mutant(
        name="59 a gateway's word ends a build that others asked for",
        file=_APPLICATION,
        old="        if remaining.askers and not is_operator:\n",
        new="        if False:\n",
        test=_DELIVERIES_TEST + "test_one_gateway_cannot_cancel_what_another_asked_for_too",
    ),
    Mutant(
        name="61 a delivery is given up in the batch that opened it",
        file=_APPLICATION,
        old="        if is_given_up and build.delivery is not None and build.opened == sequence:",
        new="        if False:",
        test=_DELIVERIES_TEST + "test_a_delivery_is_not_withdrawn_in_the_batch_that_opened_it",
    ),
    Mutant(
        name="73 executors are drawn from a replica's own state",
        file=_APPLICATION,
        old="self._cluster, limits, self.ledger_head, build_id=build_id",
        new='self._cluster, limits, b"%d" % id(self), build_id=build_id',
        seeds=(7,),
    ),
    Mutant(
        name="82 what a gap in the ledger may hold is called forgotten",
        file=_APPLICATION,
        old="        if build is None and self._missing_entries():\n",
        new="        if False:\n",
        test=_APPLICATION_TEST + "test_find_deferred_finds_nothing_while_the_ledger_lacks_entries",
    ),
    Mutant(
        name="89 an old verdict is told while a newer one may be missing",
        file=_APPLICATION,
        old="        if build is None and self._missing_entries():\n",
        new="        if build is None and not statement and self._missing_entries():\n",
        test=_DELIVERIES_TEST
        + "test_an_old_verdict_is_not_told_while_the_ledger_may_have_a_newer_one",
    ),
    Mutant(
        name="106 the ballot that settles a build waits for others",
        file=_APPLICATION,
        old="decide(earlier, len(build.reports), self.thresholds_of(build)) is not None",
        new="False",
        test=_MAY_WAIT_TEST + "test_two_red_ballots_settle_a_build",
    ),
    # --- ci/ballots.py ---------------------------------------------------------------------------
    Mutant(
        name="76 the deadline runs while others stand by",
        file=_BALLOTS,
        old="self._assignments.has_everybody_had_time(build, now)",
        new="True",
        test=_BALLOTS_TEST + "test_where_some_stand_by_the_deadline_runs_once_they_had_time",
    ),
    # --- ci/executors.py -------------------------------------------------------------------------
    Mutant(
        name="69 who stands by never begins where ballots differ",
        file=_EXECUTORS,
        old="        return StartReason.DIFFERING\n",
        new="        return None\n",
        seeds=(10,),
    ),
    Mutant(
        name="70 who stands by never begins after an abstention",
        file=_EXECUTORS,
        old="        return StartReason.ABSTENTION\n",
        new="        return None\n",
        seeds=(10,),
    ),
    Mutant(
        name="71 who stands by waits for ever",
        file=_EXECUTORS,
        old="    return StartReason.DELAY if standby_timeout.is_over(age) else None",
        new="    return None",
        seeds=(7,),
    ),
    Mutant(
        name="72 too few executors are drawn",
        file=_EXECUTORS,
        old="    return tuple(order[: quorums.replicas - quorums.faults_max])",
        new="    return tuple(order[: quorums.weak])",
        seeds=(7,),
    ),
    Mutant(
        name="74 an executor that has not begun does not begin",
        file=_EXECUTORS,
        old="        return StartReason.EXECUTOR\n",
        new="        return StartReason.EXECUTOR if age.open_seconds > 2 else None\n",
        seeds=(7,),
    ),
    Mutant(
        name="75 weak agreement spares executors where it is not allowed",
        file=_EXECUTORS,
        old="    is_weak = agreement is Agreement.WEAK and thresholds.is_weak_agreement_allowed\n",
        new="    is_weak = agreement is Agreement.WEAK\n",
        seeds=(310,),
    ),
    Mutant(
        name="75b an executor that is late leaves a decided build to its deadline",
        file=_EXECUTORS,
        old="        return StartReason.EXECUTOR if is_executor else disagreement(build)\n",
        new="        return disagreement(build)\n",
        seeds=(10,),
    ),
    # --- ci/admission.py ----------------------------------------------------------------------
    Mutant(
        name="102 asking for a build that waits counts for nothing",
        file=_ROOM,
        old="    if askings or build.is_approved:\n",
        new="    if True:\n",
        test=_APPROVAL_TEST + "test_asking_for_a_build_that_waits_counts_as_much_as_opening_it",
    ),
    Mutant(
        name="104 an operator approves without end",
        file=_ROOM,
        old="    if len(_undecided(builds)) >= open_max:\n",
        new="    if False:\n",
        test=_ROOM_TEST + "test_no_more_is_approved_than_twice_what_may_be_open",
    ),
    # --- ci/verdict.py ---------------------------------------------------------------------------
    Mutant(
        name="25 f equal ballots decide",
        file=_VERDICT,
        old="        return self.quorums.weak\n",
        new="        return self.quorums.faults_max\n",
        seeds=(5,),
    ),
    Mutant(
        name="25b f+1 equal ballots make green",
        file=_VERDICT,
        old="            return self.quorums.replicas - self.quorums.faults_max\n",
        new="            return self.quorums.weak\n",
        seeds=(2,),
    ),
    Mutant(
        name="25e weak agreement that the genesis does not allow",
        file=_VERDICT,
        old=" and self.is_weak_agreement_allowed\n",
        new="\n",
        test=_VERDICT_TEST + "test_every_sequence_of_mixed_ballots_of_four",
    ),
    Mutant(
        name="57 f+1 reports of the deadline end a build",
        file=_VERDICT,
        old="    return DISPUTED if deadline_reports >= quorums.strong else None",
        new="    return DISPUTED if deadline_reports >= quorums.weak else None",
        seeds=(21,),
    ),
    Mutant(
        name="60 disputed is said while a value is in reach",
        file=_VERDICT,
        old="if not _has_reachable_value(found, thresholds.expected - len(voted), thresholds):",
        new="if len(found) > 1:",
        seeds=(6,),
    ),
)
