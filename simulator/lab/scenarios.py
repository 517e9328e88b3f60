"""Situations worth looking at, each a short script over the real replicas.

`python -m simulator list` names them; `show NAME` plays one, `--html FILE` draws it.
"""

from collections.abc import Callable

import msgspec

from ci.operations import Append, encode_operation
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import digest_of, encode_batch
from pbft.messages import (
    AnyMessage,
    Commit,
    Prepare,
    PrePrepare,
    Signed,
)
from simulator.lab.scripted_cluster import (
    CLIENT,
    LAB_PACE,
    LOST,
    VIEW_CHANGE_SECONDS,
    LinkEffect,
    ScriptedCluster,
)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """look: two sentences on what to look at. play: the script, on a cluster of its own."""

    name: str
    title: str
    look: str
    play: Callable[[ScriptedCluster], None]
    replicas: int = 4
    faulty: tuple[str, ...] = ()
    may_fork: bool = False

    def run(
        self, tell: Callable[[str], None] = lambda line: None, seed: int = 1
    ) -> ScriptedCluster:
        """Play the script on a new cluster. Returns the cluster afterwards."""
        scripted = ScriptedCluster(replicas=self.replicas, faulty=self.faulty, tell=tell, seed=seed)
        self.play(scripted)
        return scripted


def lose(
    kind: type, *, by: str = "", to: str = ""
) -> Callable[[str, str, AnyMessage], LinkEffect | None]:
    """A rule: messages of that type are lost; by, to: only of that sender, only to that one."""

    def rule(sender: str, receiver: str, message: AnyMessage) -> LinkEffect | None:
        is_meant = isinstance(message, kind) and by in ("", sender) and to in ("", receiver)
        return LOST if is_meant else None

    return rule


def delay(
    seconds: float, kind: type, *, by: str
) -> Callable[[str, str, AnyMessage], LinkEffect | None]:
    """A rule: messages of that type and sender take so much longer."""

    def rule(sender: str, receiver: str, message: AnyMessage) -> LinkEffect | None:
        return LinkEffect(seconds) if isinstance(message, kind) and sender == by else None

    return rule


def signed_request(scripted: ScriptedCluster, number: int, text: str) -> Signed:
    """A request that the client really signed, for a primary that orders as it likes."""
    operation = encode_operation(Append(text))
    signer = scripted.signatures.signer(CLIENT)
    return make_request(Identity(scripted.cluster, CLIENT, signer), number, operation)


# --- the scripts ----------------------------------------------------------------------------------


