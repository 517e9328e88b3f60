"""Mutants of what is reset, forgotten or compared at the edges of recovery, catch-up and repair.

No seed notices them: each takes away a rule that shows only where two such things come together.
"""

from simulator.mutants import Mutant

_CATCH_UP = "pbft/catch_up.py"
_CHECKPOINT = "pbft/checkpoint.py"
_EXECUTION = "pbft/execution.py"
_RECOVERY = "pbft/recovery.py"
_REPLICA = "pbft/replica.py"
_RESTORING = "pbft/restoring.py"
_STORE = "node/store.py"

_CATCH_UP_TEST = "tests/pbft/test_catch_up.py::"
_RECOVERY_TEST = "tests/paper/test_edges_of_recovery.py::"
_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_RESTORE_TEST = "tests/pbft/test_restore.py::"
_STORE_TEST = "tests/node/test_store.py::"

EDGES_MUTANTS: tuple[Mutant, ...] = (
    # --- recovery -----------------------------------------------------------------------------
    Mutant(
        name="E1 it votes again once T is executed",
        file=_RECOVERY,
        old="    if core.low < core.recoveries[core.index].voting_from:\n",
        new="    if core.executed < core.recoveries[core.index].voting_from:\n",
        test=_RECOVERY_TEST + "test_it_votes_again_once_t_is_stable_and_not_once_t_is_executed",
    ),
    Mutant(
        name="E2 a RECOVER that is ordered again counts again",
        file=_EXECUTION,
        old="    if core.recover_refusal(message, sequence) is not None:\n",
        new="    if False:\n",
        test=_RECOVERY_TEST + "test_a_recover_that_is_ordered_again_after_t_has_no_effect",
    ),
    Mutant(
        name="E3 f+1 replicas say that a view has begun",
        file=_CATCH_UP,
        old="    return len(entered) >= core.quorums.strong\n",
        new="    return len(entered) >= core.quorums.weak\n",
        test=_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E3b who is in a later view says that a view has begun",
        file=_CATCH_UP,
        old="if status.view == view and status.has_entered\n",
        new="if status.view >= view and status.has_entered\n",
        test=_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E3c who only left for a view says that it has begun",
        file=_CATCH_UP,
        old="if status.view == view and status.has_entered\n",
        new="if status.view == view\n",
        test=_RECOVERY_TEST
        + "test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so",
    ),
    Mutant(
        name="E4 a VIEW-CHANGE that names an earlier recovery counts",
        file=_RECOVERY,
        old="        and message.recovered != done.voting_from\n",
        new="        and not message.recovered\n",
        test=_RECOVERY_TEST
        + "test_a_view_change_that_names_another_recovery_than_the_last_one_is_void",
    ),
    Mutant(
        name="E5 a VIEW-CHANGE with a checkpoint at T is void",
        file=_RECOVERY,
        old="        and message.stable < done.voting_from\n",
        new="        and message.stable <= done.voting_from\n",
        test=_RECOVERY_TEST + "test_a_view_change_whose_checkpoint_is_at_t_counts",
    ),
    Mutant(
        name="E6 a void VIEW-CHANGE beside one for a far view stays",
        file=_RECOVERY,
        old="        for replica, checked in core.overtaken_view_changes.items()\n"
        "        if check_void(core, checked.message) is None\n",
        new="        for replica, checked in core.overtaken_view_changes.items()\n",
        test=_RECOVERY_TEST + "test_a_void_view_change_beside_one_for_a_far_view_is_forgotten_too",
    ),
    Mutant(
        name="E7 our own VIEW-CHANGE is forgotten with the void ones",
        file=_RECOVERY,
        old="        if replica == core.index or check_void(core, checked.message) is None\n",
        new="        if check_void(core, checked.message) is None\n",
        test=_RECOVERY_TEST + "test_ones_own_view_change_stays_though_a_late_recover_makes_it_void",
    ),
    # --- catch-up -----------------------------------------------------------------------------
    Mutant(
        name="E8 STATUS to and fro earns slots",
        file=_CATCH_UP,
        old="max(best or (place, 0), (place, message.executed))\n",
        new="(place, message.executed)\n",
        test=_CATCH_UP_TEST + "test_a_peer_that_comes_and_goes_gets_no_more_than_others",
    ),
    # --- state transfer and repair ------------------------------------------------------------
    Mutant(
        name="E9 an older certificate replaces a newer one",
        file=_CHECKPOINT,
        old="        if sequence > max(core.executed, core.certified.sequence):\n",
        new="        if sequence > core.executed:\n",
        test=_REPAIR_TEST + "test_an_older_certificate_does_not_replace_a_newer_one",
    ),
    Mutant(
        name="E10 a wrong state is replaced by whatever certificate came last",
        file=_CHECKPOINT,
        old="        if sequence > core.certified.sequence:\n            # The newest",
        new="        if True:\n            # The newest",
        test=_REPAIR_TEST
        + "test_a_wrong_state_is_replaced_by_the_newest_whatever_order_certificates_come_in",
    ),
    Mutant(
        name="E11 void VIEW-CHANGEs stay after a fetched state",
        file=_REPLICA,
        old="        recovery.drop_void(core)\n        recovery.finish(core)\n",
        new="        recovery.finish(core)\n",
        test=_REPAIR_TEST + "test_view_changes_that_a_fetched_state_makes_void_are_forgotten",
    ),
    Mutant(
        name="E12 waits are not begun anew after a fetched state",
        file=_REPLICA,
        old="        timers.on_state_adopted(core, now)\n",
        new="",
        test=_REPAIR_TEST + "test_who_fetched_a_state_gives_the_primary_its_full_time",
    ),
    Mutant(
        name="E13 snapshots of the wrong past are kept",
        file=_CHECKPOINT,
        old="    core.snapshots[sequence] = (digest, parts)\n",
        new="    core.snapshots.setdefault(sequence, (digest, parts))\n",
        test=_REPAIR_TEST + "test_of_a_wrong_past_no_state_stays",
    ),
    Mutant(
        name="E14 a replica whose state is right again does not go on by itself",
        file=_REPLICA,
        old="            if was_diverged:\n",
        new="            if False:\n",
        test=_REPAIR_TEST + "test_a_replica_whose_state_is_right_again_goes_on_by_itself",
    ),
    Mutant(
        name="E15 a replica that fetched a state does not go on by itself",
        file=_REPLICA,
        old="            self._advance(slot)\n\n    # --- view changes",
        new="\n    # --- view changes",
        test=_REPAIR_TEST + "test_a_replica_that_fetched_a_state_goes_on_by_itself",
    ),
    # --- restarts -----------------------------------------------------------------------------
    Mutant(
        name="E16 view records pile up",
        file="pbft/core.py",
        old="        self.view_records = [SavedMessage(signed)]\n",
        new="        self.view_records = [*self.view_records, SavedMessage(signed)]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16b view records pile up at each restart in a view change",
        file=_RESTORING,
        old="    core.view_changes[core.index] = checked\n    core.view_records = [record]\n",
        new="    core.view_changes[core.index] = checked\n    core.view_records += [record]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16c view records pile up at each restart in a view",
        file=_RESTORING,
        old="    core.view_changes = {}\n    core.view_records = [record]\n",
        new="    core.view_changes = {}\n    core.view_records += [record]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E17 a restarted view change waits as if it had progressed",
        file=_RESTORING,
        old="    core.timers.has_progressed = False\n",
        new="",
        test=_RESTORE_TEST + "test_a_view_change_that_was_restarted_has_not_progressed",
    ),
    Mutant(
        name="E18 what is done again is not compared with the chain",
        file=_STORE,
        old="            if (self._position, self._chain) != (entry.ends, entry.chain):\n",
        new="            if self._position != entry.ends:\n",
        test=_STORE_TEST + "test_what_is_done_again_must_come_to_the_same_chain",
    ),
)
