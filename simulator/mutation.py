"""The mutants: faults that implementations of PBFT really had, as patches of this one."""

from simulator.bounds_mutants import BOUNDS_MUTANTS
from simulator.edges_mutants import EDGES_MUTANTS
from simulator.further_mutants import FURTHER_MUTANTS
from simulator.mutants import Mutant

_NORMAL = "pbft/normal_case.py"
_LOG = "pbft/log.py"
_CERTIFICATES = "pbft/certificates.py"
_VIEW = "pbft/view_change.py"
_CHECKPOINT = "pbft/checkpoint.py"
_TRANSFER = "pbft/state_transfer.py"
_TIMERS = "pbft/timers.py"
_EXECUTION = "pbft/execution.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="01 strong quorum is 2f",
        file="pbft/quorums.py",
        old="    return Quorums(replicas, faults_max, strong, weak, prepares=strong - 1)",
        new="    return Quorums(replicas, faults_max, strong - 1, weak, prepares=strong - 2)",
        seeds=(2,),
    ),
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
        name="04 the body's digest is not checked",
        file=_NORMAL,
        old="    if digest_of(body) != digest:\n        return Refusal",
        new="    if False:\n        return Refusal",
        seeds=(16,),
    ),
    Mutant(
        name="05 a request's signature in a batch is not checked",
        file=_NORMAL,
        old='            return Refusal(f"a request in the body: {refusal.reason}")',
        new="            pass",
        seeds=(5,),
    ),
    Mutant(
        name="06 a COMMIT's signature is not checked",
        file=_NORMAL,
        old=(
            "    if refusal := core.authenticator.check(signed, message):\n"
            "        return refusal\n"
            "    if earlier is not None:\n"
            "        core.accuse(message.replica, earlier[1], signed)\n"
            "    if slot.decided"
        ),
        new="    if slot.decided",
        seeds=(5,),
    ),
    Mutant(
        name="06b a PREPARE's signature is not checked",
        file=_NORMAL,
        old=(
            "    if refusal := core.authenticator.check(signed, message):\n"
            "        return refusal\n"
            "    slot.prepares[message.replica]"
        ),
        new="    slot.prepares[message.replica]",
        seeds=(5,),
    ),
    Mutant(
        name="07 anybody may send PRE-PREPARE",
        file=_NORMAL,
        old=(
            "    if message.replica != core.primary:\n"
            '        return Refusal("a PRE-PREPARE from a replica that is not the primary")\n'
        ),
        new="",
        seeds=(5,),
    ),
    Mutant(
        name="08 a second PRE-PREPARE replaces the first",
        file=_NORMAL,
        old="    if proposal is not None:\n        return _second_pre_prepare",
        new=(
            "    if proposal is not None and proposal.message.digest != message.digest:\n"
            "        slot.accepted = None\n"
            "    elif proposal is not None:\n"
            "        return _second_pre_prepare"
        ),
        seeds=(5,),
    ),
    Mutant(
        name="08b what O orders above the window binds nobody",
        file=_VIEW,
        old="        core.ordered[sequence] = Proposal(pre_prepare, signed)\n",
        new="        if core.within_water_marks(sequence):\n"
        "            core.ordered[sequence] = Proposal(pre_prepare, signed)\n",
        test="tests/paper/test_section_4_4_new_views.py",
    ),
    Mutant(
        name="09 the primary's PREPARE counts",
        file=_NORMAL,
        old=(
            "    if message.replica == core.primary:\n"
            '        return Refusal("a PREPARE from the primary")\n'
        ),
        new="",
        seeds=(5,),
    ),
    Mutant(
        name="10 the view of a PREPARE is ignored",
        file=_NORMAL,
        old="    if message.view != core.view:",
        new="    if message.view != core.view and isinstance(message, PrePrepare):",
        seeds=(2,),
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
    Mutant(
        name="14 VIEW-CHANGE without what was prepared",
        file=_VIEW,
        old="            prepared.append(slot.prepared.certificate)",
        new="            pass",
        seeds=(2,),
    ),
    Mutant(
        name="15 the certificates of a VIEW-CHANGE are not checked",
        file=_CERTIFICATES,
        old="        if isinstance(pre_prepare, Refusal):\n            return pre_prepare\n",
        new="        if isinstance(pre_prepare, Refusal):\n"
        "            pre_prepare = authenticator.read(certificate.pre_prepare)\n"
        "            assert isinstance(pre_prepare, PrePrepare)\n",
        seeds=(14,),
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
        seeds=(14,),
    ),
    Mutant(
        name="17 certificates with f PREPAREs",
        file=_CERTIFICATES,
        old="    if len(certificate.prepares) < cluster.quorums.prepares:",
        new="    if len(certificate.prepares) < cluster.quorums.faults_max:",
        test="tests/paper/test_section_4_4_view_changes.py",
    ),
    Mutant(
        name="18 O is not computed again",
        file=_VIEW,
        old="    return _check_pre_prepares(message, message.pre_prepares, order, authenticator)"
        " or order",
        new="    return order",
        seeds=(48,),
    ),
    Mutant(
        name="19 the lowest view wins in O",
        file=_CERTIFICATES,
        old="view > best[sequence][0])",
        new="view < best[sequence][0])",
        test="tests/paper/test_traps_of_view_changes.py"
        "::test_celo_f_locked_on_a_and_2f_on_b_go_on_with_b",
    ),
    Mutant(
        name="20 gaps in O are left out",
        file=_CERTIFICATES,
        old="            for sequence in range(sequence_min + 1, sequence_max + 1)",
        new="            for sequence in sorted(best)",
        seeds=(5,),
    ),
    Mutant(
        name="21 numbers start anew in a new view",
        file=_VIEW,
        old="    core.next_sequence = max(order.sequence_max, core.executed) + 1",
        new="    core.next_sequence = core.executed + 1",
        seeds=(2,),
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
        name="23 a fetched part is not checked",
        file=_TRANSFER,
        old="        if transfer.leaves.get(name) == digest_of(data):",
        new="        if name in transfer.leaves:",
        replicas=7,  # there a liar and a replica that fetches a state come together often
        seeds=(1,),
    ),
    Mutant(
        name="23b the fetched leaves are not checked",
        file=_TRANSFER,
        old="    if leaves_digest(message.leaves) != transfer.certificate.digest:",
        new="    if False:",
        test="tests/paper/test_state_transfer.py",
    ),
    Mutant(
        name="24 amnesia: PREPARE is not saved",
        file=_NORMAL,
        old="    slot.prepares[core.index] = (prepare, signed)\n"
        "    core.save(slot, SavedMessage(signed))\n",
        new="    slot.prepares[core.index] = (prepare, signed)\n",
        seeds=(1,),
    ),
    Mutant(
        name="24b amnesia: COMMIT is not saved",
        file=_NORMAL,
        old="    slot.add_commit(commit, signed, core.quorums)\n"
        "    core.save(slot, SavedMessage(signed))\n",
        new="    slot.add_commit(commit, signed, core.quorums)\n",
        seeds=(1,),
    ),
    Mutant(
        name="24c amnesia: VIEW-CHANGE is not saved",
        file="pbft/core.py",
        old="        self.output.records.append(SavedMessage(signed))\n\n    def accuse",
        new="\n    def accuse",
        seeds=(2,),
    ),
    Mutant(
        name="24d the store ignores a torn tail",
        file="node/record_chain.py",
        old="if not is_next or next_chain(chain, row_position, body) != row_chain:",
        new="if not is_next:",
        test="tests/node/test_store.py::test_a_tail_above_the_mark_that_breaks_the_chain_is_cut",
    ),
    Mutant(
        name="25 f equal ballots decide",
        file="ci/verdict.py",
        old="        return self.quorums.weak\n",
        new="        return self.quorums.faults_max\n",
        seeds=(5,),
    ),
    Mutant(
        name="25b f+1 equal ballots make green",
        file="ci/verdict.py",
        old="            return self.quorums.replicas - self.quorums.faults_max\n",
        new="            return self.quorums.weak\n",
        seeds=(2,),
    ),
    Mutant(
        name="25c a replica votes as often as it likes",
        file="ci/application.py",
        old="        if replica in build.ballots:\n"
        '            return _refused("this replica has cast its ballot")\n',
        new='        if replica in build.ballots:\n            replica += "+"\n',
        test="tests/ci/test_application.py",
    ),
    Mutant(
        name="25d whose ballot it is stands in the payload",
        file="pbft/authentication.py",
        old="            if message.client != signed.signer:\n"
        '                return Refusal("the signer is not the client that the request names")\n',
        new="            pass\n",
        test="tests/paper/test_section_4_1_client.py",
    ),
    Mutant(
        name="25e weak agreement that the genesis does not allow",
        file="ci/verdict.py",
        old=" and self.is_weak_agreement_allowed\n",
        new="\n",
        test="tests/ci/test_verdict.py",
    ),
    Mutant(
        name="25f ballots on a build that waits for approval",
        file="ci/application.py",
        old="        if build is None or build.opened != opened or not build.is_approved:\n",
        new="        if build is None or build.opened != opened:\n",
        test="tests/ci/test_approval.py",
    ),
    Mutant(
        name="25g a redelivered build opens again",
        file="ci/application.py",
        old="        if build_id in self._closed or build_id in self._deliveries:\n",
        new="        if build_id in self._closed:\n",
        test="tests/ci/test_deliveries.py",
    ),
    Mutant(
        name="26 one reply is believed",
        file="pbft/client.py",
        old="        if len(equal) >= self._cluster.quorums.weak:",
        new="        if len(equal) >= 1:",
        seeds=(1,),
    ),
    Mutant(
        name="27 requests are executed again",
        file=_EXECUTION,
        old="        if core.clients.is_executable(request.client, request.timestamp):",
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
        "    if slot is None:\n        return None\n    core.executed = slot.sequence - 1\n",
        seeds=(2,),
    ),
    Mutant(
        name="29 no water marks",
        file="pbft/core.py",
        old="        return self.low < sequence <= self.high",
        new="        return self.low < sequence",
        seeds=(2,),
    ),
    Mutant(
        name="30 no garbage collection",
        file=_CHECKPOINT,
        old="    core.log.forget_up_to(core.kept_above)\n",
        new="",
        seeds=(2,),
    ),
    Mutant(
        name="31 one VIEW-CHANGE drags others along",
        file=_VIEW,
        old="    return views[0] if len(views) >= core.quorums.weak else None",
        new="    return views[0] if views else None",
        seeds=(7,),
    ),
    Mutant(
        name="32 nobody joins a view change",
        file=_VIEW,
        old="    return views[0] if len(views) >= core.quorums.weak else None",
        new="    return None",
        test="tests/paper/test_section_4_5_liveness.py"
        "::test_f_plus_1_replicas_are_joined_at_the_smallest_view_that_they_name",
    ),
    Mutant(
        name="33 no back-off",
        file=_TIMERS,
        old="        core.timers.timeout = min(2 * core.timers.timeout,"
        " core.settings.view_change_seconds_max)",
        new="        pass",
        test="tests/paper/test_section_4_5_liveness.py",
    ),
    Mutant(
        name="34 the view-change timer is lost",
        file=_TIMERS,
        old="    if core.timers.view_change_due is None:\n",
        new="    if False:\n",
        seeds=(2,),
    ),
    Mutant(
        name="34b the VIEW-CHANGE is not sent again",
        file="pbft/catch_up.py",
        old="        core.send(to, core.view_changes[core.index].signed)\n",
        new="        pass\n",
        test="tests/paper/test_traps_of_view_changes.py"
        "::test_trap_16_view_changes_that_some_links_lost_come_again_without_traffic",
    ),
    Mutant(
        name="35 min-s is not adopted as a floor",
        file=_VIEW,
        old="    core.floor = order.sequence_min\n",
        new="",
        test="tests/paper/test_section_4_4_new_views.py",
    ),
    Mutant(
        name="36 the stable certificate is not sent again",
        file="pbft/catch_up.py",
        old="        words = [*core.stable.checkpoints, *own]\n",
        new="        words = own\n",
        seeds=(9,),
    ),
    Mutant(
        name="36b of the stable certificate one's own CHECKPOINT alone is sent again",
        file="pbft/catch_up.py",
        old="        words = [*core.stable.checkpoints, *own]\n",
        new="        mine = core.cluster.replica_names[core.index]\n"
        "        words = [c for c in core.stable.checkpoints if c.signer == mine] + own\n",
        test="tests/paper/test_traps_of_view_changes.py"
        "::test_a_certificate_that_is_sent_again_lets_a_replica_move_that_lost_the_checkpoints",
    ),
    Mutant(
        name="37 NEW-VIEW with too few VIEW-CHANGEs",
        file=_VIEW,
        old="    if len(changes) < cluster.quorums.strong"
        " or len(changes) != len(message.view_changes):",
        new="    if len(changes) < cluster.quorums.weak:",
        seeds=(7,),
    ),
    Mutant(
        name="38 votes go on while changing the view",
        file="pbft/core.py",
        old="        return self.has_entered and not self.is_diverged and not self.nonce",
        new="        return not self.is_diverged and not self.nonce",
        seeds=(2,),
    ),
    Mutant(
        name="39 a replica that lost its words votes at once",
        file="pbft/recovery.py",
        old="    if core.low < core.recoveries[core.index].voting_from:\n        return False\n",
        new="",
        test="tests/paper/test_recovery.py",
    ),
    Mutant(
        name="40 requests are not forwarded to the primary",
        file=_TIMERS,
        old="            _forward(core, client, lowest)\n",
        new="",
        test="tests/paper/test_section_4_5_liveness.py",  # a client that reaches only a backup
    ),
    *FURTHER_MUTANTS,
    *BOUNDS_MUTANTS,
    *EDGES_MUTANTS,
)
