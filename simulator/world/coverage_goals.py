"""What must happen sometimes in a long campaign, or the campaign proves nothing about it.

A coverage goal is hit when a replica emits an `Event`, when a checker sees it in what is executed,
or when a fault is made. The long gate fails if a goal has no hit, or if no run had a kind of fault.
"""

from collections.abc import Iterable

from pbft.core import Core
from pbft.ports import Event

# goal -> what the reason of a refusal holds; the first goal that fits is hit
REFUSALS: dict[str, tuple[str, ...]] = {
    "refused: a message in another replica's name": ("the signer is not the replica",),
    "refused: a request in another client's name": ("the signer is not the client",),
    "refused: PRE-PREPARE of a backup": ("a PRE-PREPARE from a replica that is not the primary",),
    "refused: PRE-PREPARE up to min-s": ("at or below the checkpoint that this view began with",),
    "refused: a second PRE-PREPARE": ("another digest was accepted for this view and number",),
    "refused: a body without the digest": ("the body does not have the digest",),
    "refused: a body larger than the window allows": ("a body of ",),
    "refused: a forged request in a body": ("a request in the body: ",),
    "refused: a number twice in a body": ("the body holds one number of a client twice",),
    "refused: PREPARE of the primary": ("a PREPARE from the primary",),
    "refused: a second PREPARE": ("the replica voted for another digest before",),
    "refused: COMMIT for another digest than the decided one": ("the replica sent COMMIT for",),
    "refused: outside the water marks": ("outside the water marks",),
    "refused: a number beyond the client's window": ("is beyond the window above",),
    "refused: an odd checkpoint": ("not a multiple of the checkpoint interval",),
    "refused: a VIEW-CHANGE with a false certificate": (
        "a prepared certificate",
        "a signature in a prepared certificate",
        "too few backups in a prepared certificate",
    ),
    "refused: a VIEW-CHANGE with a false checkpoint": (
        "too few replicas in the checkpoint certificate",
        "the checkpoint certificate holds",
        "a certificate for the genesis",
    ),
    "refused: a second VIEW-CHANGE": ("another VIEW-CHANGE of this replica for this view",),
    "refused: a VIEW-CHANGE from before a recovery": ("a VIEW-CHANGE from before the replica's",),
    "refused: NEW-VIEW of a backup": ("a NEW-VIEW from a replica that is not its primary",),
    "refused: NEW-VIEW with another O": ("the NEW-VIEW does not order what",),
    "refused: NEW-VIEW with too few VIEW-CHANGEs": ("too few distinct replicas in the NEW-VIEW",),
    "refused: false leaves of a state": ("leaves whose root is not the certified digest",),
    "refused: false parts of a state": ("parts of the state without the digest",),
    "refused: a RECOVER that counts for nothing": ("a RECOVER that is executed",),
    "refused: a payload that is no message": ("malformed: ",),
    "refused: a bad signature": ("bad signature",),
}
# What a replica emits when it happens, by the name of its event.
EVENTS: dict[str, str] = {
    "equivocation": "equivocation is proved",
    "behind": "a checkpoint above the own execution is certified",
    "state_transfer": "a state is fetched",
    "state_transferred": "a state is adopted",
    "recover": "a RECOVER is executed",
    "recovering": "a replica begins to recover",
    "recovered": "a replica has recovered",
}
OTHERS = (
    "a view is left by the own timer",
    "a view is left with f+1 others",
    "a view change after a failed one waits longer",
    "a primary leaves its own view",
    "a view begins above the genesis",
    "a view begins with a null request",
    "a view begins with what an earlier one prepared",
    "a state is fetched during a view change",
    "a null request is executed",
    "several requests in one batch",
    "an executed request is ordered again and skipped",
    "a replica executes while it is changing the view",
    "a request is handed on to the primary",
    "the primary keeps what nobody waits for",
    "a body is asked for",
    "a torn transaction is cut",
    "a transaction is kept that nobody saw saved",
    "a save that the disk refused is tried again",
    "a replica starts again while it is changing the view",
    "a replica starts again while it is recovering",
    "a build is asked for by two clients or twice",
    "a verdict that no value can reach any more",
    "a build is cancelled",
    "a build passes",
    "a build fails",
    "a ballot comes after the verdict and agrees",
    "a ballot comes after the verdict and dissents",
    "a replica abstains",
    "a stand-by takes over: ballots differ",
    "a stand-by takes over: an abstention",
    "a stand-by takes over: a report of the deadline",
    "a stand-by takes over: the delay",
    "a build is decided while others stand by",
    "an executor leaves a weak build to others",
    "a client is told that its number was used",
    "an epoch's end is decided",
    "an epoch ends",
    "an epoch ends in a later view",
    "an epoch ends for a replica that recovers",
    "the state of an epoch's end is fetched",
    "a build goes over to the next epoch",
    "a message of the epoch before is refused",
    "a replica begins an epoch without the whole ledger",
    "the seat of a replica is vacant",
    "limits are proposed",
    "limits change",
    "a proposal is withdrawn",
    "an approval is withdrawn",
    "an approval comes for a proposal that is void",
    "an approval comes past until",
    "a build is decided under limits that hold no more",
    "a report of test cases is agreed on",
    "a test case is agreed to have failed",
    "a test case stays unsettled",
    "a quarantined test case is agreed on",
    "a build ends without its dependencies",
    "a mirror that sent other bytes is outvoted",
    "a false claim of other bytes is outvoted",
)
# What goes wrong, by the names under which the runs count it: each is injected in the long gate.
FAULTS = (
    "abstaining executor",
    "amnesia",
    "away for a change of members",
    "byzzfuzz digest",
    "byzzfuzz old",
    "byzzfuzz omit",
    "byzzfuzz sequence",
    "byzzfuzz view",
    "censored",
    "clock jump",
    "corrupted",
    "crash",
    "crash at the end of an epoch",
    "crash before_mark",
    "crash before_save",
    "crash before_send",
    "crash in recovery",
    "crash while_saving",
    "crash while_sending",
    "cut",
    "delay",
    "disk refuses",
    "disk rots: mark",
    "disk rots: records",
    "disk wiped",
    "double signing",
    "equivocate",
    "false ballot",
    "false content",
    "false inputs",
    "false ledger",
    "false report",
    "false state",
    "false view",
    "huge bodies",
    "late begin",
    "late executor",
    "ledger entries fetched",
    "lost",
    "lying executor",
    "mute",
    "newer version",
    "omit",
    "overflowed",
    "partition at the end of an epoch",
    "partition bridge",
    "partition isolate",
    "partition one way",
    "partition split",
    "partition swizzle",
    "pause",
    "recover flood",
    "repeated",
    "replay",
    "replayed",
    "reporting executor",
    "restart",
    "saves failed",
    "silent executor",
    "spikes",
    "status flood",
    "stolen key",
    "targeted forgeries",
    "undecodable",
    "victim",
    "wrong digest",
    "wrong sequence",
    "wrong view",
)
ALL = (*REFUSALS, *EVENTS.values(), *OTHERS)


