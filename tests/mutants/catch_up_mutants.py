"""Mutants of what is sent again, and of how one turn of a replica goes on."""

from tests.mutants.mutation_runner import Mutant

_CATCH_UP = "pbft/catch_up.py"
_REPLICA = "pbft/replica.py"

_EDGES_OF_RECOVERY_TEST = "tests/paper/test_edges_of_recovery.py::"
_EDGES_OF_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_EDGES_OF_VIEW_CHANGES_TEST = "tests/paper/test_edges_of_view_changes.py::"
_RECOVERY_TEST = "tests/paper/test_recovery.py::"
_4_2_KEPT_REQUESTS_TEST = "tests/paper/test_section_4_2_kept_requests.py::"
_4_4_NEW_VIEWS_TEST = "tests/paper/test_section_4_4_new_views.py::"
_STATE_TRANSFER_TEST = "tests/paper/test_state_transfer.py::"
_TRAPS_OF_VIEW_CHANGES_TEST = "tests/paper/test_traps_of_view_changes.py::"
_BOUNDS_TEST = "tests/pbft/test_bounds.py::"
_CATCH_UP_TEST = "tests/pbft/test_catch_up.py::"
_FORGOTTEN_WORDS_TEST = "tests/pbft/test_forgotten_words.py::"
_NOBODY_WAITS_FOR_EVER_TEST = "tests/pbft/test_nobody_waits_for_ever.py::"

