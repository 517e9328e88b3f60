"""Forgeries against one correct replica, made after a look at its state: the rushing adversary."""

from ci.operations import (
    BuildResult,
    CastBallot,
    MalformedOperation,
    decode_operation,
    encode_operation,
)
from pbft.certificates import CheckedViewChange, new_view_order
from pbft.codec import decode_message, digest_of, encode_batch
from pbft.core import Core
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Checkpoint,
    Commit,
    Envelope,
    FetchState,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Recover,
    Request,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from simulator.faults.forgeries import Forger
from simulator.faults.sweep import noise, sweep
from simulator.world.builds import finding


class RushingForger(Forger):
    """A forger who sees what a correct replica is waiting for, and sends just that."""

    def targeted(self, core: Core) -> list[Envelope]:
        """A forgery against that replica, after a look at what it is waiting for."""
        lies = (
            self._unsigned_votes,
            self._colluding_votes,
            self._repeated_votes,
            self._usurped_pre_prepare,
            self._second_pre_prepare,
            self._false_request,
            self._lone_view_change,
            self._false_certificate,
            self._misused_certificate,
            self._misused_certificate,
            self._below_floor,
            self._false_state,
            self._early_new_view,
            self._early_new_view,
            self._false_checkpoint,
            self._far_away,
            self._anywhere,
            self._anywhere,
            self._votes_of_other_views,
            self._primary_prepares,
            self._false_status,
            self._false_ballot,
            self._recover_again,
            self._borrowed_names,
            self._sweep,
        )
        if core.transfers.current is not None and self._chance.random() < 0.5:
            return self._false_state(core)
        if core.status.value not in ("normal", "view_change") and self._chance.random() < 0.2:
            return self._sweep(core)
        if core.views.min_s > core.low and self._cluster.replica_names[core.primary] in self.names:
            return self._below_floor(core)
        if core.status.value != "normal" and self._chance.random() < 0.3:
            return self._anywhere(core)
        return self._chance.choice(lies)(core)

    def _place(self, core: Core) -> tuple[int, int, bytes]:
        """A slot that the replica is working on, and a digest that it may be waiting for."""
        number = core.executed + self._chance.randint(1, 2)
        slot = core.log.find(number)
        if slot is not None and slot.accepted is not None and self._chance.random() < 0.5:
            return core.view, number, slot.accepted
        return core.view, number, digest_of(b"made up %d" % number)

    def _unsigned_votes(self, core: Core) -> list[Envelope]:
        view, number, digest = self._place(core)
        return [
            self.impute(name, kind(view, number, digest, self.index(name)))
            for name in self._honest()
            if name != core.name
            for kind in (Prepare, Commit)
        ]

    def _colluding_votes(self, core: Core) -> list[Envelope]:
        view, number, digest = self._place(core)
        kinds = (Prepare, Commit) if self._chance.random() < 0.5 else (Commit,)
        return [
            self.say(name, kind(view, number, digest, self.index(name)))
            for name in self.names
            for kind in kinds
        ]

    def _repeated_votes(self, core: Core) -> list[Envelope]:
        """One voice many times, and once for each of several digests."""
        view, number, digest = self._place(core)
        name = self._chance.choice(self.names)
        votes = [self.say(name, Commit(view, number, digest, self.index(name)))] * 4
        others = [
            self.say(name, Commit(view, number, digest_of(bytes([i])), self.index(name)))
            for i in range(4)
        ]
        return votes + others

    def _usurped_pre_prepare(self, core: Core) -> list[Envelope]:
        """A PRE-PREPARE of somebody who is not the primary, and votes for it."""
        name = self._chance.choice(self.names)
        body = self.made_up_batch(name)
        number = core.executed + self._chance.randint(1, 2)
        digest = digest_of(body)
        message = PrePrepare(core.view, number, digest, self.index(name))
        votes = [
            self.say(other, kind(core.view, number, digest, self.index(other)))
            for other in self.names
            for kind in (Prepare, Commit)
        ]
        return [self.say(name, message, body), *votes]

    def _second_pre_prepare(self, core: Core) -> list[Envelope]:
        primary = self._cluster.replica_names[core.primary]
        if primary not in self.names:
            return self._usurped_pre_prepare(core)
        body = self.made_up_batch(primary)
        number = core.executed + self._chance.randint(0, 2)
        message = PrePrepare(core.view, number, digest_of(body), core.primary)
        votes = [
            self.say(other, kind(core.view, number, message.digest, self.index(other)))
            for other in self.names
            for kind in (Prepare, Commit)
        ]
        return [self.say(primary, message, body), *votes]

    def _false_request(self, core: Core) -> list[Envelope]:
        """A request in a client's name, alone and in a batch; a body that has another digest."""
        envelope = self.never_asked_for(self._chance.randint(1, 9))
        primary = self._cluster.replica_names[core.primary]
        if primary not in self.names:
            return [envelope]
        body = encode_batch((envelope.signed,))
        digest = digest_of(body) if self._chance.random() < 0.7 else self._chance.randbytes(32)
        message = PrePrepare(core.view, core.executed + 1, digest, core.primary)
        return [envelope, self.say(primary, message, body)]

    def _lone_view_change(self, core: Core) -> list[Envelope]:
        view = core.view + self._chance.choice((1, 2, 10**6))
        return [
            self.say(name, ViewChange(view, 0, (), (), self.index(name))) for name in self.names
        ]

    def _false_certificate(self, core: Core) -> list[Envelope]:
        """VIEW-CHANGEs that claim what nobody prepared, with signatures from elsewhere."""
        view, number, digest = self._place(core)
        slot = core.log.find(number)
        real = [signed for _, signed in slot.prepares.values()] if slot is not None else []
        made = tuple(
            self.say(name, Prepare(view, number, digest, self.index(name))).signed
            for name in self.names
        )
        pre_prepare = PrePrepare(view, number, digest, core.primary)
        primary = self._cluster.replica_names[core.primary]
        if primary in self.names:
            first = self.say(primary, pre_prepare).signed
        else:
            first = self.impute(primary, pre_prepare).signed
        certificate = PreparedCertificate(first, (*made, *real)[: self._cluster.quorums.prepares])
        return self._false_view_changes(core, (certificate,))

    def _misused_certificate(self, core: Core) -> list[Envelope]:
        """What the replica prepared itself, and a certificate that proves nothing."""
        slots = [slot for slot in core.log.above(core.low) if slot.prepared is not None]
        real = tuple(slot.prepared.certificate for slot in slots if slot.prepared is not None)
        if not real:
            return self._false_certificate(core)
        more = self.misused(real[-1])
        if more is None:
            return self._false_certificate(core)
        return self._false_view_changes(core, self.in_order(real, more))

    def _false_view_changes(
        self, core: Core, prepared: tuple[PreparedCertificate, ...]
    ) -> list[Envelope]:
        view = core.view + (1 if core.has_entered else 0)
        stable = core.checkpoints.stable.checkpoints
        return [
            self.say(name, ViewChange(view, core.low, stable, prepared, self.index(name)))
            for name in self.names
        ]

    def _below_floor(self, core: Core) -> list[Envelope]:
        """As primary, what the checkpoint that the view began with has already decided."""
        primary = self._cluster.replica_names[core.primary]
        if primary not in self.names or core.views.min_s <= core.low:
            return self._usurped_pre_prepare(core)
        body = self.made_up_batch(primary)
        number = self._chance.randint(core.low + 1, core.views.min_s)
        return [
            self.say(primary, PrePrepare(core.view, number, digest_of(body), core.primary), body)
        ]

    def _false_state(self, core: Core) -> list[Envelope]:
        """To a replica that fetches a state: a false one, or false parts of the right one."""
        transfer = core.transfers.current
        name = self._chance.choice(self.names)
        if transfer is None:
            return [self.say(name, FetchState(core.low, (), self.index(name)))]
        sequence = transfer.certificate.sequence
        if transfer.leaves is None:
            leaves = tuple((part, digest_of(b"false")) for part in ("closed", "epoch"))
            return [self.say(name, StateLeaves(sequence, leaves, self.index(name)))]
        parts = tuple((part, b"false") for part in transfer.leaves)
        return [self.say(name, StateParts(sequence, parts, self.index(name)))]

    def _early_new_view(self, core: Core) -> list[Envelope]:
        """A NEW-VIEW of a faulty primary, with the few VIEW-CHANGEs that there are."""
        for view in range(core.view, core.view + len(self._cluster.replica_names) + 1):
            primary = self._cluster.replica_names[self._cluster.primary(view)]
            if primary not in self.names or view == 0:
                continue
            changes = [
                checked
                for checked in core.views.changes.values()
                if checked.message.view == view and checked.signed.signer not in self.names
            ]
            for name in self.names:
                own = ViewChange(view, 0, (), (), self.index(name))
                changes.append(CheckedViewChange(own, self.say(name, own).signed, ()))
            # Right in everything but that too few ask for it.
            order = new_view_order(changes, NULL_REQUEST)
            pre_prepares = tuple(
                self.say(primary, PrePrepare(view, number, digest, self.index(primary))).signed
                for number, digest in order.digests
            )
            signed = [checked.signed for checked in changes][: self._cluster.quorums.strong - 1]
            if self._chance.random() < 0.5:
                signed += signed[:1] * (self._cluster.quorums.strong - len(signed))
            message = NewView(view, tuple(signed), pre_prepares, self.index(primary))
            return [self.say(primary, message)]
        return []

    def _borrowed_names(self, core: Core) -> list[Envelope]:
        """What only others may say, signed with one's own name and key."""
        name = self._chance.choice(self.names)
        victim = self._chance.choice(self._honest())
        client = self._chance.choice(self._cluster.genesis.clients).name
        view, number, digest = self._place(core)
        new_view = core.view + (1 if core.has_entered else 0)
        while self._cluster.primary(new_view) == self.index(name) or new_view == 0:
            new_view += 1
        return [
            self.say(name, Prepare(view, number, digest, self.index(victim))),
            self.say(name, Commit(view, number, digest, self.index(victim))),
            self.say(
                name, Request(client, core.execution.clients.low_timestamp(client) + 1, b"borrowed")
            ),
            self.say(name, NewView(new_view, (), (), self.index(name))),
        ]

    def _sweep(self, core: Core) -> list[Envelope]:
        """Something of each type around each view and water mark."""
        name = self._chance.choice(self.names)
        said = [self.say(name, message) for message in sweep(core, self.index(name), name)]
        return [*said, Envelope(noise(name))]

    def _false_checkpoint(self, core: Core) -> list[Envelope]:
        interval = core.interval
        number = core.low + interval * self._chance.randint(1, 3)
        digest = self._chance.randbytes(32)
        lies = [self.say(name, Checkpoint(number, digest, self.index(name))) for name in self.names]
        lies += [
            self.impute(name, Checkpoint(number, digest, self.index(name)))
            for name in self._honest()
        ]
        return lies

    def _far_away(self, core: Core) -> list[Envelope]:
        """Numbers and views that nobody has reached."""
        name = self._chance.choice(self.names)
        index, digest = self.index(name), self._chance.randbytes(32)
        far = self._chance.randint(1, 10**6)
        return [
            self.say(name, Prepare(core.view, core.high + far, digest, index)),
            self.say(name, Commit(core.view + far, core.executed + 1, digest, index)),
            self.say(name, Commit(core.view, core.high + far, digest, index)),
            self.say(name, Prepare(core.view + far, core.executed + 1, digest, index)),
            self.say(name, Checkpoint(core.interval * far, digest, index)),
        ]

    def _anywhere(self, core: Core) -> list[Envelope]:
        """Words about any place around the water marks, of the last, this and the next view."""
        places = (
            core.low - core.interval,
            core.low,
            core.executed,
            core.executed + 1,
            core.executed + 2,
            core.high,
            core.high + 1,
        )
        lies = []
        for kind in (PrePrepare, Prepare, Commit, PrePrepare, Prepare, Commit):
            view = max(0, core.view + self._chance.randint(-1, 1))
            number = max(0, self._chance.choice(places))
            name = self._chance.choice(self.names)
            if kind is PrePrepare:
                body = self.made_up_batch(name)
                message = PrePrepare(view, number, digest_of(body), self.index(name))
                lies.append(self.say(name, message, body))
            else:
                digest = self._chance.choice((NULL_REQUEST, self._chance.randbytes(32)))
                lies.append(self.say(name, kind(view, number, digest, self.index(name))))
        return lies

    def _votes_of_other_views(self, core: Core) -> list[Envelope]:
        """COMMITs and PREPAREs of each faulty replica in a view of its own."""
        _, number, digest = self._place(core)
        return [
            self.say(name, kind(core.view + place, number, digest, self.index(name)))
            for place, name in enumerate(self.names)
            for kind in (Prepare, Commit)
        ]

    def _primary_prepares(self, core: Core) -> list[Envelope]:
        primary = self._cluster.replica_names[core.primary]
        view, number, digest = self._place(core)
        if primary not in self.names:
            return self._colluding_votes(core)
        return [self.say(primary, Prepare(view, number, digest, core.primary))]

    def _false_status(self, core: Core) -> list[Envelope]:
        name = self._chance.choice(self.names)
        executed = self._chance.choice((0, core.executed, 10**6))
        stable = self._chance.choice((0, core.low))
        view = self._chance.choice((0, core.view, core.view + 1))
        message = Status(view, self._chance.random() < 0.5, stable, executed, self.index(name))
        return [self.say(name, message)]

    def _false_ballot(self, core: Core) -> list[Envelope]:
        """Ballots in another replica's name, and more than one in the own."""
        for client in core.pending.clients():
            for number in core.pending.numbers(client):
                request = decode_message(core.pending.get(client, number).payload)
                if not isinstance(request, Request):
                    continue
                try:
                    operation = decode_operation(request.operation)
                except MalformedOperation:
                    continue
                if isinstance(operation, CastBallot):
                    return self._ballots(core, operation)
        return []

    def _ballots(self, core: Core, seen: CastBallot) -> list[Envelope]:
        # about the right commit, or nobody would count it
        ballot = seen.ballot
        commit = ballot.compared.commit if isinstance(ballot, BuildResult) else "0" * 40
        lie = CastBallot(seen.build, seen.opened, finding(commit, 1, replica="nobody"))
        data = encode_operation(lie)
        name = self._chance.choice(self.names)
        low = core.execution.clients.low_timestamp(name)
        own = [self.say(name, Request(name, low + i, data)) for i in (1, 2)]
        victim = self._chance.choice(self._honest())
        number = core.execution.clients.low_timestamp(victim) + 1
        return [*own, self.impute(victim, Request(victim, number, data))]

    def _recover_again(self, core: Core) -> list[Envelope]:
        """A replica that claims again and again to have lost everything."""
        name = self._chance.choice(self.names)
        nonce = self._chance.randbytes(32)
        return [self.say(name, Recover(nonce, self.index(name), core.low))]

    def _honest(self) -> list[str]:
        return [name for name in self._cluster.replica_names if name not in self.names]
