"""Mutants of changed limits: who changes them, what is approved, and which builds they are for."""

from tests.mutants.mutation_runner import Mutant

_ADMISSION = "ci/admission.py"
_APPLICATION = "ci/application.py"
_BUILDS = "ci/builds.py"
_CHANGES = "ci/limit_changes.py"
_PROPOSALS = "ci/proposals.py"
_SCHEDULER = "driver/build_scheduler.py"

_TEST = "tests/ci/test_limit_changes.py::"
_SCHEDULER_TEST = "tests/driver/test_build_scheduler.py::"

LIMITS_MUTANTS: tuple[Mutant, ...] = (
    # --- who changes limits -----------------------------------------------------------------------
    Mutant(
        name="L1 approvals are counted by operators",
        file=_PROPOSALS,
        old="        return len(self.approved_seats(proposal)) >= self._cluster.quorums.strong\n",
        new="        return len(proposal.approvals) >= self._cluster.quorums.strong\n",
        test=_TEST + "test_seats_are_counted_once_however_many_operators_stand_for_them",
    ),
    Mutant(
        name="L2 f + 1 seats change limits",
        file=_PROPOSALS,
        old="        return len(self.approved_seats(proposal)) >= self._cluster.quorums.strong\n",
        new="        return len(self.approved_seats(proposal)) >= self._cluster.quorums.weak\n",
        seeds=(8,),
    ),
    Mutant(
        name="L3 who stands for no replica approves",
        file=_PROPOSALS,
        old='            return "this operator stands for no replica"\n'
        "        proposal = self._find(digest, sequence)\n",
        new="            pass\n        proposal = self._find(digest, sequence)\n",
        test=_TEST + "test_who_stands_for_no_replica_has_no_say",
    ),
    Mutant(
        name="L4 anybody withdraws a proposal",
        file=_PROPOSALS,
        old="        if operator not in proposal.approvals:\n",
        new="        if False:\n",
        test=_TEST + "test_an_operator_withdraws_what_is_its_own",
    ),
    Mutant(
        name="L5 a withdrawn approval counts",
        file=_PROPOSALS,
        old="        approvals = tuple(name for name in proposal.approvals if name != operator)\n",
        new="        approvals = proposal.approvals\n",
        test=_TEST + "test_an_operator_withdraws_what_is_its_own",
    ),
    # --- what is approved -------------------------------------------------------------------------
    Mutant(
        name="L6 an older serial is taken",
        file=_CHANGES,
        old="        if operation.serial != self.serial + 1:\n",
        new="        if operation.serial > self.serial + 1:\n",
        seeds=(11,),
    ),
    Mutant(
        name="L7 a serial leaves numbers out",
        file=_CHANGES,
        old="        if operation.serial != self.serial + 1:\n",
        new="        if operation.serial <= self.serial:\n",
        test=_TEST + "test_a_serial_is_the_next_one",
    ),
    Mutant(
        name="L8 approvals count past until",
        file=_PROPOSALS,
        old="== digest and sequence <= proposal.until:\n",
        new="== digest:\n",
        seeds=(82,),
    ),
    Mutant(
        name="L9 a proposal is void at its until",
        file=_PROPOSALS,
        old="== digest and sequence <= proposal.until:\n",
        new="== digest and sequence < proposal.until:\n",
        test=_TEST + "test_the_last_sequence_number_still_counts",
    ),
    Mutant(
        name="L10 an approval names no limits",
        file=_CHANGES,
        old="        fields = (cluster_id, self.proposer, self.serial, self.until, self.limits)\n",
        new="        fields = (cluster_id, self.proposer, self.serial, self.until)\n",
        test=_TEST + "test_an_approval_of_another_digest_counts_for_nothing",
    ),
    Mutant(
        name="L11 an approval is for equal proposals of all",
        file=_CHANGES,
        old="        fields = (cluster_id, self.proposer, self.serial, self.until, self.limits)\n",
        new="        fields = (cluster_id, self.serial, self.until, self.limits)\n",
        test=_TEST + "test_approvals_of_two_equal_proposals_do_not_add_up",
    ),
    Mutant(
        name="L12 a newer proposal inherits approvals",
        file=_CHANGES,
        old="operation.limits, (operator,)\n        )\n",
        new="operation.limits,\n"
        "            getattr(self._pending.get(operator), 'approvals', (operator,))\n        )\n",
        test=_TEST + "test_a_newer_proposal_of_an_operator_replaces_its_own_and_no_other",
    ),
    Mutant(
        name="L13 a change leaves other proposals pending",
        file=_CHANGES,
        old="        self.clear()\n",
        new="        del self._pending[proposal.proposer]\n",
        test=_TEST + "test_a_change_voids_what_was_compared_with_older_limits",
    ),
    Mutant(
        name="L14 limits may make too large a state",
        file=_CHANGES,
        old="        if room_refusal(self._cluster, limits):\n",
        new="        if False:\n",
        test=_TEST + "test_limits_that_make_too_large_a_state_are_refused",
    ),
    Mutant(
        name="L15 limits that are left out get a version's default",
        file="ci/limits.py",
        old="    if encode_limits(limits) != data:\n",
        new="    if False:\n",
        test=_TEST + "test_only_the_one_encoding_of_valid_limits_is_taken",
    ),
    # --- which builds -----------------------------------------------------------------------------
    Mutant(
        name="L16 an open build takes the newest limits",
        file=_APPLICATION,
        old="        return self._read_limits(build.limits)\n",
        new="        return self.limits\n",
        seeds=(8,),
    ),
    Mutant(
        name="L17 a build takes limits of its own batch",
        file=_CHANGES,
        old="        return self._encoded if sequence > self.since else self._before\n",
        new="        return self._encoded\n",
        test=_TEST + "test_builds_of_the_batch_that_changes_limits_have_the_older_ones",
    ),
    Mutant(
        name="L18 the second change of a batch forgets what held before it",
        file=_CHANGES,
        old="        if sequence > self.since:\n            self._before",
        new="        if True:\n            self._before",
        test=_TEST + "test_two_changes_in_one_batch_leave_it_the_limits_from_before_both",
    ),
    Mutant(
        name="L19 agreement is by the limits of the genesis",
        file=_APPLICATION,
        old="is_weak_allowed = self.limits_of(build).weak_agreement_allowed",
        new="is_weak_allowed = self._genesis_limits.weak_agreement_allowed",
        seeds=(82,),
    ),
    Mutant(
        name="L20 executors are drawn by the limits of the genesis",
        file=_APPLICATION,
        old="self._cluster, limits, self.ledger_head, build_id=build_id",
        new="self._cluster, self._genesis_limits, self.ledger_head, build_id=build_id",
        seeds=(70,),
    ),
    Mutant(
        name="L21 a deadline is that of the newest limits",
        file=_SCHEDULER,
        old="lambda build: application.limits_of(build).deadline_seconds",
        new="lambda build: application.limits.deadline_seconds",
        test=_SCHEDULER_TEST
        + "test_each_build_has_the_deadline_and_the_limits_that_it_was_opened_under",
    ),
    Mutant(
        name="L22 a build is run under the newest limits",
        file=_SCHEDULER,
        old="order_of(build, self._application.limits_of(build), is_spare=is_spare)",
        new="order_of(build, self._application.limits, is_spare=is_spare)",
        test=_SCHEDULER_TEST
        + "test_each_build_has_the_deadline_and_the_limits_that_it_was_opened_under",
    ),
    # --- the state --------------------------------------------------------------------------------
    Mutant(
        name="L23 builds of older limits have no cap beside those of now",
        file=_ADMISSION,
        old="    if reason is None and len(builds) >= (most := builds_max(cluster, limits)):\n",
        new="    most = 0\n    if False:\n",
        test=_TEST + "test_limits_that_fit_one_by_one_make_no_too_large_state_together",
    ),
    Mutant(
        name="L24 the state says something where no limits were proposed",
        file=_BUILDS,
        old="    while len(fields) > _FIRST_FIELDS and not fields[-1]:\n",
        new="    while len(fields) > _FIRST_FIELDS + 1 and not fields[-1]:\n",
        test=_TEST + "test_a_state_without_any_proposal_has_the_bytes_that_it_always_had",
    ),
    Mutant(
        name="L25 a restored state forgets what was proposed before the first change",
        file=_CHANGES,
        old="        if not self.serial and not self._pending:\n",
        new="        if not self.serial:\n",
        test=_TEST + "test_what_is_proposed_before_the_first_change_is_restored",
    ),
    Mutant(
        name="L26 a restored replica has the limits of the genesis",
        file=_CHANGES,
        old="        self.serial, self.since, self._encoded = part.serial, part.since,"
        " part.limits\n",
        new="        self.serial, self.since = part.serial, part.since\n",
        test=_TEST + "test_the_whole_state_is_restored",
    ),
)
