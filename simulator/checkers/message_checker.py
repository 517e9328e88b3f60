"""Checks the messages that correct replicas send, and the answers that clients accept."""

from pbft.client import Accepted
from pbft.codec import MalformedMessage, digest_of
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    FetchBody,
    NewView,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    ViewChange,
)
from pbft.ports import Send
from simulator.checkers.build_checker import BuildChecker
from simulator.checkers.end_checker import EndChecker
from simulator.checkers.history import History
from simulator.checkers.view_checker import ViewChecker
from simulator.machine.process import Process
from simulator.world.gateways import Asked
from simulator.world.reader import Reader
from simulator.world.world import World


class MessageChecker:
    """Compares every message of a correct replica with all that it sent before."""

    def __init__(
        self,
        world: World,
        history: History,
        reader: Reader,
        *,
        builds: BuildChecker,
        views: ViewChecker,
        end: EndChecker,
    ) -> None:
        self._goals = world.goals
        self.history = history
        self.violate = world.violate
        self._cluster = world.cluster
        self._quorums = world.cluster.quorums
        self._reader = reader
        self._builds = builds
        self._views = views
        self._end = end
        # What each replica sent before was checked: it may send it again.
        self._said: dict[str, dict[bytes, None]] = {n: {} for n in world.cluster.replica_names}

    def on_sent(self, process: Process, send: Send) -> None:
        """A message leaves a correct replica."""
        signed = send.envelope.signed
        if signed.signer != process.name:
            if send.to is not None and self._cluster.replica_index(signed.signer) is None:
                self._check_forwarding(process, signed, send.to)
            return
        said = self._said[process.name]
        if signed.payload in said:
            return
        said[signed.payload] = None
        try:
            message = self._reader.decode(signed.payload)
        except MalformedMessage as error:
            self.violate("28 input totality", f"{process.name} sends nonsense: {error}")
            return
        if isinstance(message, PrePrepare | Prepare | Commit | Checkpoint):
            self._end.on_vote(message)
        if isinstance(message, PrePrepare | Prepare | Commit):
            self._check_loss(process.name, message)
            self._check_silence(process, message)
            self._check_vote(process, signed, message)
        elif isinstance(message, Checkpoint):
            self._check_silence(process, message)
            self._check_checkpoint(process, signed, message)
        elif isinstance(message, ViewChange | NewView):
            self._check_silence(process, message)
            self._check_view_message(process, signed, message)
        elif isinstance(message, FetchBody):
            self._goals.hit("a body is asked for")
        elif isinstance(message, Request):
            self.history.issue(signed)
            self._builds.on_own_request(process, message)

    def on_loss(self, name: str) -> None:
        """A replica lost its messages: it may contradict what it sent about views before."""
        self._said[name] = {}
        history = self.history
        history.lost_up_to[name] = history.voted_up_to.get(name, 0)
        index = self._cluster.replica_index(name)
        history.said = {
            key: earlier
            for key, earlier in history.said.items()
            if key[1] != index or key[0] not in (ViewChange.__name__, NewView.__name__)
        }

    def _check_forwarding(self, process: Process, signed: Signed, receiver: str) -> None:
        """A client's request is handed on once in each view of a replica's life."""
        assert process.replica is not None
        self._goals.hit("a request is handed on to the primary")
        key = (process.name, process.boots, signed.payload)
        count = self.history.forwarded[key] = self.history.forwarded.get(key, 0) + 1
        if count > process.replica.core.view + 1:
            self.violate("29 bounded amplification", f"{process.name} forwards to {receiver}")

    def _check_vote(
        self, process: Process, signed: Signed, message: PrePrepare | Prepare | Commit
    ) -> None:
        history = self.history
        kind = type(message).__name__
        key = (kind, message.replica, message.view, message.sequence)
        earlier = history.said.get(key)
        if earlier is not None:
            if earlier != message.digest:
                self.violate("9 durable non-equivocation", f"{process.name} says {key} twice")
            return
        self._check_written_ahead(process, signed, message.sequence, kind=kind)
        self._note_vote(process, message)

    def _check_silence(self, process: Process, message: AnyMessage) -> None:
        """A replica that lost its votes signs none of these until all lost ones are below `low`.

        It may send RECOVER and STATUS, fetch and serve, and forward the messages of others.
        """
        assert process.replica is not None
        core = process.replica.core
        lost_up_to = self.history.lost_up_to.get(process.name, 0)
        if core.is_recovering or core.low < lost_up_to:
            self.violate(
                "26 what was lost is noticed",
                f"{process.name} lost its words up to {lost_up_to}, and at {core.low}"
                f" {'recovers' if core.is_recovering else 'has recovered'}:"
                f" {type(message).__name__}",
            )

    def _check_loss(self, name: str, message: PrePrepare | Prepare | Commit) -> None:
        """After a loss it never votes again on a sequence number on which it may have voted."""
        history = self.history
        history.voted_up_to[name] = max(history.voted_up_to.get(name, 0), message.sequence)
        if message.sequence <= history.lost_up_to.get(name, 0):
            self.violate(
                "26 what was lost is noticed",
                f"{name} votes on {message.sequence} again after it lost its words",
            )

    def _note_vote(self, process: Process, message: PrePrepare | Prepare | Commit) -> None:
        history = self.history
        key = (type(message).__name__, message.replica, message.view, message.sequence)
        if history.said.setdefault(key, message.digest) != message.digest:
            self.violate("9 durable non-equivocation", f"{process.name} says {key} twice")
        place = (message.view, message.sequence)
        claim = (*place, message.digest)
        voice = 1 << message.replica
        committed = history.committed.get(message.sequence)
        if committed is not None and committed[0] < message.view and committed[1] != claim[2]:
            self.violate("6 prepared certificates are kept", f"{process.name} says {key}")
        if not isinstance(message, Commit):
            return
        own = history.own_commits.setdefault(message.replica, {})
        own[message.sequence] = max(own.get(message.sequence, 0), message.view)
        if history.prepared.setdefault(place, message.digest) != message.digest:
            self.violate("4 one digest per view and number", f"{process.name} commits {place}")
        agreed = history.agreed.get(claim, 0)
        if agreed.bit_count() < self._quorums.weak:
            self.violate("10 evidence of prepared", f"{process.name} commits {place} unprepared")
        voices = history.committed_by[claim] = history.committed_by.get(claim, 0) | voice
        if voices.bit_count() >= self._quorums.weak:
            first = history.committed.setdefault(message.sequence, (message.view, message.digest))
            if first[1] != message.digest:
                self.violate("5 one digest per number", f"f+1 commit two at {message.sequence}")

    def _check_view_message(
        self, process: Process, signed: Signed, message: ViewChange | NewView
    ) -> None:
        key = (type(message).__name__, message.replica, message.view, 0)
        earlier = self.history.said.get(key)
        if earlier is not None:
            if earlier != signed.payload:
                self.violate("9 durable non-equivocation", f"{process.name} says {key} twice")
            return
        self.history.said[key] = signed.payload
        saved = process.disk.saved_payloads
        assert process.replica is not None
        core = process.replica.core
        # A later message about views, saved in its place, implies it.
        is_implied = core.view > message.view or (
            core.views.new_view is not None and core.views.new_view.payload in saved
        )
        if signed.payload not in saved and not is_implied:
            self.violate("25 written before it is sent", f"{process.name}: {key}")
        if isinstance(message, ViewChange):
            self._views.on_view_change(process.name, message)
            for signed_checkpoint in message.certificate:
                # Whoever was killed before it sent its own CHECKPOINT says it here first.
                checkpoint = self._reader.decode(signed_checkpoint.payload)
                if signed_checkpoint.signer == process.name and isinstance(checkpoint, Checkpoint):
                    self._check_checkpoint(process, signed_checkpoint, checkpoint)
            return
        for pre_prepare_signed in message.pre_prepares:
            pre_prepare = self._reader.decode(pre_prepare_signed.payload)
            assert isinstance(pre_prepare, PrePrepare)
            self._note_vote(process, pre_prepare)

    def _check_checkpoint(self, process: Process, signed: Signed, message: Checkpoint) -> None:
        key = ("Checkpoint", message.replica, 0, message.sequence)
        earlier = self.history.said.get(key)
        if earlier is not None:
            if earlier != message.digest:
                self.violate("9 durable non-equivocation", f"{process.name} says {key} twice")
            return
        self._check_written_ahead(process, signed, message.sequence, kind="Checkpoint")
        self.history.said[key] = message.digest
        if not self._cluster.is_checkpoint(message.sequence):
            self.violate("15 stable checkpoints", f"{process.name} takes one at {message.sequence}")
        if self.history.states.setdefault(message.sequence, message.digest) != message.digest:
            self.violate("18 one state per number", f"{process.name} at {message.sequence}")
        claim = (message.sequence, message.digest)
        voices = self.history.checkpoints.get(claim, 0)
        self.history.checkpoints[claim] = voices | 1 << message.replica

    def _check_written_ahead(
        self, process: Process, signed: Signed, sequence: int, *, kind: str
    ) -> None:
        disk = process.disk
        if signed.payload not in disk.saved_payloads and sequence > disk.checkpoint_sequence:
            self.violate("25 written before it is sent", f"{process.name}: {kind} {sequence}")

    # --- clients --------------------------------------------------------------------------------

    def on_asked(self, asked: Asked) -> None:
        """A correct client sends a request for the first time."""
        self.history.issue(asked.signed)
        self.history.asked_after[asked.client, asked.timestamp] = self.history.answered_up_to

    def on_answer(self, asked: Asked, answer: Accepted) -> None:
        """A correct client believes an answer."""
        voices: dict[str, None] = {}
        for name, _, signed in answer.replies:
            if signed.signer == name and self._reader.holds(signed):
                voices[name] = None
        if len(voices) < self._quorums.weak:
            self.violate("19 f+1 equal replies", f"{asked.client} {asked.timestamp}")
        key = (asked.client, asked.timestamp)
        executed = self.history.results.get(key)
        if executed is not None and answer.kind == "used":
            self._goals.hit("a client is told that its number was used")
            return  # forgotten; whether that may be is a question of liveness
        if executed is None or answer.request_digest != digest_of(executed.signed.payload):
            self.violate("19 f+1 equal replies", f"{key} was not executed")
            return
        position = self.history.positions[key]
        self.history.answered_up_to = max(self.history.answered_up_to, position)
        if answer.kind == "decided":
            self._builds.on_decided_answer(asked, answer)
            return
        applied = executed.applied
        if applied.kind == "refused" and self._builds.is_of_another_asker(executed, answer):
            return
        if (answer.kind, answer.subject, answer.result) != (
            applied.kind,
            applied.subject,
            applied.result,
        ):
            self.violate("19 f+1 equal replies", f"{key}: {answer.kind} is not what it gave")
