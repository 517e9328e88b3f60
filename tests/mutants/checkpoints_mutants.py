"""Mutants of checkpoints, the repair of a wrong state and state transfer."""

from tests.mutants.mutation_runner import Mutant

_CHECKPOINT = "pbft/checkpoint.py"
_STATE_TRANSFER = "pbft/state_transfer.py"

_EDGES_OF_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_EDGES_OF_VIEW_CHANGES_TEST = "tests/paper/test_edges_of_view_changes.py::"
_4_3_GARBAGE_COLLECTION_TEST = "tests/paper/test_section_4_3_garbage_collection.py::"
_STATE_TRANSFER_TEST = "tests/paper/test_state_transfer.py::"
_BOUNDS_TEST = "tests/pbft/test_bounds.py::"
_NOBODY_WAITS_FOR_EVER_TEST = "tests/pbft/test_nobody_waits_for_ever.py::"
_RESTORE_TEST = "tests/pbft/test_restore.py::"

CHECKPOINTS_MUTANTS: tuple[Mutant, ...] = (
    # --- pbft/checkpoint.py -----------------------------------------------------------------------
    Mutant(
        name="30 no garbage collection",
        file=_CHECKPOINT,
        old="    core.log.forget_up_to(core.kept_above)\n",
        new="",
        seeds=(2,),
    ),
    Mutant(
        name="44 what was said about open slots is lost with a new checkpoint record",
        file=_CHECKPOINT,
        old="        core.output.records.extend(slot.records)\n",
        new="        pass\n",
        seeds=(2,),
    ),
    Mutant(
        name="45 the view is lost with a new checkpoint record",
        file=_CHECKPOINT,
        old="    core.output.records.extend(core.views.records)\n",
        new="",
        seeds=(2,),
    ),
    Mutant(
        name="46 a CHECKPOINT is not saved",
        file=_CHECKPOINT,
        old="    core.output.records.append(SavedMessage(signed))\n    core.broadcast(signed)\n",
        new="    core.broadcast(signed)\n",
        seeds=(2,),
    ),
    Mutant(
        name="66 a wrong state goes unnoticed",
        file=_CHECKPOINT,
        old="    if digest != certificate.digest:\n",
        new="    if False:\n",
        test=_4_3_GARBAGE_COLLECTION_TEST + "test_a_replica_whose_state_differs_says_so_and_stops",
    ),
    Mutant(
        name="67c CHECKPOINTs of ours behind a base are not compared",
        file=_CHECKPOINT,
        old="        (compared if is_ours else replaced).append(signed)\n",
        new="        replaced.append(signed)\n",
        test=_RESTORE_TEST
        + "test_what_is_executed_again_behind_a_base_is_what_our_checkpoint_says",
    ),
    Mutant(
        name="67d a CHECKPOINT of a wrong state that was repaired is damage",
        file=_CHECKPOINT,
        old="        (compared if is_ours else replaced).append(signed)\n",
        new="        compared.append(signed)\n",
        test=_RESTORE_TEST + "test_a_checkpoint_of_a_wrong_state_that_was_repaired_is_no_damage",
    ),
    Mutant(
        name="68 one digest per checkpoint is not proved against who says two",
        file=_CHECKPOINT,
        old="        core.record_equivocation(message.replica, earlier[1], signed)\n",
        new="",
        test=_4_3_GARBAGE_COLLECTION_TEST
        + "test_a_replica_that_says_two_digests_counts_for_one_at_a_time",
    ),
    Mutant(
        name="86 a wrong state is repaired from the first wrong checkpoint only",
        file=_CHECKPOINT,
        old="        if sequence > core.checkpoints.certified.sequence:\n            # The newest",
        new="        if not core.is_diverged:\n            # The newest",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_wrong_state_is_repaired_from_the_newest_checkpoint_that_is_wrong_too",
    ),
    Mutant(
        name="87 a state that is right again stays diverged",
        file=_CHECKPOINT,
        old="        core.checkpoints.is_diverged = False  # it was wrong",
        new="        pass  # it was wrong",
        test=_NOBODY_WAITS_FOR_EVER_TEST + "test_a_state_that_is_right_again_is_diverged_no_more",
    ),
    Mutant(
        name="95c the leaves of states that are gone are kept",
        file=_CHECKPOINT,
        old="    core.transfers.leaves = {}\n",
        new="",
        test=_BOUNDS_TEST + "test_a_state_is_hashed_once_however_often_its_leaves_are_asked_for",
    ),
    Mutant(
        name="E9 an older certificate replaces a newer one",
        file=_CHECKPOINT,
        old="        if sequence > max(core.executed, core.checkpoints.certified.sequence):\n",
        new="        if sequence > core.executed:\n",
        test=_EDGES_OF_REPAIR_TEST + "test_an_older_certificate_does_not_replace_a_newer_one",
    ),
    Mutant(
        name="E10 a wrong state is replaced by whatever certificate came last",
        file=_CHECKPOINT,
        old="        if sequence > core.checkpoints.certified.sequence:\n            # The newest",
        new="        if True:\n            # The newest",
        test=_EDGES_OF_REPAIR_TEST
        + "test_a_wrong_state_is_replaced_by_the_newest_whatever_order_certificates_come_in",
    ),
    Mutant(
        name="E13 snapshots of the wrong past are kept",
        file=_CHECKPOINT,
        old="    core.checkpoints.snapshots[sequence] = (digest, parts)\n",
        new="    core.checkpoints.snapshots.setdefault(sequence, (digest, parts))\n",
        test=_EDGES_OF_REPAIR_TEST + "test_of_a_wrong_past_no_state_stays",
    ),
    Mutant(
        name="E13b a repaired replica says another CHECKPOINT",
        file=_CHECKPOINT,
        old="    if core.checkpoints.votes.vote_of(sequence, core.index) is not None:\n",
        new="    if False:\n",
        test=_EDGES_OF_REPAIR_TEST + "test_of_a_wrong_past_no_state_stays",
    ),
    Mutant(
        name="E13d a state that was right once is taken for a right one",
        file=_CHECKPOINT,
        old="    if sequence >= core.checkpoints.certified.sequence:\n",
        new="    if True:\n",
        test=_EDGES_OF_REPAIR_TEST + "test_a_state_that_was_right_once_is_diverged_all_the_same",
    ),
    # --- pbft/state_transfer.py -------------------------------------------------------------------
    Mutant(
        name="23 a fetched part is not checked",
        file=_STATE_TRANSFER,
        old="        if transfer.leaves.get(name) == digest_of(data):",
        new="        if name in transfer.leaves:",
        replicas=7,  # there a liar and a replica that fetches a state come together often
        seeds=(1,),
    ),
    Mutant(
        name="23b the fetched leaves are not checked",
        file=_STATE_TRANSFER,
        old="    if leaves_digest(message.leaves) != transfer.certificate.digest:",
        new="    if False:",
        test=_STATE_TRANSFER_TEST
        + "test_leaves_are_refused_whose_root_is_not_the_certified_digest",
    ),
    Mutant(
        name="80 a state is given only where it is stable",
        file=_STATE_TRANSFER,
        old=(
            '    _, parts = core.checkpoints.snapshots.get(sequence, (b"", {}))\n    return parts\n'
        ),
        new="    return {}\n",
        test=_STATE_TRANSFER_TEST
        + "test_who_alone_has_a_certificate_gets_that_state_of_those_that_lack_it",
    ),
    Mutant(
        name="88 who is fed slowly never asks for the state",
        file=_STATE_TRANSFER,
        old="        is_collected = core.executed < target.sequence - core.interval",
        new="        is_collected = False",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_peer_that_gives_one_old_number_a_second_keeps_nobody_from_the_state",
    ),
    Mutant(
        name="90 a RECOVER that a fetched state skips stays in a batch under way",
        file=_STATE_TRANSFER,
        old="    core.proposer.proposed &= {",
        new="    core.proposer.proposed |= {",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_recover_that_a_fetched_state_skips_is_no_longer_in_a_batch_under_way",
    ),
    Mutant(
        name="E19 parts that are here are fetched again for a newer state",
        file=_STATE_TRANSFER,
        old="    known = {**own(), **transfer.parts}\n",
        new="    known = {**own()}\n",
        test=_EDGES_OF_REPAIR_TEST
        + "test_parts_that_are_here_stay_good_when_a_newer_state_is_fetched",
    ),
    Mutant(
        name="E20 a primary that fetched a state goes on below it",
        file=_STATE_TRANSFER,
        old="    core.proposer.next_sequence = max(core.proposer.next_sequence, sequence + 1)\n",
        new="",
        test=_EDGES_OF_VIEW_CHANGES_TEST + "test_a_primary_that_fetched_a_state_goes_on_above_it",
    ),
    Mutant(
        name="E28b leaves are sent again without bound",
        file=_STATE_TRANSFER,
        old="        core.note_sent(message.replica, LEAF_BYTES * len(leaves), now)\n",
        new="",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28c parts are sent again without bound",
        file=_STATE_TRANSFER,
        old="        core.note_sent(message.replica, size, now)\n    return None\n",
        new="    return None\n",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28d one question for parts has no bound",
        file=_STATE_TRANSFER,
        old="            if not core.may_send_more(message.replica, now):\n"
        "                return None\n",
        new="",
        test=_BOUNDS_TEST + "test_what_a_peer_fetches_again_and_again_is_bounded",
    ),
    Mutant(
        name="E28e all parts go in one message",
        file=_STATE_TRANSFER,
        old="        if chunk and size + len(parts[name]) > PARTS_BYTES_PER_MESSAGE:\n",
        new="        if False:\n",
        test=_BOUNDS_TEST + "test_large_parts_are_cut_into_messages",
    ),
)
