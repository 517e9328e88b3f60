"""Mutants of restarts, and of replicas that lost what they had sent."""

from tests.mutants.mutation_runner import Mutant

_RECOVERY = "pbft/recovery.py"
_RESTORING = "pbft/restoring.py"

_EDGES_OF_RECOVERY_TEST = "tests/paper/test_edges_of_recovery.py::"
_EDGES_OF_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_RECOVERY_TEST = "tests/paper/test_recovery.py::"
_FORGOTTEN_WORDS_TEST = "tests/pbft/test_forgotten_words.py::"
_NOBODY_WAITS_FOR_EVER_TEST = "tests/pbft/test_nobody_waits_for_ever.py::"
_RESTORE_TEST = "tests/pbft/test_restore.py::"

RECOVERY_MUTANTS: tuple[Mutant, ...] = (
    # --- pbft/recovery.py -------------------------------------------------------------------------
    Mutant(
        name="39 a replica that lost its words votes at once",
        file=_RECOVERY,
        old="    if core.low < core.execution.recoveries[core.index].voting_from:\n"
        "        return False\n",
        new="",
        test=_RECOVERY_TEST + "test_a_replica_that_lost_its_disk_recovers_on_an_idle_cluster",
    ),
    Mutant(
        name="50 VIEW-CHANGEs from before a recovery count",
        file=_RECOVERY,
        old='        return Refusal("a VIEW-CHANGE from before the replica\'s recovery")\n',
        new="        pass\n",
        test=_RECOVERY_TEST + "test_its_older_view_changes_are_void",
    ),
    Mutant(
        name="51 nobody owes null requests up to T",
        file=_RECOVERY,
        old="    return any(number >= core.proposer.next_sequence",
        new="    return any(False",
        seeds=(18,),
    ),
    Mutant(
        name="53 the right to vote is taken back without a word on disk",
        file=_RECOVERY,
        old="    core.output.records.append(SavedRecovery(nonce))\n",
        new="",
        test=_RECOVERY_TEST + "test_that_it_may_not_vote_is_on_disk_before_its_first_word",
    ),
    Mutant(
        name="53f who recovers names the checkpoint that it knew at first",
        file=_RECOVERY,
        old="Recover(core.recovery.nonce, core.index, core.low)",
        new="Recover(core.recovery.nonce, core.index, 0)",
        test=_RECOVERY_TEST
        + "test_who_lost_its_disk_names_the_checkpoint_that_the_others_prove_to_it",
    ),
    Mutant(
        name="85 an old RECOVER makes a healthy replica's VIEW-CHANGE void",
        file=_RECOVERY,
        old="        and message.recovered != done.voting_from\n",
        new="",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_t_that_an_older_version_fixed_late_makes_no_healthy_replica_mute",
    ),
    Mutant(
        name="E1 it votes again once T is executed",
        file=_RECOVERY,
        old="    if core.low < core.execution.recoveries[core.index].voting_from:\n",
        new="    if core.executed < core.execution.recoveries[core.index].voting_from:\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_it_votes_again_once_t_is_stable_and_not_once_t_is_executed",
    ),
    Mutant(
        name="E4 a VIEW-CHANGE that names an earlier recovery counts",
        file=_RECOVERY,
        old="        and message.recovered != done.voting_from\n",
        new="        and not message.recovered\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_a_view_change_that_names_another_recovery_than_the_last_one_is_void",
    ),
    Mutant(
        name="E5 a VIEW-CHANGE with a checkpoint at T is void",
        file=_RECOVERY,
        old="        and message.stable < done.voting_from\n",
        new="        and message.stable <= done.voting_from\n",
        test=_EDGES_OF_RECOVERY_TEST + "test_a_view_change_whose_checkpoint_is_at_t_counts",
    ),
    Mutant(
        name="E6 a void VIEW-CHANGE beside one for a far view stays",
        file=_RECOVERY,
        old="        for replica, checked in core.views.overtaken_changes.items()\n"
        "        if check_void(core, checked.message) is None\n",
        new="        for replica, checked in core.views.overtaken_changes.items()\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_a_void_view_change_beside_one_for_a_far_view_is_forgotten_too",
    ),
    Mutant(
        name="E7 our own VIEW-CHANGE is forgotten with the void ones",
        file=_RECOVERY,
        old="        if replica == core.index or check_void(core, checked.message) is None\n",
        new="        if check_void(core, checked.message) is None\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_ones_own_view_change_stays_though_a_late_recover_makes_it_void",
    ),
    Mutant(
        name="E29 a RECOVER that was executed is sent again",
        file=_RECOVERY,
        old="    if core.is_recovering and not _is_executed(core) and not core.has_ended:\n",
        new="    if core.is_recovering:\n",
        test=_EDGES_OF_RECOVERY_TEST
        + "test_it_votes_again_once_t_is_stable_and_not_once_t_is_executed",
    ),
    # --- pbft/restoring.py ------------------------------------------------------------------------
    Mutant(
        name="79h who recovers goes on in the views that it had left for",
        file=_RESTORING,
        old="                leave_all_views(core, record.nonce)\n",
        new="                pass\n",
        test=_FORGOTTEN_WORDS_TEST
        + "test_it_says_nothing_between_the_proof_and_the_end_of_its_recovery",
    ),
    Mutant(
        name="E16b view records pile up at each restart in a view change",
        file=_RESTORING,
        old="    core.views.changes[core.index] = checked\n    core.views.records = [record]\n",
        new="    core.views.changes[core.index] = checked\n    core.views.records += [record]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16c view records pile up at each restart in a view",
        file=_RESTORING,
        old="    core.views.changes = {}\n    core.views.records = [record]\n",
        new="    core.views.changes = {}\n    core.views.records += [record]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16d the word about a view is lost at the second base after a restart in its change",
        file=_RESTORING,
        old="    core.views.changes[core.index] = checked\n    core.views.records = [record]\n",
        new="    core.views.changes[core.index] = checked\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16e the word about a view is lost at the second base after a restart in it",
        file=_RESTORING,
        old="    core.views.changes = {}\n    core.views.records = [record]\n",
        new="    core.views.changes = {}\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16f a CHECKPOINT of a wrong past is forgotten at a restart",
        file=_RESTORING,
        old="    if said is None:\n        core.checkpoints.votes.add(message, signed)\n",
        new="    if said is None:\n        pass\n",
        test=_EDGES_OF_REPAIR_TEST
        + "test_what_was_said_of_a_wrong_past_is_said_after_a_restart_too",
    ),
    Mutant(
        name="E16g a restarted replica does not give its stable state",
        file=_RESTORING,
        old="    core.checkpoints.stable_parts = record.parts\n",
        new="",
        test=_RESTORE_TEST + "test_a_restarted_replica_gives_its_stable_state",
    ),
    Mutant(
        name="E16h a restarted replica does not prove its view",
        file=_RESTORING,
        old="    core.views.new_view = record.signed\n",
        new="",
        test=_RESTORE_TEST + "test_a_restarted_replica_proves_its_view_again",
    ),
    Mutant(
        name="E16i what was accepted in an earlier view stands after a restart",
        file=_RESTORING,
        old="        if message.view == core.view and core.has_entered:\n            slot.proposal",
        new="        if core.has_entered:\n            slot.proposal",
        test=_RESTORE_TEST
        + "test_what_was_accepted_in_an_earlier_view_is_not_accepted_in_the_present_one",
    ),
    Mutant(
        name="E16j a restarted replica forgets its PREPAREs",
        file=_RESTORING,
        old="        slot.prepares[message.replica] = (message, signed)\n",
        new="        pass\n",
        test=_RESTORE_TEST + "test_a_restarted_replica_sends_again_what_it_sent_before",
    ),
    Mutant(
        name="E16k a restarted replica does not send decided slots again",
        file=_RESTORING,
        old="    slot.decided = Decided(record.digest, record.commits)\n",
        new="",
        test=_RESTORE_TEST + "test_a_restarted_replica_sends_again_what_it_sent_before",
    ),
    Mutant(
        name="E16l a saved certificate that does not hold is left out",
        file=_RESTORING,
        old='        raise DamagedRecords(f"a saved certificate: {pre_prepare.reason}")\n',
        new="        return\n",
        test=_RESTORE_TEST + "test_a_saved_word_that_does_not_hold_is_damage",
    ),
    Mutant(
        name="E16m a saved VIEW-CHANGE that does not hold is left out",
        file=_RESTORING,
        old='        raise DamagedRecords(f"our own VIEW-CHANGE: {checked.reason}")\n',
        new="        return\n",
        test=_RESTORE_TEST + "test_a_saved_word_that_does_not_hold_is_damage",
    ),
    Mutant(
        name="E16n a saved NEW-VIEW that does not hold is left out",
        file=_RESTORING,
        old='        raise DamagedRecords(f"the NEW-VIEW that was entered: {order.reason}")\n',
        new="        return\n",
        test=_RESTORE_TEST + "test_a_saved_word_that_does_not_hold_is_damage",
    ),
    Mutant(
        name="E17 a restarted view change waits as if it had progressed",
        file=_RESTORING,
        old="    core.timers.has_progressed = False\n",
        new="",
        test=_RESTORE_TEST + "test_a_view_change_that_was_restarted_has_not_progressed",
    ),
)
