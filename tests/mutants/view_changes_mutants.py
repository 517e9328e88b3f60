"""Mutants of timers, view changes and the certificates in them."""

from tests.mutants.mutation_runner import Mutant

_CERTIFICATES = "pbft/certificates.py"
_TIMERS = "pbft/timers.py"
_VIEW_CHANGE = "pbft/view_change.py"
_RESTORE_TEST = "tests/pbft/test_restore.py::"

_EDGES_OF_REPAIR_TEST = "tests/paper/test_edges_of_repair.py::"
_EDGES_OF_VIEW_CHANGES_TEST = "tests/paper/test_edges_of_view_changes.py::"
_RECOVERY_TEST = "tests/paper/test_recovery.py::"
_4_2_KEPT_REQUESTS_TEST = "tests/paper/test_section_4_2_kept_requests.py::"
_4_4_NEW_VIEWS_TEST = "tests/paper/test_section_4_4_new_views.py::"
_4_4_VIEW_CHANGES_TEST = "tests/paper/test_section_4_4_view_changes.py::"
_4_5_LIVENESS_TEST = "tests/paper/test_section_4_5_liveness.py::"
_TRAPS_OF_VIEW_CHANGES_TEST = "tests/paper/test_traps_of_view_changes.py::"
_CERTIFICATES_TEST = "tests/pbft/test_certificates.py::"
_FORGOTTEN_WORDS_TEST = "tests/pbft/test_forgotten_words.py::"
_NOBODY_WAITS_FOR_EVER_TEST = "tests/pbft/test_nobody_waits_for_ever.py::"

