"""Mutants of ordering and executing requests, and of who signed what."""

from tests.mutants.mutation_runner import Mutant

_QUORUMS = "pbft/quorums.py"
_AUTHENTICATION = "pbft/authentication.py"
_LOG = "pbft/log.py"
_CORE = "pbft/core.py"
_NORMAL_CASE = "pbft/normal_case.py"
_EXECUTION = "pbft/execution.py"
_CLIENT_TABLE = "pbft/client_table.py"
_CLIENT = "pbft/client.py"

_EDGES_OF_RECOVERY_TEST = "tests/paper/test_edges_of_recovery.py::"
_RECOVERY_TEST = "tests/paper/test_recovery.py::"
_4_1_CLIENT_TEST = "tests/paper/test_section_4_1_client.py::"
_STATE_TRANSFER_TEST = "tests/paper/test_state_transfer.py::"
_BOUNDS_TEST = "tests/pbft/test_bounds.py::"
_CLIENT_TEST = "tests/pbft/test_client.py::"
_CLIENT_TABLE_TEST = "tests/pbft/test_client_table.py::"
_CORE_TEST = "tests/pbft/test_core.py::"
_FORGOTTEN_WORDS_TEST = "tests/pbft/test_forgotten_words.py::"
_NOBODY_WAITS_FOR_EVER_TEST = "tests/pbft/test_nobody_waits_for_ever.py::"