def unseen(goals: Iterable[str]) -> list[str]:
    """The goals that have no hit."""
    hit = dict.fromkeys(goals)
    return [goal for goal in ALL if goal not in hit]


def never_injected(faults: Iterable[str]) -> list[str]:
    """The faults of which no run had one."""
    injected = dict.fromkeys(faults)
    return [fault for fault in FAULTS if fault not in injected]


class CoverageGoals:
    """How often each goal was hit in one run."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        # reason of a refusal -> its goal, if it has one
        self._known: dict[str, str | None] = {}

    def hit(self, goal: str) -> None:
        """It happened."""
        self.counts[goal] = self.counts.get(goal, 0) + 1

    def on_event(self, core: Core, event: Event) -> None:
        """A replica that follows the rules emitted something."""
        name = event.name
        if name == "refused":
            goal = self._of_refusal(str(event.details["reason"]))
            if goal is not None:
                self.hit(goal)
        elif name == "executed":
            self._on_executed(core, event)
        elif name == "view_change":
            self._on_view_change(core, event)
        elif name == "new_view" and event.details["sequence_min"]:
            self.hit("a view begins above the genesis")
        elif name in EVENTS:
            self.hit(EVENTS[name])
            if name == "state_transfer" and not core.has_entered:
                self.hit("a state is fetched during a view change")
            if name == "state_transferred" and core.has_ended:
                self.hit("the state of an epoch's end is fetched")

    def on_boot(self, core: Core) -> None:
        """A replica that follows the rules goes on from its disk."""
        if core.is_recovering:
            self.hit("a replica starts again while it is recovering")
        if not core.has_entered:
            self.hit("a replica starts again while it is changing the view")

    def _of_refusal(self, reason: str) -> str | None:
        if reason not in self._known:
            self._known[reason] = next(
                (goal for goal, texts in REFUSALS.items() if any(text in reason for text in texts)),
                None,
            )
        return self._known[reason]

    def _on_executed(self, core: Core, event: Event) -> None:
        details = event.details
        requests, skipped = details["requests"], details["skipped"]
        assert isinstance(requests, int)
        if requests == 0:
            self.hit("a null request is executed")
        elif requests > 1:
            self.hit("several requests in one batch")
        if skipped:
            self.hit("an executed request is ordered again and skipped")
        if not core.has_entered:
            self.hit("a replica executes while it is changing the view")

    def _on_view_change(self, core: Core, event: Event) -> None:
        details = event.details
        if details["reason"] == "f+1 replicas left":
            self.hit("a view is left with f+1 others")
            return
        self.hit("a view is left by the own timer")
        if core.timers.timeout > core.settings.view_change_seconds:
            self.hit("a view change after a failed one waits longer")
        view = details["view"]
        assert isinstance(view, int)
        if core.cluster.primary(view - 1) == core.index:
            self.hit("a primary leaves its own view")
