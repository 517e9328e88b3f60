"""Broken rules of epochs: who decides the next members, where an epoch ends, and what goes over."""

from tests.mutants.mutation_runner import Mutant

_CORE = "pbft/core.py"
_EXECUTION = "pbft/execution.py"
_GENESIS = "pbft/genesis.py"
_CHECKPOINT = "pbft/checkpoint.py"
_CHANGES = "ci/member_changes.py"
_APPLICATION = "ci/application.py"
_FOLDER = "node/storage/epoch_folder.py"
_LINK = "pbft/epoch_link.py"
_TRUST = "client/commands/trust.py"
_VERIFIER = "scripts/verify_build.py"
_GOING_OVER = "node/going_over.py"
_BEGIN = "node/begin_state.py"
_EPOCHS = "common/membership/epochs.py"
_SEARCH = "common/membership/link_search.py"
_GATEWAY = "client/going_over.py"
_LISTENER = "common/web/limited_listener.py"
_MEMBER_TLS = "common/tls/member_tls.py"

_TEST = "tests/paper/test_epochs.py::"
_CHANGES_TEST = "tests/ci/test_member_changes.py::"
_LINK_TEST = "tests/paper/test_epoch_link.py::"
_FOLDER_TEST = "tests/node/storage/test_epoch_folder.py::"
_TRUST_TEST = "tests/client/commands/test_trust.py::"
_GOING_OVER_TEST = "tests/node/test_going_over.py::"
_BEGIN_TEST = "tests/node/test_begin_state.py::"
_SUCCESSION_TEST = "tests/node/test_succession.py::"
_GATEWAY_TEST = "tests/client/test_going_over.py::"
_EARLIER_TEST = "tests/common/web/test_earlier_epochs.py::"