VIEW_CHANGES_MUTANTS: tuple[Mutant, ...] = (
    # --- pbft/certificates.py ---------------------------------------------------------------------
    Mutant(
        name="15 the certificates of a VIEW-CHANGE are not checked",
        file=_CERTIFICATES,
        old="        if isinstance(pre_prepare, Refusal):\n            return pre_prepare\n",
        new="        if isinstance(pre_prepare, Refusal):\n"
        "            pre_prepare = authenticator.read(certificate.pre_prepare)\n"
        "            assert isinstance(pre_prepare, PrePrepare)\n",
        seeds=(310,),
    ),
    Mutant(
        name="16 certificates: the PREPAREs may be about something else",
        file=_CERTIFICATES,
        old="        if not same:\n",
        new="        if False:\n",
        seeds=(48,),
    ),
    Mutant(
        name="16b certificates: signatures are not checked",
        file=_CERTIFICATES,
        old="        if authenticator.check(signed, prepare):\n",
        new="        if False:\n",
        seeds=(310,),
    ),
    Mutant(
        name="17 certificates with f PREPAREs",
        file=_CERTIFICATES,
        old="    if len(certificate.prepares) < cluster.quorums.prepares:",
        new="    if len(certificate.prepares) < cluster.quorums.faults_max:",
        test=_4_4_VIEW_CHANGES_TEST
        + "test_view_change_refused_with_a_certificate_that_does_not_hold",
    ),
    Mutant(
        name="19 the lowest view wins in O",
        file=_CERTIFICATES,
        old="view > best[sequence][0])",
        new="view < best[sequence][0])",
        test=_TRAPS_OF_VIEW_CHANGES_TEST + "test_celo_f_locked_on_a_and_2f_on_b_go_on_with_b",
    ),
    Mutant(
        name="20 gaps in O are left out",
        file=_CERTIFICATES,
        old="            for sequence in range(sequence_min + 1, sequence_max + 1)",
        new="            for sequence in sorted(best)",
        seeds=(5,),
    ),
    Mutant(
        name="22 f checkpoints are stable",
        file=_CERTIFICATES,
        old="            if len(signed_votes) >= self._quorums.strong:",
        new="            if len(signed_votes) >= self._quorums.faults_max:",
        seeds=(2,),
    ),
    Mutant(
        name="22b the digest of a checkpoint is ignored",
        file=_CERTIFICATES,
        old="by_digest.setdefault(message.digest, []).append(signed)",
        new="by_digest.setdefault(bytes(32), []).append(signed)",
        seeds=(2,),
    ),
    Mutant(
        name="93 a prepared certificate may be padded",
        file=_CERTIFICATES,
        old="    if len(certificate.prepares) > cluster.quorums.prepares:\n",
        new="    if False:\n",
        test=_CERTIFICATES_TEST
        + "test_a_prepared_certificate_has_just_as_many_prepares_as_it_needs",
    ),
    Mutant(
        name="94 a checkpoint's certificate may be padded",
        file=_CERTIFICATES,
        old="        if message.replica in replicas:\n",
        new="        if False:\n",
        test=_CERTIFICATES_TEST
        + "test_a_checkpoint_certificate_has_no_replica_twice_and_may_have_each",
    ),
    # --- pbft/timers.py ---------------------------------------------------------------------------
    Mutant(
        name="33 no back-off",
        file=_TIMERS,
        old="        core.timers.timeout = min(2 * core.timers.timeout,"
        " core.settings.view_change_seconds_max)",
        new="        pass",
        test=_4_5_LIVENESS_TEST + "test_the_wait_doubles_for_each_view_that_fails_up_to_a_cap",
    ),
    Mutant(
        name="34 the view-change timer is lost",
        file=_TIMERS,
        old="    if core.timers.view_change_due is None:\n",
        new="    if False:\n",
        seeds=(2,),
    ),
    Mutant(
        name="40 requests are not forwarded to the primary",
        file=_TIMERS,
        old="            _forward(core, client, lowest)\n",
        new="",
        test=_4_5_LIVENESS_TEST
        + "test_a_request_is_handed_on_to_the_primary_once_at_half_its_time",
    ),
    Mutant(
        name="53g a primary may take its time for each null request that is owed",
        file=_TIMERS,
        old="        timed[NULLS] = min(\n",
        new="        _ = min(\n",
        test=_RECOVERY_TEST + "test_null_requests_that_come_slowly_are_not_waited_for_for_ever",
    ),
    Mutant(
        name="53h the pace of null requests is not reckoned with",
        file=_TIMERS,
        old=" + 2 * owed_most * core.settings.null_seconds",
        new="",
        test=_RECOVERY_TEST + "test_null_requests_at_their_pace_depose_nobody",
    ),
    Mutant(
        name="62 a primary never judges itself",
        file=_TIMERS,
        old="    share = 2 if core.is_primary else 1\n",
        new="    if core.is_primary:\n        return False\n    share = 1\n",
        test=_4_5_LIVENESS_TEST + "test_a_primary_judges_itself_after_twice_the_time",
    ),
    Mutant(
        name="63 others' executions move a client's timer",
        file=_TIMERS,
        old="    core.timers.has_progressed = True\n",
        new="    core.timers.has_progressed = True\n    core.timers.timed = {}\n"
        "    core.timers.waiting = {}\n",
        test=_4_5_LIVENESS_TEST + "test_serving_others_censors_nobody",
    ),
    Mutant(
        name="105 what nobody waits for is kept until somebody waits for something",
        file=_TIMERS,
        old="    return now < timers.batch_due\n",
        new="    return True\n",
        test=_4_2_KEPT_REQUESTS_TEST
        + "test_what_nobody_waits_for_is_kept_and_proposed_when_its_time_is_over",
    ),
    Mutant(
        name="E13c a replica that is diverged judges the primary",
        file=_TIMERS,
        old="    is_needed = core.is_voting and not core.has_ended\n",
        new="    is_needed = core.has_entered and not core.is_recovering\n",
        test=_EDGES_OF_REPAIR_TEST + "test_who_is_diverged_leaves_no_view",
    ),
    Mutant(
        name="E25 the wait comes down at once",
        file=_TIMERS,
        old="max(core.settings.view_change_seconds, core.timers.timeout / 2)\n",
        new="core.settings.view_change_seconds\n",
        test=_EDGES_OF_VIEW_CHANGES_TEST + "test_the_wait_comes_down_by_half_with_each_batch",
    ),
    Mutant(
        name="E26 a RECOVER is handed on again and again",
        file=_TIMERS,
        old="        or (client.startswith(RECOVERY) and timed.get(client) == number)\n",
        new="",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_a_recover_is_handed_on_to_the_primary_once_per_view",
    ),
    # --- pbft/view_change.py ----------------------------------------------------------------------
    Mutant(
        name="08b what O orders above the window binds nobody",
        file=_VIEW_CHANGE,
        old="        core.views.ordered[sequence] = Proposal(pre_prepare, signed)\n",
        new="        if core.within_water_marks(sequence):\n"
        "            core.views.ordered[sequence] = Proposal(pre_prepare, signed)\n",
        test=_4_4_NEW_VIEWS_TEST
        + "test_what_o_orders_above_the_window_binds_a_replica_that_comes_so_far_later",
    ),
    Mutant(
        name="14 VIEW-CHANGE without what was prepared",
        file=_VIEW_CHANGE,
        old="            prepared.append(slot.prepared.certificate)",
        new="            pass",
        seeds=(2,),
    ),
    Mutant(
        name="18 O is not computed again",
        file=_VIEW_CHANGE,
        old="    return _check_pre_prepares(message, order, authenticator) or order",
        new="    return order",
        seeds=(48,),
    ),
    Mutant(
        name="21 numbers start anew in a new view",
        file=_VIEW_CHANGE,
        old="    core.proposer.next_sequence = max(order.sequence_max, core.executed) + 1",
        new="    core.proposer.next_sequence = core.executed + 1",
        seeds=(2,),
    ),
    Mutant(
        name="31 one VIEW-CHANGE drags others along",
        file=_VIEW_CHANGE,
        old="    return views[0] if len(views) >= core.quorums.weak else None",
        new="    return views[0] if views else None",
        seeds=(7,),
    ),
    Mutant(
        name="32 nobody joins a view change",
        file=_VIEW_CHANGE,
        old="    return views[0] if len(views) >= core.quorums.weak else None",
        new="    return None",
        test=_4_5_LIVENESS_TEST
        + "test_f_plus_1_replicas_are_joined_at_the_smallest_view_that_they_name",
    ),
    Mutant(
        name="35 min-s is not adopted as a floor",
        file=_VIEW_CHANGE,
        old="    core.views.min_s = order.sequence_min\n",
        new="",
        test=_4_4_NEW_VIEWS_TEST
        + "test_min_s_is_a_floor_below_which_nothing_is_accepted_in_the_view",
    ),
    Mutant(
        name="37 NEW-VIEW with too few VIEW-CHANGEs",
        file=_VIEW_CHANGE,
        old="    if len(changes) < cluster.quorums.strong"
        " or len(changes) != len(message.view_changes):",
        new="    if len(changes) < cluster.quorums.weak:",
        seeds=(7,),
    ),
    Mutant(
        name="24c amnesia: VIEW-CHANGE is not saved",
        file=_VIEW_CHANGE,
        old="    core.output.records.append(SavedMessage(signed))\n\n\ndef _enter",
        new="\n\ndef _enter",
        seeds=(2,),
    ),
    Mutant(
        name="E16 view records pile up",
        file=_VIEW_CHANGE,
        old="    core.views.records = [SavedMessage(signed)]\n",
        new="    core.views.records = [*core.views.records, SavedMessage(signed)]\n",
        test=_RESTORE_TEST + "test_of_all_views_that_were_left_and_entered_the_last_word_is_kept",
    ),
    Mutant(
        name="43 the NEW-VIEW that is entered is not saved",
        file=_VIEW_CHANGE,
        old="    _save(core, signed)\n    core.views.changes = {",
        new="    core.views.changes = {",
        seeds=(2,),
    ),
    Mutant(
        name="79i another NEW-VIEW of ours for the view that we are in proves nothing",
        file=_VIEW_CHANGE,
        old="    if message.view == core.view and known is not None"
        " and known.payload == signed.payload:\n",
        new="    if message.view == core.view and core.has_entered:\n",
        test=_FORGOTTEN_WORDS_TEST
        + "test_who_forgot_it_and_began_the_view_otherwise_recovers_when_it_is_shown",
    ),
    Mutant(
        name="98 who asked for a far view is not heard in a nearer one",
        file=_VIEW_CHANGE,
        old="    core.views.overtaken_changes[message.replica] = checked\n",
        new="",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_who_once_asked_for_a_far_view_counts_in_the_next_one",
    ),
    Mutant(
        name="E22 a VIEW-CHANGE beside one for a far view is not checked",
        file=_VIEW_CHANGE,
        old="        return checked\n    core.views.overtaken_changes[message.replica] = checked\n",
        new="        checked = CheckedViewChange(message, signed, ())\n"
        "    core.views.overtaken_changes[message.replica] = checked\n",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_a_view_change_beside_one_for_a_far_view_is_checked_like_any_other",
    ),
    Mutant(
        name="E23 who left for a later view is forgotten with a view that begins",
        file=_VIEW_CHANGE,
        old="        if checked.message.view > core.view\n    }\n    core.views.overtaken",
        new="        if False\n    }\n    core.views.overtaken",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_who_left_for_a_later_view_counts_in_the_view_that_was_entered",
    ),
    Mutant(
        name="E24 what an earlier view ordered binds in the next",
        file=_VIEW_CHANGE,
        old="        slot.leave_view()\n    core.views.ordered = {}\n    for",
        new="        slot.leave_view()\n    for",
        test=_EDGES_OF_VIEW_CHANGES_TEST
        + "test_what_an_earlier_view_ordered_binds_nobody_in_the_next",
    ),
)