def _normal_case(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("the client asks for one thing")
    scripted.ask("hello")
    scripted.run(0.3)


def _crash_of_the_primary(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("the primary dies, and then the client asks")
    scripted.kill("r0")
    scripted.ask("hello")
    scripted.run(2.5)
    scripted.say("it comes back, and follows")
    scripted.start("r0")
    scripted.run(2.0)


def _partition_and_heal(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("the network is cut into two halves; the client reaches one of them")
    scripted.split(("r0", "r1", CLIENT), ("r2", "r3"))
    scripted.ask("hello")
    scripted.run(2.5)
    scripted.say("the network is whole again")
    scripted.heal()
    scripted.run(5.0)


def _equivocation(scripted: ScriptedCluster) -> None:
    scripted.silence("r0")
    scripted.run(0.1)
    scripted.say("the primary tells one backup that number 1 is A, and the others that it is B")
    _propose_two(scripted, "r0", one=("r1",), other=("r2", "r3"))
    scripted.run(0.1)
    scripted.say("it is careless, and r1 hears of B too: now r1 holds two signed contradictions")
    other = next(m for m in scripted.transits if m.kind == "PrePrepare" and m.receiver == "r2")
    scripted.post("r0", "r1", other.envelope, is_forged=True)
    scripted.run(4.0)


def _slow_primary(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("the primary waits 0.8 of the timeout before each proposal: slow, and allowed")
    scripted.rules.append(delay(0.8 * VIEW_CHANGE_SECONDS, PrePrepare, by="r0"))
    scripted.ask("first")
    scripted.run(1.2)
    scripted.say("now longer than the timeout: it is deposed")
    scripted.rules[:] = [delay(2.0 * VIEW_CHANGE_SECONDS, PrePrepare, by="r0")]
    scripted.ask("second")
    scripted.run(4.0)


def _lost_prepared_value(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("all prepare the request, but every COMMIT is lost; then the primary dies")
    scripted.rules.append(_commits_of_view_0_are_lost)
    scripted.ask("prepared once")
    scripted.run(0.1)
    scripted.kill("r0")
    scripted.run(3.0)


def _commits_of_view_0_are_lost(
    sender: str, receiver: str, message: AnyMessage
) -> LinkEffect | None:
    return LOST if isinstance(message, Commit) and message.view == 0 else None


def _stale_replay(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.ask("first")
    scripted.run(0.3)
    old = [
        transit
        for transit in scripted.transits
        if transit.sender == "r0" and transit.receiver == "r2" and transit.kind != "Status"
    ]
    scripted.ask("second")
    scripted.run(0.3)
    scripted.say("somebody who listened sends r2 all that r0 ever told it, once more")
    for transit in old:
        scripted.post("r0", "r2", transit.envelope, is_forged=True)
    request = next(transit for transit in scripted.transits if transit.kind == "Request")
    scripted.post(CLIENT, "r2", request.envelope, is_forged=True)
    scripted.run(0.3)


def _state_transfer(scripted: ScriptedCluster) -> None:
    scripted.run(0.1)
    scripted.say("r3 is away while more is ordered than the others keep messages for")
    scripted.kill("r3")
    scripted.ask("string 0")
    scripted.run(0.12)
    more = 2 * LAB_PACE.window + 1
    with scripted.fold(
        f"{more} more strings are ordered in the same way; their messages are not drawn"
    ):
        for number in range(1, more + 1):
            scripted.ask(f"string {number}")
            scripted.run(0.12)
    scripted.say("r3 is back")
    scripted.start("r3")
    scripted.run(4.0)


def _two_faulty_of_seven(scripted: ScriptedCluster) -> None:
    scripted.silence("r5")
    scripted.run(0.1)
    scripted.say("r5 says nothing; r6 votes for another digest than everybody else")
    scripted.silence("r6")
    scripted.ask("hello")
    scripted.run(0.03)
    false = digest_of(b"something else")
    others = [name for name in scripted.names if name != "r6"]
    scripted.forge("r6", Prepare(0, 1, false, 6), to=others)
    scripted.forge("r6", Commit(0, 1, false, 6), to=others)
    scripted.run(0.5)


def _more_than_f_faulty(scripted: ScriptedCluster) -> None:
    scripted.silence("r0")
    scripted.silence("r1")
    scripted.split(("r0", "r1", "r2", CLIENT), ("r0", "r1", "r3", CLIENT))
    scripted.rules[:] = [_keeps_apart]
    scripted.run(0.1)
    scripted.say("two of four are faulty, one more than is tolerated: they tell r2 A and r3 B")
    a, b = _propose_two(scripted, "r0", one=("r2",), other=("r3",))
    for digest, victim in ((a, "r2"), (b, "r3")):
        scripted.forge("r1", Prepare(0, 1, digest, 1), to=(victim,))
        for index, name in enumerate(("r0", "r1")):
            scripted.forge(name, Commit(0, 1, digest, index), to=(victim,))
    scripted.run(0.4)
    scripted.say("the two that are correct meet")
    scripted.rules.clear()
    scripted.run(2.5)


def _keeps_apart(sender: str, receiver: str, message: AnyMessage) -> LinkEffect | None:
    return LOST if {sender, receiver} == {"r2", "r3"} else None


def _propose_two(
    scripted: ScriptedCluster, primary: str, *, one: tuple[str, ...], other: tuple[str, ...]
) -> tuple[bytes, bytes]:
    """The primary proposes A to some and B to others for number 1 of view 0; their digests."""
    index = scripted.names.index(primary)
    digests = []
    for number, (text, receivers) in enumerate((("A", one), ("B", other)), 1):
        request = signed_request(scripted, number, text)
        body = encode_batch([request])
        digest = digest_of(body)
        scripted.forge(primary, PrePrepare(0, 1, digest, index), to=receivers, body=body)
        digests.append(digest)
    # the client really asks for both, under the same numbers
    scripted.ask("A")
    scripted.ask("B")
    return digests[0], digests[1]


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="normal-case",
        title="Normal case: one request, three phases",
        look=(
            "Follow one REQUEST through PRE-PREPARE, PREPARE and COMMIT, and see how each replica "
            "goes on the moment it has its quorum, not when all have spoken. The client believes "
            "the result at the second equal REPLY: one of two must be from a correct replica."
        ),
        play=_normal_case,
    ),
    Scenario(
        name="primary-crash",
        title="The primary crashes, and the next one takes over",
        look=(
            "The backups wait one timeout for the request's order, then send VIEW-CHANGE; with "
            "2f+1 of them replica 1 sends NEW-VIEW and orders the request. When the old primary "
            "is back it does not lead again: it learns the view and what it missed."
        ),
        play=_crash_of_the_primary,
    ),
    Scenario(
        name="partition",
        title="A partition: nobody decides, then everybody does",
        look=(
            "Neither half has 2f+1 replicas, so neither can decide: safety does not depend on "
            "time. After the cut is healed the two halves agree on one view and the request is "
            "executed once."
        ),
        play=_partition_and_heal,
    ),
    Scenario(
        name="equivocation",
        title="A primary that says two things about one number",
        look=(
            "No digest finds 2f+1 COMMITs, so nobody executes anything in this view; the timeout "
            "removes the primary, and the next one orders both requests. r1 keeps the two signed "
            "PRE-PREPAREs: nothing less is proof of misbehaviour."
        ),
        play=_equivocation,
        faulty=("r0",),
    ),
    Scenario(
        name="slow-primary",
        title="A slow primary, and one that is too slow",
        look=(
            "A primary may use almost the whole timeout for each request and is not deposed: the "
            "timeout is the price. As soon as it takes longer, the view changes and the request "
            "is ordered by the next one."
        ),
        play=_slow_primary,
        faulty=("r0",),
    ),
    Scenario(
        name="lost-prepared-value",
        title="A prepared value outlives the view that prepared it",
        look=(
            "Somebody may have committed what was prepared, so the VIEW-CHANGEs carry the proof "
            "that it was. The new primary has no choice: NEW-VIEW proposes the same digest for "
            "the same number."
        ),
        play=_lost_prepared_value,
    ),
    Scenario(
        name="stale-replay",
        title="Old messages, sent once more",
        look=(
            "Every replayed message has a good signature, and none changes anything: numbers that "
            "are executed stay executed, and a request that was answered is answered again, not "
            "executed again. Signatures say who spoke, never when."
        ),
        play=_stale_replay,
    ),
    Scenario(
        name="state-transfer",
        title="A replica that was away for too long fetches the state",
        look=(
            "The others have thrown away the messages that the returning replica lacks. It asks "
            "for the state at the stable checkpoint in parts, and checks each against the digest "
            "that 2f+1 replicas signed, so it does not matter who serves it."
        ),
        play=_state_transfer,
    ),
    Scenario(
        name="two-of-seven",
        title="Two faulty replicas of seven",
        look=(
            "With n = 7 the quorum is five and f is two: one replica is silent, another votes for "
            "something that nobody proposed. The five correct ones are just enough, and the false "
            "votes are counted for nothing."
        ),
        play=_two_faulty_of_seven,
        replicas=7,
        faulty=("r5", "r6"),
    ),
    Scenario(
        name="too-many-faulty",
        title="More than f faulty replicas: what breaks, and how it shows",
        look=(
            "Two of four lie, one more than PBFT tolerates: each correct one finds a quorum for "
            "another value, their journals fork for ever, and a client could be made to believe "
            "either. It shows: the digests differ, and no view can begin any more, for the two "
            "carry certificates that contradict each other."
        ),
        play=_more_than_f_faulty,
        faulty=("r0", "r1"),
        may_fork=True,
    ),
)


def find(name: str) -> Scenario | None:
    """The scenario of that name."""
    return next((scenario for scenario in SCENARIOS if scenario.name == name), None)
