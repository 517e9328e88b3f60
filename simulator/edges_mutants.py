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
_RECOVERY_FILES = "node/recovery_files.py"
_STORE = "node/store.py"
_TIMERS = "pbft/timers.py"
_TRANSFER = "pbft/state_transfer.py"
_VIEW = "pbft/view_change.py"

_BOUNDS_TEST = "tests/pbft/test_bounds.py::"
_CATCH_UP_TEST = "tests/pbft/test_catch_up.py::"
_FILES_TEST = "tests/node/test_recovery_files.py::"
_RECOVERY_TEST = "tests/paper/test_edges_of_recovery.py::"
_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_RESTORE_TEST = "tests/pbft/test_restore.py::"
_STORE_TEST = "tests/node/test_store.py::"
_VIEW_TEST = "tests/paper/test_edges_of_view_changes.py::"

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
        name="E13b a repaired replica says another CHECKPOINT",
        file=_CHECKPOINT,
        old="    if core.checkpoint_votes.vote_of(sequence, core.index) is not None:\n",
        new="    if False:\n",
        test=_REPAIR_TEST + "test_of_a_wrong_past_no_state_stays",
    ),
    Mutant(
        name="E13c a replica that is diverged judges the primary",
        file=_TIMERS,
        old="    return core.is_voting and core.transfer",
        new="    return core.has_entered and not core.nonce and core.transfer",
        test=_REPAIR_TEST + "test_who_is_diverged_leaves_no_view",
    ),
    Mutant(
        name="E13d a state that was right once is taken for a right one",
        file=_CHECKPOINT,
        old="    if sequence >= core.certified.sequence:\n",
        new="    if True:\n",
        test=_REPAIR_TEST + "test_a_state_that_was_right_once_is_diverged_all_the_same",
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
    Mutant(
        name="E19 parts that are here are fetched again for a newer state",
        file=_TRANSFER,
        old="    known = {**own(), **transfer.parts}\n",
        new="    known = {**own()}\n",
        test=_REPAIR_TEST + "test_parts_that_are_here_stay_good_when_a_newer_state_is_fetched",
    ),
    Mutant(
        name="E20 a primary that fetched a state goes on below it",
        file=_TRANSFER,
        old="    core.next_sequence = max(core.next_sequence, sequence + 1)\n",
        new="",
        test=_VIEW_TEST + "test_a_primary_that_fetched_a_state_goes_on_above_it",
    ),
    Mutant(
        name="E21 who fetched a state waits for bodies that do not come",
        file=_REPLICA,
        old="            normal_case.accept_proposal(core, slot)\n"
        "            self._advance(slot)\n\n    # --- view",
        new="            self._advance(slot)\n\n    # --- view",
        test=_VIEW_TEST + "test_who_fetched_a_state_votes_on_what_its_view_began_with",
    ),
    Mutant(
        name="E21b who comes so far by itself votes on nothing that its view began with",
        file=_REPLICA,
        old="            for sequence in view_change.take_proposals(self.core):\n",
        new="            for sequence in ():\n",
        test=_VIEW_TEST + "test_who_comes_so_far_by_itself_votes_on_what_its_view_began_with",
    ),
    # --- views --------------------------------------------------------------------------------
    Mutant(
        name="E22 a VIEW-CHANGE beside one for a far view is not checked",
        file=_VIEW,
        old="        return checked\n    core.overtaken_view_changes[message.replica] = checked\n",
        new="        checked = CheckedViewChange(message, signed, ())\n"
        "    core.overtaken_view_changes[message.replica] = checked\n",
        test=_VIEW_TEST + "test_a_view_change_beside_one_for_a_far_view_is_checked_like_any_other",
    ),
    Mutant(
        name="E23 who left for a later view is forgotten with a view that begins",
        file=_VIEW,
        old="        if checked.message.view > core.view\n    }\n    core.overtaken",
        new="        if False\n    }\n    core.overtaken",
        test=_VIEW_TEST + "test_who_left_for_a_later_view_counts_in_the_view_that_was_entered",
    ),
    Mutant(
        name="E24 what an earlier view ordered binds in the next",
        file=_VIEW,
        old="        slot.leave_view()\n    core.ordered = {}\n    for",
        new="        slot.leave_view()\n    for",
        test=_VIEW_TEST + "test_what_an_earlier_view_ordered_binds_nobody_in_the_next",
    ),
    Mutant(
        name="E25 the wait comes down at once",
        file=_TIMERS,
        old="max(core.settings.view_change_seconds, core.timers.timeout / 2)\n",
        new="core.settings.view_change_seconds\n",
        test=_VIEW_TEST + "test_the_wait_comes_down_by_half_with_each_batch",
    ),
    Mutant(
        name="E26 a RECOVER is handed on again and again",
        file=_TIMERS,
        old="        or (client.startswith(RECOVERY) and timed.get(client) == number)\n",
        new="",
        test=_VIEW_TEST + "test_a_recover_is_handed_on_to_the_primary_once_per_view",
    ),
    # --- what is sent again -------------------------------------------------------------------
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
    Mutant(
        name="E28b leaves are sent again without bound",
        file=_TRANSFER,
        old="        core.note_sent(message.replica, LEAF_BYTES * len(leaves), now)\n",
        new="",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28c parts are sent again without bound",
        file=_TRANSFER,
        old="        core.note_sent(message.replica, size, now)\n    return None\n",
        new="    return None\n",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28d one question for parts has no bound",
        file=_TRANSFER,
        old="            if not core.may_send_more(message.replica, now):\n"
        "                return None\n",
        new="",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28e all parts go in one message",
        file=_TRANSFER,
        old="        if chunk and size + len(parts[name]) > PARTS_BYTES_PER_MESSAGE:\n",
        new="        if False:\n",
        test=_BOUNDS_TEST + "test_large_parts_are_cut_into_messages",
    ),
    Mutant(
        name="E29 a RECOVER that was executed is sent again",
        file=_RECOVERY,
        old="    if core.nonce and not _is_executed(core):\n",
        new="    if core.nonce:\n",
        test=_RECOVERY_TEST + "test_it_votes_again_once_t_is_stable_and_not_once_t_is_executed",
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
        name="E16d the word about a view is lost at the second base after a restart in its change",
        file=_RESTORING,
        old="    core.view_changes[core.index] = checked\n    core.view_records = [record]\n",
        new="    core.view_changes[core.index] = checked\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16e the word about a view is lost at the second base after a restart in it",
        file=_RESTORING,
        old="    core.view_changes = {}\n    core.view_records = [record]\n",
        new="    core.view_changes = {}\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="E16f a CHECKPOINT of a wrong past is forgotten at a restart",
        file=_RESTORING,
        old="    if said is None:\n        core.checkpoint_votes.add(message, signed)\n",
        new="    if said is None:\n        pass\n",
        test=_REPAIR_TEST + "test_what_was_said_of_a_wrong_past_is_said_after_a_restart_too",
    ),
    Mutant(
        name="E16g a restarted replica does not give its stable state",
        file=_RESTORING,
        old="    core.stable_parts = base.parts\n",
        new="",
        test=_RESTORE_TEST + "test_a_restarted_replica_gives_its_stable_state",
    ),
    Mutant(
        name="E16h a restarted replica does not prove its view",
        file=_RESTORING,
        old="    core.new_view = record.signed\n",
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
    Mutant(
        name="E18 what is done again is not compared with the chain",
        file=_STORE,
        old="            if (self._position, self._chain) != (entry.ends, entry.chain):\n",
        new="            if self._position != entry.ends:\n",
        test=_STORE_TEST + "test_what_is_done_again_must_come_to_the_same_chain",
    ),
    Mutant(
        name="E30 an entry of the redo log that cannot be read is left out",
        file=_STORE,
        old="        if self._redo.is_broken:\n",
        new="        if False:\n",
        test=_STORE_TEST + "test_an_acknowledged_save_that_neither_file_has_is_damage",
    ),
    Mutant(
        name="E31 what is saved beside the records is not in the redo log",
        file=_STORE,
        old="            if self._next == before:\n                self._insert(Aside())\n",
        new="",
        test=_STORE_TEST + "test_what_is_saved_beside_the_records_is_done_again_too",
    ),
    Mutant(
        name="E32 an own request is what stands there under its build",
        file="node/own_request_table.py",
        old="            if row is None or _digest(*row) != digest:\n",
        new="            if row is None:\n",
        test=_STORE_TEST + "test_a_lost_own_request_is_damage",
    ),
    Mutant(
        name="E33 the marker of a recovery is not on disk before the files are moved",
        file=_RECOVERY_FILES,
        old="    (directory / MARKER_NAME).touch()\n    folders.sync(directory)\n",
        new="    (directory / MARKER_NAME).touch()\n",
        test=_FILES_TEST + "test_each_step_is_on_disk_before_the_next",
    ),
    Mutant(
        name="E33b the moved files are not on disk before the new store",
        file=_RECOVERY_FILES,
        old="    folders.sync(kept)\n    folders.sync(directory)\n    return kept",
        new="    return kept",
        test=_FILES_TEST + "test_each_step_is_on_disk_before_the_next",
    ),
    Mutant(
        name="E34 a rotten index gives another build's statement",
        file="node/ledger_table.py",
        old=" or bytes.fromhex(decoded.build) != build:\n",
        new=":\n",
        test="tests/node/test_ledger_table.py"
        "::test_a_row_that_leads_to_another_builds_statement_gives_none",
    ),
)
