"""Further mutants: of what is saved and in which order, of recovery, clients, builds and timers."""

from simulator.mutants import Mutant

_NORMAL = "pbft/normal_case.py"
_CORE = "pbft/core.py"
_CATCH_UP = "pbft/catch_up.py"
_CERTIFICATES = "pbft/certificates.py"
_CHECKPOINT = "pbft/checkpoint.py"
_APPLICATION = "ci/application.py"
_EXECUTORS = "ci/executors.py"
_CLIENTS = "pbft/client_table.py"
_RECOVERY = "pbft/recovery.py"
_REPLICA = "pbft/replica.py"
_TIMERS = "pbft/timers.py"

FURTHER_MUTANTS: tuple[Mutant, ...] = (
    # --- durable ------------------------------------------------------------------------------
    Mutant(
        name="41 the body is not saved with the vote for it",
        file=_NORMAL,
        old="core.output.records.append(SavedBody(slot.sequence, batch.digest, batch.body))",
        new="pass",
        seeds=(2,),
    ),
    Mutant(
        name="42 the certificate behind a COMMIT is not saved",
        file=_NORMAL,
        old="    core.save(slot, SavedPrepared(certificate))\n",
        new="",
        seeds=(7,),
    ),
    Mutant(
        name="43 the NEW-VIEW that is entered is not saved",
        file="pbft/view_change.py",
        old="    core.save_view(signed)\n    core.view_changes = {",
        new="    core.view_changes = {",
        seeds=(2,),
    ),
    Mutant(
        name="44 what was said about open slots is lost with a new base",
        file=_CHECKPOINT,
        old="        core.output.records.extend(slot.records)\n",
        new="        pass\n",
        seeds=(2,),
    ),
    Mutant(
        name="45 the view is lost with a new base",
        file=_CHECKPOINT,
        old="    core.output.records.extend(core.view_records)\n",
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
        name="47 an execution is not saved",
        file="pbft/execution.py",
        old="    core.save(slot, Executed(slot.sequence, decided.digest, decided.commits))\n",
        new="",
        seeds=(1,),
    ),
    Mutant(
        name="48 a real process sends what it has not saved",
        file="node/runtime.py",
        old="                await self._save(outputs)\n",
        new="",
        test="tests/node/test_runtime.py",
    ),
    # --- recovery -----------------------------------------------------------------------------
    Mutant(
        name="49 a replica that lost its words goes on voting",
        file=_CORE,
        old="        return self.has_entered and not self.is_diverged and not self.nonce",
        new="        return self.has_entered and not self.is_diverged",
        seeds=(18,),
    ),
    Mutant(
        name="50 VIEW-CHANGEs from before a recovery count",
        file=_RECOVERY,
        old='        return Refusal("a VIEW-CHANGE from before the replica\'s recovery")\n',
        new="        pass\n",
        test="tests/paper/test_recovery.py",
    ),
    Mutant(
        name="51 nobody owes null requests up to T",
        file=_RECOVERY,
        old="    return any(done.voting_from >= core.next_sequence"
        " for done in core.recoveries.values())",
        new="    return False",
        seeds=(18,),
    ),
    Mutant(
        name="52 T is the next checkpoint",
        file="pbft/execution.py",
        old="    voting_from = -(-(sequence + core.window) // core.interval) * core.interval",
        new="    voting_from = -(-sequence // core.interval) * core.interval",
        test="tests/paper/test_recovery.py",
    ),
    Mutant(
        name="53 the right to vote is taken back without a word on disk",
        file=_RECOVERY,
        old="    core.output.records.append(SavedRecovery(nonce))\n",
        new="",
        test="tests/paper/test_recovery.py",
    ),
    # --- clients ------------------------------------------------------------------------------
    Mutant(
        name="54 the floor of a client skips holes",
        file=_CLIENTS,
        old="        while record.floor + 1 in record.executed:\n            record.floor += 1\n",
        new="        while record.executed:\n            record.floor = min(record.executed)\n",
        seeds=(2,),
    ),
    Mutant(
        name="55 a client's numbers have no window",
        file=_CLIENTS,
        old="        within = floor < timestamp <= floor + self._window\n",
        new="        within = floor < timestamp\n",
        test="tests/pbft/test_client_table.py",
    ),
    Mutant(
        name="56 a reply that names another request counts",
        file="pbft/client.py",
        old="    return (reply.request_digest, reply.kind, reply.subject, reply.result)",
        new='    return (b"", reply.kind, reply.subject, reply.result)',
        test="tests/pbft/test_client.py",
    ),
    # --- builds -------------------------------------------------------------------------------
    Mutant(
        name="57 f+1 reports of the deadline end a build",
        file="ci/verdict.py",
        old="    return DISPUTED if deadline_reports >= quorums.strong else None",
        new="    return DISPUTED if deadline_reports >= quorums.weak else None",
        seeds=(21,),
    ),
    Mutant(
        name="58 any client may cancel any build",
        file=_APPLICATION,
        old="        if not is_operator and remaining.askers == build.askers:\n",
        new="        if False:\n",
        test="tests/ci/test_application.py",
    ),
    Mutant(
        name="59 a gateway's word ends a build that others asked for",
        file=_APPLICATION,
        old="        if remaining.askers and not is_operator:\n",
        new="        if False:\n",
        test="tests/ci/test_deliveries.py",
    ),
    Mutant(
        name="60 disputed is said while a value is in reach",
        file="ci/verdict.py",
        old="if not _has_reachable_value(found, quorums.replicas - len(voted), thresholds):",
        new="if len(found) > 1:",
        seeds=(6,),
    ),
    Mutant(
        name="61 a delivery is given up in the batch that opened it",
        file=_APPLICATION,
        old="        if is_given_up and build.delivery is not None and build.opened == sequence:",
        new="        if False:",
        test="tests/ci/test_deliveries.py",
    ),
    # --- views, catch-up ----------------------------------------------------------------------
    Mutant(
        name="62 a primary never judges itself",
        file=_TIMERS,
        old="        return any(now >= since + 2 * timers.timeout"
        " for _, since in timers.waiting.values())",
        new="        return False",
        test="tests/paper/test_section_4_5_liveness.py",
    ),
    Mutant(
        name="63 others' executions move a client's timer",
        file=_TIMERS,
        old="    core.timers.has_progressed = True\n",
        new="    core.timers.has_progressed = True\n    core.timers.timed = {}\n"
        "    core.timers.waiting = {}\n",
        test="tests/paper/test_section_4_5_liveness.py",
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
        old="            core.send(to, core.new_view)\n",
        new="",
        test="tests/paper/test_section_4_4_new_views.py",
    ),
    Mutant(
        name="66 a wrong state goes unnoticed",
        file=_CHECKPOINT,
        old="    if digest != certificate.digest:\n",
        new="    if False:\n",
        test="tests/paper/test_section_4_3_garbage_collection.py",
    ),
    Mutant(
        name="67 an older state replaces a newer one",
        file=_REPLICA,
        old="        if core.transfer.certificate.sequence <= core.executed"
        " and not core.is_diverged:\n",
        new="        if False:\n",
        test="tests/paper/test_state_transfer.py",
    ),
    Mutant(
        name="68 one digest per checkpoint is not proved against who says two",
        file=_CHECKPOINT,
        old="        core.accuse(message.replica, earlier[1], signed)\n",
        new="",
        test="tests/paper/test_section_4_3_garbage_collection.py",
    ),
    # --- who builds -----------------------------------------------------------------------------
    Mutant(
        name="69 who stands by never begins where ballots differ",
        file=_EXECUTORS,
        old="        return Call.DIFFERING\n",
        new="        return None\n",
        seeds=(10,),
    ),
    Mutant(
        name="70 who stands by never begins after an abstention",
        file=_EXECUTORS,
        old="        return Call.ABSTENTION\n",
        new="        return None\n",
        seeds=(13,),
    ),
    Mutant(
        name="71 who stands by waits for ever",
        file=_EXECUTORS,
        old="    return Call.DELAY if patience.is_over(waited) else None",
        new="    return None",
        seeds=(7,),
    ),
    Mutant(
        name="72 too few executors are drawn",
        file=_EXECUTORS,
        old="    return tuple(order[: quorums.replicas - quorums.faults_max])",
        new="    return tuple(order[: quorums.weak])",
        seeds=(7,),
    ),
    Mutant(
        name="73 executors are drawn from a replica's own state",
        file=_APPLICATION,
        old="executors=drawn_executors(self._cluster, self._limits, self.ledger_head, build_id)",
        new='executors=drawn_executors(self._cluster, self._limits, b"%d" % id(self), build_id)',
        seeds=(7,),
    ),
    Mutant(
        name="74 an executor that has not begun does not begin",
        file=_EXECUTORS,
        old="        return Call.EXECUTOR\n",
        new="        return Call.EXECUTOR if waited.open_seconds > 2 else None\n",
        seeds=(7,),
    ),
    Mutant(
        name="75 weak agreement spares executors where it is not allowed",
        file=_EXECUTORS,
        old="    is_weak = agreement is Agreement.WEAK and thresholds.is_weak_agreement_allowed\n",
        new="    is_weak = agreement is Agreement.WEAK\n",
        seeds=(13,),
    ),
    Mutant(
        name="75b an executor that is late leaves a decided build to its deadline",
        file=_EXECUTORS,
        old="        return Call.EXECUTOR if is_executor else doubt(build)\n",
        new="        return doubt(build)\n",
        seeds=(10,),
    ),
    Mutant(
        name="76 the deadline runs while others stand by",
        file="ci/ballots.py",
        old="        return build.is_decided or self._duties.has_everybody_had_time(build, now)",
        new="        return True",
        test="tests/ci/test_ballots.py",
    ),
    Mutant(
        name="77 our own COMMIT that is sent back counts twice",
        file="pbft/normal_case.py",
        old="    if slot.commit_of(core.index, message.view) == message:\n",
        new="    if False:\n",
        test="tests/pbft/test_forgotten_words.py",
    ),
    Mutant(
        name="78 our own forgotten word is refused",
        file="pbft/replica.py",
        old="        if isinstance(message, Commit):\n            slot = normal_case.on_own",
        new="        if False:\n            slot = normal_case.on_own",
        test="tests/pbft/test_forgotten_words.py",
    ),
    Mutant(
        name="79 our own forgotten word counts while we recover",
        file="pbft/replica.py",
        old="        if self.core.nonce:\n            return SENT_BACK\n",
        new="",
        test="tests/pbft/test_forgotten_words.py",
    ),
    Mutant(
        name="80 a state is given only where it is stable",
        file="pbft/state_transfer.py",
        old='    _, parts = core.snapshots.get(sequence, (b"", {}))\n    return parts\n',
        new="    return {}\n",
        test="tests/paper/test_state_transfer.py",
    ),
    Mutant(
        name="81 what this turn decided is called forgotten",
        file="pbft/normal_case.py",
        old="(kept is None and isinstance(record, SavedEntry))",
        new="False",
        test="tests/pbft/test_core.py",
    ),
    Mutant(
        name="82 what a gap in the ledger may hold is called forgotten",
        file=_APPLICATION,
        old="        if build is None and self._missing_entries():\n",
        new="        if False:\n",
        test="tests/ci/test_application.py",
    ),
    Mutant(
        name="83 each STATUS gets the checkpoints again",
        file="pbft/catch_up.py",
        old="        core.checkpoints_sent[message.replica] = (place, now)\n",
        new="        pass\n",
        test="tests/pbft/test_catch_up.py",
    ),
    Mutant(
        name="84 what an adopted state knows is called forgotten",
        file="pbft/normal_case.py",
        old="        isinstance(record, Base) or (kept",
        new="        (kept",
        test="tests/paper/test_state_transfer.py",
    ),
    Mutant(
        name="85 an old RECOVER makes a healthy replica's VIEW-CHANGE void",
        file="pbft/recovery.py",
        old="        and message.recovered != done.voting_from\n",
        new="",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="86 a wrong state is repaired from the first wrong checkpoint only",
        file=_CHECKPOINT,
        old="        if sequence > core.certified.sequence:\n            # The newest",
        new="        if not core.is_diverged:\n            # The newest",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="87 a state that is right again stays diverged",
        file=_CHECKPOINT,
        old="        core.is_diverged = False  # it was wrong",
        new="        pass  # it was wrong",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="88 who is fed slowly never asks for the state",
        file="pbft/state_transfer.py",
        old="        is_collected = core.executed < target.sequence - core.interval",
        new="        is_collected = False",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="89 an old verdict is told while a newer one may be missing",
        file=_APPLICATION,
        old="        if build is None and self._missing_entries():\n",
        new="        if build is None and not statement and self._missing_entries():\n",
        test="tests/ci/test_deliveries.py",
    ),
    Mutant(
        name="90 a RECOVER that a fetched state skips stays in a batch under way",
        file="pbft/state_transfer.py",
        old="    core.proposed &= {",
        new="    core.proposed |= {",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="91 an old STATUS counts whoever sends it again",
        file="pbft/authentication.py",
        old="    return signed.signer != peer and signed",
        new="    return False and signed",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="92 who forgot that it has recovered recovers for ever",
        file="pbft/replica.py",
        old="            recovery.finish(self.core)\n        return",
        new="        return",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="93 a prepared certificate may be padded",
        file=_CERTIFICATES,
        old="    if len(certificate.prepares) > cluster.quorums.prepares:\n",
        new="    if False:\n",
        test="tests/pbft/test_certificates.py",
    ),
    Mutant(
        name="94 a checkpoint's certificate may be padded",
        file=_CERTIFICATES,
        old="        if message.replica in replicas:\n",
        new="        if False:\n",
        test="tests/pbft/test_certificates.py",
    ),
    Mutant(
        name="98 who asked for a far view is not heard in a nearer one",
        file="pbft/view_change.py",
        old="    core.overtaken_view_changes[message.replica] = checked\n",
        new="",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
    Mutant(
        name="99 a primary does not order its own old RECOVER",
        file="pbft/replica.py",
        old="            # The backups time it, whoever kept it: as the primary we would be",
        new="            return SENT_BACK\n            # as the primary we would be",
        test="tests/pbft/test_nobody_waits_for_ever.py",
    ),
)