NORMAL_CASE_MUTANTS: tuple[Mutant, ...] = (
    # --- pbft/quorums.py --------------------------------------------------------------------------
    Mutant(
        name="01 strong quorum is 2f",
        file=_QUORUMS,
        old="    return Quorums(replicas, faults_max, strong, weak, prepares=strong - 1)",
        new="    return Quorums(replicas, faults_max, strong - 1, weak, prepares=strong - 2)",
        seeds=(2,),
    ),
    # --- pbft/authentication.py -------------------------------------------------------------------
    Mutant(
        name="25d whose ballot it is stands in the payload",
        file=_AUTHENTICATION,
        old="            if message.client != signed.signer:\n"
        '                return Refusal("the signer is not the client that the request names")\n',
        new="            pass\n",
        test=_4_1_CLIENT_TEST + "test_a_request_in_the_name_of_another_client_is_refused",
    ),
    Mutant(
        name="91 an old STATUS counts whoever sends it again",
        file=_AUTHENTICATION,
        old="    return signed.signer != peer and signed",
        new="    return False and signed",
        test=_NOBODY_WAITS_FOR_EVER_TEST
        + "test_a_peer_that_repeats_an_old_status_of_another_keeps_no_help_from_it",
    ),
    # --- pbft/log.py ------------------------------------------------------------------------------
    Mutant(
        name="02 f prepares are enough",
        file=_LOG,
        old="len(self.matching_prepares()) >= quorums.prepares",
        new="len(self.matching_prepares()) >= quorums.faults_max",
        seeds=(2,),
    ),
    Mutant(
        name="03 f+1 commits decide",
        file=_LOG,
        old="if len(matching) >= quorums.strong:",
        new="if len(matching) >= quorums.weak:",
        seeds=(1,),
    ),
    Mutant(
        name="11 the digest of a PREPARE is ignored",
        file=_LOG,
        old="for vote, s in self.prepares.values() if vote.digest == self.accepted]",
        new="for vote, s in self.prepares.values()]",
        seeds=(5,),
    ),
    Mutant(
        name="12 the digest of a COMMIT is ignored",
        file=_LOG,
        old="if view in views and views[view][0].digest == digest",
        new="if view in views",
        seeds=(5,),
    ),
    Mutant(
        name="12b the view of a COMMIT is ignored",
        file=_LOG,
        old="            views[view][1]\n            for views in self.commits.values()\n"
        "            if view in views and views[view][0].digest == digest",
        new="            vote[1]\n            for views in self.commits.values()\n"
        "            for vote in list(views.values())[:1]\n"
        "            if vote[0].digest == digest",
        seeds=(2,),
    ),
    Mutant(
        name="13 one voice counts again and again",
        file=_LOG,
        old="        views = self.commits.setdefault(message.replica, {})\n",
        new="        place = message.replica + 100 * len(self.commits)\n"
        "        views = self.commits.setdefault(place, {})\n",
        seeds=(2,),
    ),
    # --- pbft/core.py -----------------------------------------------------------------------------
    Mutant(
        name="29 no water marks",
        file=_CORE,
        old="        return self.low < sequence <= self.high",
        new="        return self.low < sequence",
        seeds=(2,),
    ),
    Mutant(
        name="38 votes go on while changing the view",
        file=_CORE,
        old="        return self.has_entered and not self.is_diverged and not self.is_recovering",
        new="        return not self.is_diverged and not self.is_recovering",
        seeds=(2,),
    ),
    Mutant(
        name="49 a replica that lost its words goes on voting",
        file=_CORE,
        old="        return self.has_entered and not self.is_diverged and not self.is_recovering",
        new="        return self.has_entered and not self.is_diverged",
        seeds=(32,),
    ),
    Mutant(
        name="53b a RECOVER that counted counts again",
        file=_CORE,
        old="        if earlier is not None and message.stable < earlier.voting_from:\n",
        new="        if earlier is not None and message.nonce in earlier.nonces:\n",
        test=_RECOVERY_TEST + "test_one_recovery_at_a_time_per_replica",
    ),
    Mutant(
        name="53c a RECOVER never grows too old",
        file=_CORE,
        old="        if sequence - message.stable > RECOVER_AGE_WINDOWS * self.window:\n",
        new="        if False:\n",
        test=_RECOVERY_TEST + "test_a_recover_of_an_old_loss_that_nobody_ordered_grows_too_old",
    ),
    Mutant(
        name="53d a RECOVER may name a checkpoint of the future",
        file=_CORE,
        old="        if message.stable >= sequence:\n",
        new="        if False:\n",
        test=_RECOVERY_TEST
        + "test_a_recover_that_names_a_checkpoint_of_the_future_counts_for_nothing",
    ),
    Mutant(
        name="97 each contradiction is told",
        file=_CORE,
        old="        elif count.bit_count() == 1:\n",
        new="        else:\n",
        test=_BOUNDS_TEST + "test_who_contradicts_itself_in_each_message_makes_few_lines",
    ),
    # --- pbft/normal_case.py ----------------------------------------------------------------------
    Mutant(
        name="04 the body's digest is not checked",
        file=_NORMAL_CASE,
        old="    if digest_of(body) != digest:\n        return Refusal",
        new="    if False:\n        return Refusal",
        seeds=(16,),
    ),
    Mutant(
        name="05 a request's signature in a batch is not checked",
        file=_NORMAL_CASE,
        old='            return Refusal(f"a request in the body: {refusal.reason}")',
        new="            pass",
        seeds=(5,),
    ),
    Mutant(
        name="06 a COMMIT's signature is not checked",
        file=_NORMAL_CASE,
        old="    if refusal := core.authenticator.check(signed, message):\n"
        "        return refusal\n"
        "    if earlier is not None:\n"
        "        core.record_equivocation(message.replica, earlier[1], signed)\n"
        "    if slot.decided",
        new="    if slot.decided",
        seeds=(5,),
    ),
    Mutant(
        name="06b a PREPARE's signature is not checked",
        file=_NORMAL_CASE,
        old="    if refusal := core.authenticator.check(signed, message):\n"
        "        return refusal\n"
        "    slot.prepares[message.replica]",
        new="    slot.prepares[message.replica]",
        seeds=(5,),
    ),
    Mutant(
        name="07 anybody may send PRE-PREPARE",
        file=_NORMAL_CASE,
        old="    if message.replica != core.primary:\n"
        '        return Refusal("a PRE-PREPARE from a replica that is not the primary")\n',
        new="",
        seeds=(5,),
    ),
    Mutant(
        name="08 a second PRE-PREPARE replaces the first",
        file=_NORMAL_CASE,
        old="    if proposal is not None:\n        return _second_pre_prepare",
        new="    if proposal is not None and proposal.message.digest != message.digest:\n"
        "        slot.accepted = None\n"
        "    elif proposal is not None:\n"
        "        return _second_pre_prepare",
        seeds=(5,),
    ),
    Mutant(
        name="09 the primary's PREPARE counts",
        file=_NORMAL_CASE,
        old="    if message.replica == core.primary:\n"
        '        return Refusal("a PREPARE from the primary")\n',
        new="",
        seeds=(5,),
    ),
    Mutant(
        name="10 the view of a PREPARE is ignored",
        file=_NORMAL_CASE,
        old="    if message.view != core.view:",
        new="    if message.view != core.view and isinstance(message, PrePrepare):",
        seeds=(2,),
    ),
    Mutant(
        name="24 amnesia: PREPARE is not saved",
        file=_NORMAL_CASE,
        old="    slot.prepares[core.index] = (prepare, signed)\n"
        "    core.save(slot, SavedMessage(signed))\n",
        new="    slot.prepares[core.index] = (prepare, signed)\n",
        seeds=(1,),
    ),
    Mutant(
        name="24b amnesia: COMMIT is not saved",
        file=_NORMAL_CASE,
        old="    slot.add_commit(commit, signed, core.quorums)\n"
        "    core.save(slot, SavedMessage(signed))\n",
        new="    slot.add_commit(commit, signed, core.quorums)\n",
        seeds=(1,),
    ),
    Mutant(
        name="41 the body is not saved with the vote for it",
        file=_NORMAL_CASE,
        old="core.output.records.append(SavedBody(slot.sequence, batch.digest, batch.body))",
        new="pass",
        seeds=(2,),
    ),
    Mutant(
        name="42 the certificate behind a COMMIT is not saved",
        file=_NORMAL_CASE,
        old="    core.save(slot, SavedPrepared(certificate))\n",
        new="",
        seeds=(7,),
    ),
    Mutant(
        name="77 our own COMMIT that is sent back counts twice",
        file=_NORMAL_CASE,
        old="    if slot.commit_of(core.index, message.view) == message:\n",
        new="    if False:\n",
        test=_FORGOTTEN_WORDS_TEST + "test_what_is_here_already_does_not_count_twice",
    ),
    Mutant(
        name="81 what this turn decided is called forgotten",
        file=_NORMAL_CASE,
        old="(kept is None and isinstance(record, SavedEntry))",
        new="False",
        test=_CORE_TEST + "test_nothing_is_called_forgotten_whose_answer_is_not_saved_yet",
    ),
    Mutant(
        name="84 what an adopted state knows is called forgotten",
        file=_NORMAL_CASE,
        old="        isinstance(record, CheckpointRecord) or (kept",
        new="        (kept",
        test=_STATE_TRANSFER_TEST
        + "test_nothing_is_called_forgotten_in_the_turn_that_adopts_a_state",
    ),
    Mutant(
        name="95 each copy of an executed request is answered",
        file=_NORMAL_CASE,
        old="    budget.timestamps.add(message.timestamp)\n",
        new="",
        test=_BOUNDS_TEST + "test_a_request_that_comes_many_times_in_one_turn_is_answered_once",
    ),
    Mutant(
        name="95b what is looked up in one turn has no bound",
        file=_NORMAL_CASE,
        old="    if budget.cost_bytes >= AGAIN_BYTES_MAX:\n",
        new="    if False:\n",
        test=_BOUNDS_TEST + "test_what_is_looked_up_for_one_client_in_one_turn_is_bounded",
    ),
    # --- pbft/execution.py ------------------------------------------------------------------------
    Mutant(
        name="27 requests are executed again",
        file=_EXECUTION,
        old="        if core.execution.clients.is_executable(request.client, request.timestamp):",
        new="        if request.timestamp > 0:",
        seeds=(6,),
    ),
    Mutant(
        name="28 execution out of order",
        file=_EXECUTION,
        old="    slot = core.log.find(core.executed + 1)\n"
        "    if slot is None or not slot.committed_local():\n        return None\n",
        new="    later = core.log.above(core.executed)\n"
        "    slot = next((s for s in later if s.committed_local()), None)\n"
        "    if slot is None:\n        return None\n"
        "    core.execution.executed = slot.sequence - 1\n",
        seeds=(2,),
    ),
    Mutant(
        name="47 an execution is not saved",
        file=_EXECUTION,
        old="    core.save(slot, Executed(slot.sequence, decided.digest, decided.commits))\n",
        new="",
        seeds=(1,),
    ),
    Mutant(
        name="52 T is the next checkpoint",
        file=_EXECUTION,
        old="    voting_from = core.cluster.checkpoint_from(sequence + core.window)",
        new="    voting_from = core.cluster.checkpoint_from(sequence)",
        test=_RECOVERY_TEST + "test_an_executed_recover_fixes_t_in_the_state_of_all",
    ),
    Mutant(
        name="E2 a RECOVER that is ordered again counts again",
        file=_EXECUTION,
        old="    if core.recover_refusal(message, sequence) is not None:\n",
        new="    if False:\n",
        test=_EDGES_OF_RECOVERY_TEST + "test_a_recover_that_is_ordered_again_after_t_has_no_effect",
    ),
    # --- pbft/client_table.py ---------------------------------------------------------------------
    Mutant(
        name="54 the low timestamp of a client skips holes",
        file=_CLIENT_TABLE,
        old=(
            "        while record.low_timestamp + 1 in record.executed:\n"
            "            record.low_timestamp += 1\n"
        ),
        new=(
            "        while record.executed:\n"
            "            record.low_timestamp = min(record.executed)\n"
        ),
        seeds=(2,),
    ),
    Mutant(
        name="55 a client's numbers have no window",
        file=_CLIENT_TABLE,
        old="        within = low < timestamp <= low + self._window\n",
        new="        within = low < timestamp\n",
        test=_CLIENT_TABLE_TEST + "test_recording_what_is_not_executable_is_our_own_fault",
    ),
    # --- pbft/client.py ---------------------------------------------------------------------------
    Mutant(
        name="26 one reply is believed",
        file=_CLIENT,
        old="        if len(equal) >= self._cluster.quorums.weak:",
        new="        if len(equal) >= 1:",
        seeds=(1,),
    ),
    Mutant(
        name="56 a reply that names another request counts",
        file=_CLIENT,
        old="    return (reply.request_digest, reply.kind, reply.subject, reply.result)",
        new='    return (b"", reply.kind, reply.subject, reply.result)',
        test=_CLIENT_TEST + "test_what_differs_in_any_compared_field_does_not_count_together",
    ),
)
