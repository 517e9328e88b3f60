"""The invariants of view changes, by a computation of their own: nothing here is the core's.

A NEW-VIEW is taken apart and checked message by message, so that a fault in the core's own
function for making and checking it does not hide here too.
"""

from collections.abc import Callable

import msgspec

from pbft.codec import decode_message
from pbft.log import NULL_REQUEST
from pbft.messages import Checkpoint, NewView, Prepare, PrePrepare, Signed, ViewChange
from simulator.checkers.history import History
from simulator.world.world import World


class NewViewFacts(msgspec.Struct, frozen=True):
    """What a NEW-VIEW begins with: min-s, and number -> digest."""

    sequence_min: int
    order: dict[int, bytes]


class ViewChecker:
    """Checks what correct replicas send and accept about views.

    is_signed: whether a signature is really its signer's.
    """

    def __init__(self, world: World, history: History, is_signed: Callable[[Signed], bool]) -> None:
        self._goals = world.goals
        self._cluster = world.cluster
        self._quorums = world.cluster.quorums
        self._history = history
        self._is_signed = is_signed
        self._violate = world.violate
        self._checked: dict[bytes, NewViewFacts] = {}

    def on_view_change(self, name: str, message: ViewChange) -> None:
        """A correct replica sends VIEW-CHANGE for the first time."""
        history = self._history
        claimed: dict[int, int] = {}
        for certificate in message.prepared:
            pre_prepare = decode_message(certificate.pre_prepare.payload)
            assert isinstance(pre_prepare, PrePrepare)
            claimed[pre_prepare.sequence] = pre_prepare.view
        for sequence, view in history.own_commits.get(message.replica, {}).items():
            is_owed = sequence > message.stable and view < message.view
            if is_owed and claimed.get(sequence, -1) < view:
                self._violate(
                    "6 prepared certificates are kept",
                    f"{name} leaves for {message.view} without {sequence} of view {view}",
                )

    def on_enter(self, name: str, signed: Signed) -> int:
        """A correct replica enters the view of this NEW-VIEW; gives min-s back."""
        facts = self._checked.get(signed.payload)
        if facts is None:
            message = decode_message(signed.payload)
            assert isinstance(message, NewView)
            facts = self._checked[signed.payload] = self._check(name, signed, message)
        return facts.sequence_min

    def _check(self, name: str, signed: Signed, message: NewView) -> NewViewFacts:
        view = message.view
        primary = self._cluster.replica_names[self._cluster.primary(view)]
        if signed.signer != primary or not self._is_signed(signed):
            self._wrong(name, view, "it is not its primary's")
        voices = self._history.view_changes.get(view, 0).bit_count()
        if voices < self._quorums.weak:
            self._violate(
                "13 a view change is justified",
                f"{name} enters {view}, only {voices} correct replicas asked for it",
            )
        changes = self._view_changes(name, message)
        facts = self._recompute(changes)
        ordered: dict[int, bytes] = {}
        for pre_prepare_signed in message.pre_prepares:
            pre_prepare = decode_message(pre_prepare_signed.payload)
            if not isinstance(pre_prepare, PrePrepare) or pre_prepare.view != view:
                self._wrong(name, view, "O holds something else")
                continue
            if pre_prepare_signed.signer != primary or not self._is_signed(pre_prepare_signed):
                self._wrong(name, view, "a PRE-PREPARE in O is not the primary's")
            if pre_prepare.sequence in ordered:
                self._wrong(name, view, f"{pre_prepare.sequence} is twice in O")
            ordered[pre_prepare.sequence] = pre_prepare.digest
        if ordered != facts.order:
            self._wrong(name, view, f"O is {_shown(ordered)}, V asks for {_shown(facts.order)}")
        self._check_evidence(name, view, ordered)
        if NULL_REQUEST in ordered.values():
            self._goals.hit("a view begins with a null request")
        if any(digest != NULL_REQUEST for digest in ordered.values()):
            self._goals.hit("a view begins with what an earlier one prepared")
        return facts

    def _view_changes(self, name: str, message: NewView) -> list[ViewChange]:
        changes: dict[str, ViewChange] = {}
        for signed in message.view_changes:
            change = decode_message(signed.payload)
            if not isinstance(change, ViewChange) or change.view != message.view:
                self._wrong(name, message.view, "V holds something else")
                continue
            is_own = self._cluster.replica_index(signed.signer) == change.replica
            if not is_own or not self._is_signed(signed):
                self._wrong(name, message.view, f"a VIEW-CHANGE of {signed.signer} is forged")
            self._check_stable(name, message.view, change)
            changes[signed.signer] = change
        if len(changes) < self._quorums.strong:
            self._wrong(name, message.view, f"V has {len(changes)} replicas")
        return list(changes.values())

    def _check_stable(self, name: str, view: int, change: ViewChange) -> None:
        if change.stable == self._cluster.begins_after:
            return
        voices: dict[bytes, dict[str, None]] = {}
        for signed in change.certificate:
            message = decode_message(signed.payload)
            if (
                isinstance(message, Checkpoint)
                and message.sequence == change.stable
                and self._cluster.replica_index(signed.signer) == message.replica
                and self._is_signed(signed)
            ):
                voices.setdefault(message.digest, {})[signed.signer] = None
        if not any(len(names) >= self._quorums.strong for names in voices.values()):
            self._wrong(name, view, f"checkpoint {change.stable} in V is not proved")

    def _recompute(self, changes: list[ViewChange]) -> NewViewFacts:
        """O by the words of the paper (4.4)."""
        lowest = max(change.stable for change in changes)
        best: dict[int, tuple[int, bytes]] = {}
        for change in changes:
            for certificate in change.prepared:
                claim = self._proved(certificate.pre_prepare, certificate.prepares)
                if claim is None or claim[0] >= change.view or claim[1] <= lowest:
                    continue
                if claim[1] not in best or best[claim[1]][0] < claim[0]:
                    best[claim[1]] = (claim[0], claim[2])
        return NewViewFacts(
            lowest,
            {
                sequence: best[sequence][1] if sequence in best else NULL_REQUEST
                for sequence in range(lowest + 1, max(best, default=lowest) + 1)
            },
        )

    def _proved(
        self, pre_prepare_signed: Signed, prepares: tuple[Signed, ...]
    ) -> tuple[int, int, bytes] | None:
        """(view, sequence, digest) that a prepared certificate really proves."""
        pre_prepare = decode_message(pre_prepare_signed.payload)
        if not isinstance(pre_prepare, PrePrepare):
            return None
        claim = (pre_prepare.view, pre_prepare.sequence, pre_prepare.digest)
        voices: dict[int, None] = {}
        primary = self._cluster.primary(pre_prepare.view)
        if pre_prepare.replica == primary and self._is_signed(pre_prepare_signed):
            voices[primary] = None
        for signed in prepares:
            prepare = decode_message(signed.payload)
            if (
                isinstance(prepare, Prepare)
                and (prepare.view, prepare.sequence, prepare.digest) == claim
                and self._cluster.replica_index(signed.signer) == prepare.replica
                and self._is_signed(signed)
            ):
                voices[prepare.replica] = None
        return claim if primary in voices and len(voices) >= self._quorums.strong else None

    def _check_evidence(self, name: str, view: int, ordered: dict[int, bytes]) -> None:
        """What O orders again was agreed to by f+1 correct replicas in one earlier view."""
        agreed = self._history.agreed
        for sequence, digest in ordered.items():
            if digest == NULL_REQUEST:
                continue
            voices = max(
                (agreed.get((earlier, sequence, digest), 0).bit_count() for earlier in range(view)),
                default=0,
            )
            if voices < self._quorums.weak:
                self._wrong(name, view, f"{sequence} in O was prepared nowhere")

    def _wrong(self, name: str, view: int, details: str) -> None:
        self._violate("14 a new view is correct", f"{name} enters {view}: {details}")


def _shown(order: dict[int, bytes]) -> str:
    return ", ".join(f"{sequence}: {digest.hex()[:8]}" for sequence, digest in order.items())