EPOCHS_MUTANTS: tuple[Mutant, ...] = (
    # --- where an epoch ends ----------------------------------------------------------------------
    Mutant(
        name="M1 an epoch ends at the next checkpoint",
        file=_EXECUTION,
        old="Ending(core.cluster.checkpoint_from(sequence + core.window), configuration)",
        new="Ending(core.cluster.checkpoint_from(sequence + 1), configuration)",
        test=_TEST + "test_an_epoch_ends_at_the_first_checkpoint_a_window_above_its_change",
    ),
    Mutant(
        name="M2 the window is not held at the end",
        file=_CORE,
        old="        return high if ending is None else min(high, ending.sequence)\n",
        new="        return high\n",
        test=_TEST + "test_nobody_votes_above_the_end_however_much_is_asked",
    ),
    Mutant(
        name="M3 nobody owes null requests up to the end",
        file=_CORE,
        old="            awaited.append(execution.ending.sequence)\n",
        new="            pass\n",
        test=_TEST + "test_an_epoch_ends_at_the_first_checkpoint_a_window_above_its_change",
    ),
    Mutant(
        name="M4 who has ended times its primary",
        file="pbft/timers.py",
        old="    is_needed = core.is_voting and not core.has_ended\n",
        new="    is_needed = core.is_voting\n",
        test=_TEST + "test_what_is_pending_at_the_end_deposes_nobody",
    ),
    Mutant(
        name="M5 requests are taken after the end",
        file="pbft/normal_case.py",
        old='        return Refusal("this epoch has ended: ask in the next one")\n',
        new="        pass\n",
        test=_TEST + "test_who_has_ended_takes_no_request_and_suspects_no_primary",
    ),
    Mutant(
        name="M6 the end is sealed before it is stable",
        file=_CORE,
        old="        return self.has_ended and self.low == self.executed\n",
        new="        return self.has_ended\n",
        test=_TEST + "test_the_end_is_sealed_only_once_it_is_stable",
    ),
    Mutant(
        name="M7 a fetched state of the end does not end the epoch",
        file=_CHECKPOINT,
        old="        execution.ending = Ending(sequence, execution.configuration)\n",
        new="        pass\n",
        test=_TEST + "test_who_was_away_fetches_the_state_of_the_end",
    ),
    # --- the next epoch ---------------------------------------------------------------------------
    Mutant(
        name="M8 an epoch's id names no state",
        file=_GENESIS,
        old="            encoded = msgspec.msgpack.encode((self.configuration, ancestry))\n",
        new="            fields = msgspec.structs.astuple(ancestry)[:-1]\n"
        "            encoded = msgspec.msgpack.encode((self.configuration, fields))\n",
        test=_TEST + "test_an_epoch_has_an_id_of_its_own_that_names_members_end_and_state",
    ),
    Mutant(
        name="M9 an epoch's id names no members",
        file=_GENESIS,
        old="            encoded = msgspec.msgpack.encode((self.configuration, ancestry))\n",
        new="            encoded = msgspec.msgpack.encode(ancestry)\n",
        test=_TEST + "test_an_epoch_has_an_id_of_its_own_that_names_members_end_and_state",
    ),
    Mutant(
        name="M10 the numbers of clients go over",
        file=_EXECUTION,
        old="    core.execution.clients.forget_all()\n",
        new="",
        test=_TEST + "test_the_next_epoch_goes_on_where_the_one_before_ended",
    ),
    Mutant(
        name="M11 recoveries go over",
        file=_CHECKPOINT,
        old="    recoveries = {} if core.has_ended else execution.recoveries\n",
        new="    recoveries = execution.recoveries\n",
        test=_TEST + "test_a_replica_that_recovers_as_the_epoch_ends_votes_in_the_next_one",
    ),
    Mutant(
        name="M12 checkpoints are counted from 0",
        file=_GENESIS,
        old="return (sequence - self.begins_after) % self.genesis.checkpoint_interval",
        new="return sequence % self.genesis.checkpoint_interval",
        test=_TEST + "test_other_intervals_are_counted_from_the_end",
    ),
    Mutant(
        name="M13 a VIEW-CHANGE from below the epoch is taken",
        file="pbft/certificates.py",
        old="    if message.stable < cluster.begins_after:\n",
        new="    if False:\n",
        test=_TEST + "test_a_view_change_from_below_the_epoch_is_refused",
    ),
    Mutant(
        name="M14 any state begins an epoch",
        file=_FOLDER,
        old="    if state_digest(parts) != cluster.ancestry.state:\n",
        new="    if False:\n",
        test=_FOLDER_TEST + "test_only_the_state_that_the_ancestry_names_is_taken",
    ),
    Mutant(
        name="M15 what is missing of the ledger is no gap",
        file=_FOLDER,
        old="        store.note_ledger_position(*ledger_position(parts))\n",
        new="",
        test=_FOLDER_TEST + "test_what_is_not_given_of_the_ledger_is_a_gap",
    ),
    Mutant(
        name="M16 a gateway keeps the numbers of the epoch before",
        file="client/storage/database.py",
        old='        connection.execute("UPDATE counter SET next_timestamp = 1")\n',
        new="",
        test="tests/client/storage/test_outbox.py"
        "::test_a_later_epoch_asks_again_for_what_has_no_answer",
    ),
    # --- who decides ------------------------------------------------------------------------------
    Mutant(
        name="M17 an epoch has several changes",
        file=_CHANGES,
        old="        if self.made is not None:\n",
        new="        if False:\n",
        test=_CHANGES_TEST + "test_an_epoch_has_one_change",
    ),
    Mutant(
        name="M18 a new key need not be ready",
        file=_CHANGES,
        old="            if member.public_key not in present and not is_vacant(member):\n",
        new="            if False:\n",
        test=_CHANGES_TEST + "test_a_ready_counts_for_its_key_its_epoch_and_its_configuration",
    ),
    Mutant(
        name="M19 any signature makes a replica ready",
        file=_CHANGES,
        old="        elif not verify(member.public_key, message, signature):\n",
        new="        elif False:\n",
        test=_CHANGES_TEST + "test_a_ready_counts_for_its_key_its_epoch_and_its_configuration",
    ),
    Mutant(
        name="M20 a ready counts in each epoch",
        file=_CHANGES,
        old="    return READY_PREFIX + cluster_id + configuration\n",
        new="    return READY_PREFIX + configuration\n",
        test=_CHANGES_TEST + "test_a_ready_counts_for_its_key_its_epoch_and_its_configuration",
    ),
    Mutant(
        name="M21 any number of seats is vacant",
        file=_CHANGES,
        old="    if vacant > following.quorums.faults_max:\n",
        new="    if False:\n",
        test=_CHANGES_TEST + "test_a_seat_may_be_vacant_and_no_more_than_f",
    ),
    Mutant(
        name="M22 a change of members changes limits",
        file=_CHANGES,
        old="    if following.genesis.application != cluster.genesis.application:\n",
        new="    if False:\n",
        test=_CHANGES_TEST + "test_what_cannot_follow",
    ),
    Mutant(
        name="M23 an approval is of any epoch",
        file=_CHANGES,
        old="        fields = (cluster_id, self.proposer, self.until, self.configuration)\n",
        new="        fields = (self.proposer, self.until, self.configuration)\n",
        test=_CHANGES_TEST + "test_an_approval_is_of_one_proposal_in_one_epoch",
    ),
    Mutant(
        name="M24 a superseded build is remembered as closed",
        file=_APPLICATION,
        old="            del self._builds[build.id]\n            self._notes.forget(build.id)\n",
        new="            self._close(build)\n",
        test=_CHANGES_TEST
        + "test_undecided_builds_end_without_a_verdict_and_can_be_asked_for_again",
    ),
    Mutant(
        name="M25 a verdict of another instance is believed",
        file="ci/statement.py",
        old="    if is_present and verdict.instance != cluster.id.hex():\n",
        new="    if False:\n",
        test=_CHANGES_TEST + "test_statements_name_their_epoch_and_are_believed_for_ever",
    ),
    Mutant(
        name="M26 a verdict of a later epoch is believed",
        file="ci/statement.py",
        old="    if verdict.epoch > cluster.epoch:\n",
        new="    if False:\n",
        test=_CHANGES_TEST + "test_statements_name_their_epoch_and_are_believed_for_ever",
    ),
    # --- what leads to the next epoch -------------------------------------------------------------
    Mutant(
        name="M27 a link leads to whatever configuration it bears",
        file=_LINK,
        old="    if leaves.get(CONFIGURATION_PART) != digest_of(named.configuration):\n",
        new="    if False:\n",
        test=_LINK_TEST + "test_a_forged_link_leads_nowhere",
    ),
    Mutant(
        name="M28 a checkpoint within an epoch is its end",
        file=_LINK,
        old='    if leaves.get(EPOCH_PART) != digest_of((cluster.epoch + 1).to_bytes(8, "big")):\n',
        new="    if False:\n",
        test=_LINK_TEST + "test_a_checkpoint_within_an_epoch_is_no_end_of_it",
    ),
    Mutant(
        name="M29 the parts of a link's state are not those that were signed",
        file=_LINK,
        old="    if leaves_digest(link.leaves) != state:\n",
        new="    if False:\n",
        test=_LINK_TEST + "test_a_forged_link_leads_nowhere",
    ),
    # --- who follows ------------------------------------------------------------------------------
    Mutant(
        name="M30 one of two links of an epoch is followed",
        file=_TRUST,
        old="    if len(proved) > 1:\n",
        new="    if False:\n",
        test=_TRUST_TEST + "test_two_links_of_one_epoch_are_shown_and_neither_is_followed",
    ),
    Mutant(
        name="M31 f replicas say that nothing follows",
        file=_TRUST,
        old="    if answered < answers_needed:\n",
        new="    if False:\n",
        test=_TRUST_TEST + "test_f_answers_renew_nothing",
    ),
    Mutant(
        name="M32 a trust file of any age is renewed",
        file=_TRUST,
        old="    if before.confirmed is not None and"
        " (today - before.confirmed).days > options.trust_days:\n",
        new="    if False:\n",
        test=_TRUST_TEST + "test_a_file_that_is_too_old_is_not_renewed_unattended",
    ),
    Mutant(
        name="M33 a removed key signs verdicts of later epochs",
        file=_VERIFIER,
        old='    if epoch > signed_in["epoch"]:\n',
        new="    if False:\n",
        test=_TRUST_TEST
        + "test_old_and_new_envelopes_verify_and_a_removed_key_signs_nothing_later",
    ),
    Mutant(
        name="M34 a removed key signs supplements to later verdicts",
        file=_VERIFIER,
        old='        if epoch["epoch"] < since:\n',
        new="        if False:\n",
        test=_TRUST_TEST + "test_a_removed_key_signs_no_supplement_to_a_later_verdict",
    ),
    Mutant(
        name="M35 a trust file of any age is believed",
        file=_VERIFIER,
        old="    if days > days_max:\n",
        new="    if False:\n",
        test=_TRUST_TEST + "test_a_file_ages_by_its_date",
    ),
    Mutant(
        name="M36 a trust file of any root is believed",
        file=_VERIFIER,
        old='    if wanted is not None and trust["root"] != wanted.lower():\n',
        new="    if False:\n",
        test=_TRUST_TEST + "test_the_root_must_be_the_one_that_is_asked_for",
    ),
    Mutant(
        name="M37 who lacks a link says that nothing follows",
        file=_TRUST,
        old="    elif lacking >= answers_needed:\n",
        new="    elif False:\n",
        test=_TRUST_TEST + "test_replicas_that_lack_a_link_do_not_say_that_nothing_follows",
    ),
    # --- the protocol -----------------------------------------------------------------------------
    Mutant(
        name="M80 a change raises the protocol by any number",
        file=_CHANGES,
        old="    if following.genesis.protocol not in (protocol, protocol + 1):\n",
        new="    if following.genesis.protocol < protocol:\n",
        test=_CHANGES_TEST + "test_a_change_raises_the_protocol_by_one_at_most",
    ),
    Mutant(
        name="M81 a change lowers the protocol",
        file=_CHANGES,
        old="    if following.genesis.protocol not in (protocol, protocol + 1):\n",
        new="    if following.genesis.protocol > protocol + 1:\n",
        test=_CHANGES_TEST
        + "test_a_change_lowers_no_protocol_and_goes_beyond_what_this_release_speaks",
    ),
    Mutant(
        name="M82 a link to an unknown protocol is followed",
        file="pbft/epoch_link.py",
        old="        check_protocol(named.genesis)\n",
        new="",
        test="tests/paper/test_epoch_link.py"
        "::test_a_link_to_a_protocol_of_a_later_release_is_refused_in_words",
    ),
    Mutant(
        name="M83 a vacant seat is drawn as an executor",
        file="ci/executors.py",
        old="sorted(cluster.expected_names, key=drawn)",
        new="sorted(cluster.replica_names, key=drawn)",
        test="tests/ci/test_executors.py::test_a_vacant_seat_is_no_executor_from_protocol_2_on",
    ),
    Mutant(
        name="M85 a vacant seat is a primary",
        file=_GENESIS,
        old="        return self._primaries[view % len(self._primaries)]\n",
        new="        return view % self.quorums.replicas\n",
        test=_TEST + "test_from_protocol_2_on_views_pass_over_a_vacant_seat",
    ),
    Mutant(
        name="M84 a build waits for the ballot of a vacant seat",
        file=_APPLICATION,
        old="Thresholds(quorums, is_weak_allowed, vacant)",
        new="Thresholds(quorums, is_weak_allowed)",
        test="tests/ci/test_executors.py::test_no_ballot_is_waited_for_from_a_vacant_seat",
    ),
    # --- going over ------------------------------------------------------------------------------
    Mutant(
        name="M60 a replica leaves its epoch alone",
        file=_GOING_OVER,
        old="    if len(have_end) < before.quorums.strong and not is_awaited:\n",
        new="    if False:\n",
        test=_GOING_OVER_TEST
        + "test_a_replica_leaves_once_strong_have_the_end_and_the_rest_had_its_time",
    ),
    Mutant(
        name="M61 nobody waits for those that lack the end",
        file=_GOING_OVER,
        old="len(before.expected_names) or waited_seconds >= LAGGARD_SECONDS\n",
        new="len(before.expected_names) or True\n",
        test=_GOING_OVER_TEST
        + "test_a_replica_leaves_once_strong_have_the_end_and_the_rest_had_its_time",
    ),
    Mutant(
        name="M62 strangers of the next epoch count in the one before",
        file=_GOING_OVER,
        old="(sealed | begun) & set(before.replica_names)\n",
        new="sealed | begun\n",
        test=_GOING_OVER_TEST + "test_a_next_epoch_that_only_waits_for_this_replica_is_enough",
    ),
    Mutant(
        name="M64 a replica leaves without ledger entries that nobody else may have",
        file=_GOING_OVER,
        old="    return missing == 0 or are_there or waited_seconds >= LEDGER_SECONDS\n",
        new="    return True\n",
        test=_GOING_OVER_TEST
        + "test_a_replica_fetches_the_ledger_entries_that_it_lacks_before_it_leaves",
    ),
    Mutant(
        name="M63 a later epoch counts without its link",
        file=_EPOCHS,
        old="    if later.id != cluster.id:\n",
        new="    if False:\n",
        test=_SUCCESSION_TEST + "test_a_later_epoch_counts_by_its_link_alone",
    ),
    # --- gateways follow --------------------------------------------------------------------------
    Mutant(
        name="M70 a gateway goes over to whatever members the link names",
        file=_EPOCHS,
        old="    if found.configuration != configuration:\n",
        new="    if False:\n",
        test=_GATEWAY_TEST + "test_a_link_is_followed_to_the_members_of_the_operators_file_alone",
    ),
    Mutant(
        name="M71 a gateway follows the first of two links",
        file=_SEARCH,
        old="        if len(proved) > 1:\n",
        new="        if False:\n",
        test=_GATEWAY_TEST + "test_two_links_are_both_left_alone",
    ),
    Mutant(
        name="M72 a gateway goes over to an epoch that it is no client of",
        file=_GATEWAY,
        old="    return cluster.public_key(name) is not None and"
        " cluster.replica_index(name) is None\n",
        new="    return True\n",
        test=_GATEWAY_TEST + "test_a_gateway_that_leaves_stays_and_says_so",
    ),
    Mutant(
        name="M73 a gateway goes over without its key",
        file=_GATEWAY,
        old="    key = read_seat_key(config, cluster)\n",
        new="    key = SigningKey(bytes(32))\n",
        test=_GATEWAY_TEST + "test_a_gateway_that_lacks_its_new_key_waits_for_it",
    ),
    Mutant(
        name="M74 a gateway looks for replicas where they were",
        file=_SEARCH,
        old="moved.get(name, self._peers[name])",
        new="self._peers[name]",
        test=_GATEWAY_TEST + "test_a_replica_that_moves_is_asked_where_the_next_file_has_it",
    ),
    Mutant(
        name="M75 members of an earlier epoch are served all",
        file=_LISTENER,
        old="        runner = self._earlier_runner if is_earlier else self._runner\n",
        new="        runner = self._runner\n",
        test=_EARLIER_TEST + "test_each_epochs_members_are_served_what_is_theirs",
    ),
    Mutant(
        name="M76 a member of an earlier epoch counts as one of this",
        file=_MEMBER_TLS,
        old="return Channel(earlier.leaf.digest, peer, epoch)",
        new="return Channel(earlier.leaf.digest, peer)",
        test=_EARLIER_TEST + "test_each_epochs_members_are_served_what_is_theirs",
    ),
    # --- who was away follows ---------------------------------------------------------------------
    Mutant(
        name="M90 who was away leaves members of its epoch that could give it the end",
        file=_GOING_OVER,
        old="    return linked == 0 or waited_seconds >= LAGGARD_SECONDS\n",
        new="    return True\n",
        test=_GOING_OVER_TEST
        + "test_a_replica_that_was_away_follows_a_link_once_nobody_gives_it_the_end",
    ),
    Mutant(
        name="M91 who recovers votes at once in the epoch that it follows to",
        file=_GOING_OVER,
        old="has_forgotten=core.is_recovering,",
        new="has_forgotten=False,",
        test=_GOING_OVER_TEST + "test_who_recovers_recovers_in_the_next_epoch_too",
    ),
    Mutant(
        name="M92 a removed member is given later states",
        file="node/web/begin_state_routes.py",
        old="channel.earlier_epoch not in (None, epoch)",
        new="False",
        test="tests/node/web/test_begin_state_routes.py"
        "::test_a_member_of_an_earlier_epoch_gets_the_state_of_that_one_alone",
    ),
    Mutant(
        name="M93 who gave another state is asked as before",
        file=_BEGIN,
        old="        self._wrong.add(name)\n",
        new="        pass\n",
        test=_BEGIN_TEST + "test_who_gave_another_state_is_not_asked_before_the_others",
    ),
    Mutant(
        name="M94 a state is read without end",
        file=_BEGIN,
        old="length=FETCHED_BYTES_MAX,",
        new="length=2**62,",
        test=_BEGIN_TEST + "test_who_gives_too_much_or_too_slowly_is_left",
    ),
    Mutant(
        name="M95 an epoch that was passed over has no ledger once it is begun",
        file=_FOLDER,
        old="    forget_if_passed(folder)\n",
        new="",
        test=_GOING_OVER_TEST + "test_an_epoch_that_was_to_be_passed_over_can_be_begun",
    ),
    Mutant(
        name="M96 a replica that lost its disk votes at once in a later epoch",
        file=_BEGIN,
        old="any(map(recovery_files.is_begun, places))",
        new="False",
        test=_BEGIN_TEST + "test_a_new_replica_begins_with_the_state_that_its_cluster_file_names",
    ),
    Mutant(
        name="M97 who recovers in a later epoch lacks no ledger",
        file="node/opening.py",
        old="            runtime.store.note_ledger_position(*ledger_position(begin))\n",
        new="            pass\n",
        test=_SUCCESSION_TEST
        + "test_a_replica_that_recovers_in_a_later_epoch_fetches_the_ledger_before_it",
    ),
    Mutant(
        name="M98 an epoch that was passed over counts without its link",
        file=_EPOCHS,
        old="    for folder in folders:\n",
        new="    for folder in folders[-1:]:\n",
        test=_GOING_OVER_TEST + "test_who_was_away_for_two_changes_passes_over_the_epoch_between",
    ),
    Mutant(
        name="M99 the next member is asked as long as the one before",
        file=_BEGIN,
        old="min(SECONDS_MIN * 2**rounds, SECONDS_MAX)",
        new="SECONDS_MIN",
        test=_BEGIN_TEST + "test_each_is_asked_in_turn_and_gets_more_time_once_all_had_theirs",
    ),
)