CATCH_UP_MUTANTS: tuple[Mutant, ...] = (
    # --- pbft/catch_up.py -------------------------------------------------------------------------
    Mutant(
        name="34b the VIEW-CHANGE is not sent again",
        file=_CATCH_UP,
        old="        core.send(to, core.views.changes[core.index].signed)\n",
        new="        pass\n",
        test=_TRAPS_OF_VIEW_CHANGES_TEST
        + "test_trap_16_view_changes_that_some_links_lost_come_again_without_traffic",
    ),
    Mutant(
        name="36 the stable certificate is not sent again",
        file=_CATCH_UP,
        old="        words = [*core.checkpoints.stable.checkpoints, *own]\n",
        new="        words = own\n",
        seeds=(9,),
    ),
    Mutant(
        name="36b of the stable certificate one's own CHECKPOINT alone is sent again",
        file=_CATCH_UP,
        old="        words = [*core.checkpoints.stable.checkpoints, *own]\n",
        new="        mine = core.cluster.replica_names[core.index]\n"
        "        stable = core.checkpoints.stable\n"
        "        words = [c for c in stable.checkpoints if c.signer == mine] + own\n",
        test=_TRAPS_OF_VIEW_CHANGES_TEST
        + "test_a_certificate_that_is_sent_again_lets_a_replica_move_that_lost_the_checkpoints",
    ),
    Mutant(
        name="64 decided slots are not sent again",
        file=_CATCH_UP,
        old="            size += _send_decided(core, to, slot)\n",
        new="            pass\n",
        seeds=(9,),
    ),
    Mutant(
        name="65 the NEW-VIEW is not sent again",
        file=_CATCH_UP,
        old="            core.send(to, core.views.new_view)\n",
        new="",
        test=_4_4_NEW_VIEWS_TEST
        + "test_o_above_the_window_of_a_late_primary_stands_once_it_has_caught_up",
    ),
    Mutant(
        name="79d a certificate is sent with its receiver's own word in front",
        file=_CATCH_UP,
        old="sorted(words, key=lambda signed: signed.signer == to)",
        new="sorted(words, key=lambda signed: signed.signer != to)",
        test=_FORGOTTEN_WORDS_TEST
        + "test_a_certificate_is_sent_with_the_receivers_own_word_at_its_end",
    ),
    Mutant(
        name="79c who recovers says its old CHECKPOINT again",
        file=_CATCH_UP,
        old="            words = [signed for signed in words if signed.signer != core.name]\n",
        new="            pass\n",
        test=_FORGOTTEN_WORDS_TEST
        + "test_while_it_recovers_its_own_checkpoint_still_proves_a_state_and_is_not_said_again",
    ),
    Mutant(
        name="79g a NEW-VIEW is sent again to its primary while that recovers",
        file=_CATCH_UP,
        old=" or _forgot_our_view(core, message.replica)",
        new="",
        test=_FORGOTTEN_WORDS_TEST
        + "test_a_forgotten_new_view_makes_its_primary_recover_on_an_idle_cluster",
    ),
    Mutant(
        name="83 each STATUS gets the checkpoints again",
        file=_CATCH_UP,
        old="        core.peers.checkpoints_sent[message.replica] = (place, now)\n",
        new="        pass\n",
        test=_CATCH_UP_TEST + "test_checkpoints_are_resent_at_most_twice_per_status_interval",
    ),
    Mutant(
        name="96 each new link is sent everything again",
        file=_CATCH_UP,
        old="        core.peers.connected_at[index] = now\n",
        new="",
        test=_BOUNDS_TEST + "test_a_peer_that_dials_again_and_again_is_sent_no_more_for_it",
    ),
    Mutant(
        name="E3 f+1 replicas say that a view has begun",
        file=_CATCH_UP,
        old="    return len(entered) >= core.quorums.strong\n",
        new="    return len(entered) >= core.quorums.weak\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E3b who is in a later view says that a view has begun",
        file=_CATCH_UP,
        old="if status.view == view and status.has_entered\n",
        new="if status.view >= view and status.has_entered\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E3c who only left for a view says that it has begun",
        file=_CATCH_UP,
        old="if status.view == view and status.has_entered\n",
        new="if status.view == view\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E8 STATUS to and fro earns slots",
        file=_CATCH_UP,
        old="max(best or (place, 0), (place, message.executed))\n",
        new="(place, message.executed)\n",
        test=_CATCH_UP_TEST + "test_a_peer_that_comes_and_goes_gets_no_more_than_others",
    ),
    Mutant(
        name="E27 each STATUS gets the proof of the view again",
        file=_CATCH_UP,
        old="    if sent is not None and sent[0] == place and now - sent[1] < pause:\n"
        "        return\n    has_come",
        new="    has_come",
        test=_BOUNDS_TEST
        + "test_the_proof_of_a_view_is_sent_again_at_most_twice_per_status_interval",
    ),
    Mutant(
        name="E28 bodies are sent again without bound",
        file=_CATCH_UP,
        old="        core.note_sent(message.replica, len(slot.batches[message.digest].body)"
        ", now)\n",
        new="",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    # --- pbft/replica.py --------------------------------------------------------------------------
    Mutant(
        name="53e a RECOVER that grew too old is waited for",
        file=_REPLICA,
        old="            recovery.drop_unwanted(self.core)\n",
        new="",
        test=_RECOVERY_TEST + "test_a_recover_of_an_old_loss_that_nobody_ordered_grows_too_old",
    ),
    Mutant(
        name="67 an older state replaces a newer one",
        file=_REPLICA,
        old="        if certificate.sequence <= right_up_to:\n",
        new="        if False:\n",
        test=_STATE_TRANSFER_TEST
        + "test_a_state_is_not_adopted_once_the_replica_came_further_by_itself",
    ),
    Mutant(
        name="67b who is diverged takes a state below its stable checkpoint",
        file=_REPLICA,
        old="        right_up_to = core.low if core.is_diverged else core.executed\n",
        new="        right_up_to = 0 if core.is_diverged else core.executed\n",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_wrong_state_is_not_repaired_from_below_the_stable_checkpoint",
    ),
    Mutant(
        name="78 our own forgotten word is refused",
        file=_REPLICA,
        old="        if isinstance(message, Commit):\n            slot = normal_case.on_own",
        new="        if False:\n            slot = normal_case.on_own",
        test=_FORGOTTEN_WORDS_TEST
        + "test_it_executes_what_was_committed_with_its_own_forgotten_word",
    ),
    Mutant(
        name="79 our own forgotten COMMIT counts while we recover",
        file=_REPLICA,
        old="        if self.core.is_recovering:\n            return SENT_BACK\n",
        new="",
        test=_FORGOTTEN_WORDS_TEST + "test_while_it_recovers_no_commit_of_its_own_counts",
    ),
    Mutant(
        name="79b our own forgotten CHECKPOINT proves no state while we recover",
        file=_REPLICA,
        old="        if isinstance(message, Checkpoint):\n            refusal = checkpoint.on_own",
        new="        if isinstance(message, Checkpoint) and not self.core.is_recovering:\n"
        "            refusal = checkpoint.on_own",
        test=_FORGOTTEN_WORDS_TEST
        + "test_while_it_recovers_its_own_checkpoint_still_proves_a_state_and_is_not_said_again",
    ),
    Mutant(
        name="79e our own forgotten NEW-VIEW proves nothing",
        file=_REPLICA,
        old="            return self._on_own_new_view(message, signed)\n",
        new="            return SENT_BACK\n",
        test=_FORGOTTEN_WORDS_TEST
        + "test_a_forgotten_new_view_makes_its_primary_recover_on_an_idle_cluster",
    ),
    Mutant(
        name="79f a NEW-VIEW from before a recovery of ours makes us mute",
        file=_REPLICA,
        old="core.quorums.faults_max == 0 or self._void_in(message, core.index) is not None:",
        new="core.quorums.faults_max == 0:",
        test=_FORGOTTEN_WORDS_TEST + "test_a_new_view_from_before_a_recovery_makes_nobody_mute",
    ),
    Mutant(
        name="92 who forgot that it has recovered recovers for ever",
        file=_REPLICA,
        old="            recovery.finish(self.core)\n        return",
        new="        return",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_who_forgot_that_it_has_recovered_votes_again_on_an_idle_cluster",
    ),
    Mutant(
        name="99 a primary does not order its own old RECOVER",
        file=_REPLICA,
        old="            # The backups time it, whoever kept it: as the primary we would be",
        new="            return SENT_BACK\n            # as the primary we would be",
        test=_NOBODY_WAITS_FOR_EVER_TEST + "test_an_old_recover_of_the_primary_does_not_depose_it",
    ),
    Mutant(
        name="103 a NEW-VIEW of any size is taken",
        file=_REPLICA,
        old="        if len(signed.payload) > self.core.cluster.new_view_bytes_max:\n",
        new="        if False:\n",
        test=_BOUNDS_TEST
        + "test_a_first_new_view_that_is_too_large_is_refused_before_it_is_looked_into",
    ),
    Mutant(
        name="107 what is kept holds up null requests",
        file=_REPLICA,
        old="may_delay = not is_null_wanted and normal_case.may_delay(core)",
        new="may_delay = normal_case.may_delay(core)",
        test=_4_2_KEPT_REQUESTS_TEST + "test_a_request_to_recover_is_not_kept_nor_what_it_needs",
    ),
    Mutant(
        name="E11 void VIEW-CHANGEs stay after a fetched state",
        file=_REPLICA,
        old="        recovery.drop_void(core)\n        recovery.finish(core)\n",
        new="        recovery.finish(core)\n",
        test=_EDGES_OF_REPAIR_TEST
        + "test_view_changes_that_a_fetched_state_makes_void_are_forgotten",
    ),
    Mutant(
        name="E12 waits are not begun anew after a fetched state",
        file=_REPLICA,
        old="        timers.on_state_adopted(core, now)\n",
        new="",
        test=_EDGES_OF_REPAIR_TEST + "test_who_fetched_a_state_gives_the_primary_its_full_time",
    ),
    Mutant(
        name="E14 a replica whose state is right again does not go on by itself",
        file=_REPLICA,
        old="            if was_diverged:\n",
        new="            if False:\n",
        test=_EDGES_OF_REPAIR_TEST + "test_a_replica_whose_state_is_right_again_goes_on_by_itself",
    ),
    Mutant(
        name="E15 a replica that fetched a state does not go on by itself",
        file=_REPLICA,
        old="            self._advance(slot)\n\n    # --- view changes",
        new="\n    # --- view changes",
        test=_EDGES_OF_REPAIR_TEST + "test_a_replica_that_fetched_a_state_goes_on_by_itself",
    ),
    Mutant(
        name="E21 who fetched a state waits for bodies that do not come",
        file=_REPLICA,
        old="            normal_case.accept_proposal(core, slot)\n"
        "            self._advance(slot)\n\n    # --- view",
        new="            self._advance(slot)\n\n    # --- view",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_who_fetched_a_state_votes_on_what_its_view_began_with",
    ),
    Mutant(
        name="E21b who comes so far by itself votes on nothing that its view began with",
        file=_REPLICA,
        old="            for sequence in view_change.take_proposals(self.core):\n",
        new="            for sequence in ():\n",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_who_comes_so_far_by_itself_votes_on_what_its_view_began_with",
    ),
)
