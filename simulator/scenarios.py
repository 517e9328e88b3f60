"""Situations worth looking at, each a short script over the real replicas.

`python -m simulator list` names them; `show NAME` plays one, `--html FILE` draws it.
"""

from collections.abc import Callable

import msgspec

from ci.operations import Append, encode_operation
from pbft.client import make_request
from pbft.codec import digest_of, encode_batch
from pbft.messages import (
    AnyMessage,
    Commit,
    Prepare,
    PrePrepare,
    Signed,
)
from simulator.stage import (
    CLIENT,
    LOST,
    VIEW_CHANGE_SECONDS,
    WINDOW,
    Stage,
    Way,
)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """look: two sentences on what to look at. play: the script, on a stage of its own."""

    name: str
    title: str
    look: str
    play: Callable[[Stage], None]
    replicas: int = 4
    faulty: tuple[str, ...] = ()
    may_fork: bool = False

    def run(self, tell: Callable[[str], None] = lambda line: None, seed: int = 1) -> Stage:
        """Play it on a new stage; gives the stage afterwards."""
        stage = Stage(replicas=self.replicas, faulty=self.faulty, tell=tell, seed=seed)
        self.play(stage)
        return stage


def lose(kind: type, *, by: str = "", to: str = "") -> Callable[[str, str, AnyMessage], Way | None]:
    """A rule: messages of that type are lost; by, to: only of that sender, only to that one."""

    def rule(sender: str, receiver: str, message: AnyMessage) -> Way | None:
        is_meant = isinstance(message, kind) and by in ("", sender) and to in ("", receiver)
        return LOST if is_meant else None

    return rule


def delay(seconds: float, kind: type, *, by: str) -> Callable[[str, str, AnyMessage], Way | None]:
    """A rule: messages of that type and sender take so much longer."""

    def rule(sender: str, receiver: str, message: AnyMessage) -> Way | None:
        return Way(seconds) if isinstance(message, kind) and sender == by else None

    return rule


def signed_request(stage: Stage, number: int, text: str) -> Signed:
    """A request that the client really signed, for a primary that orders as it likes."""
    operation = encode_operation(Append(text))
    signer = stage.signatures.signer(CLIENT)
    return make_request(CLIENT, number, operation, stage.cluster, signer)


# --- the scripts ----------------------------------------------------------------------------------


def _normal_case(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("the client asks for one thing")
    stage.ask("hello")
    stage.run(0.3)


def _crash_of_the_primary(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("the primary dies, and then the client asks")
    stage.kill("r0")
    stage.ask("hello")
    stage.run(2.5)
    stage.say("it comes back, and follows")
    stage.start("r0")
    stage.run(2.0)


def _partition_and_heal(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("the network is cut into two halves; the client reaches one of them")
    stage.split(("r0", "r1", CLIENT), ("r2", "r3"))
    stage.ask("hello")
    stage.run(2.5)
    stage.say("the network is whole again")
    stage.heal()
    stage.run(5.0)


def _equivocation(stage: Stage) -> None:
    stage.silence("r0")
    stage.run(0.1)
    stage.say("the primary tells one backup that number 1 is A, and the others that it is B")
    _propose_two(stage, "r0", one=("r1",), other=("r2", "r3"))
    stage.run(0.1)
    stage.say("it is careless, and r1 hears of B too: now r1 holds two signed contradictions")
    other = next(m for m in stage.letters if m.kind == "PrePrepare" and m.receiver == "r2")
    stage.post("r0", "r1", other.envelope, is_forged=True)
    stage.run(4.0)


def _slow_primary(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("the primary waits 0.8 of the timeout before each proposal: slow, and allowed")
    stage.rules.append(delay(0.8 * VIEW_CHANGE_SECONDS, PrePrepare, by="r0"))
    stage.ask("first")
    stage.run(1.2)
    stage.say("now longer than the timeout: it is deposed")
    stage.rules[:] = [delay(2.0 * VIEW_CHANGE_SECONDS, PrePrepare, by="r0")]
    stage.ask("second")
    stage.run(4.0)


def _lost_prepared_value(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("all prepare the request, but every COMMIT is lost; then the primary dies")
    stage.rules.append(_commits_of_view_0_are_lost)
    stage.ask("prepared once")
    stage.run(0.1)
    stage.kill("r0")
    stage.run(3.0)


def _commits_of_view_0_are_lost(sender: str, receiver: str, message: AnyMessage) -> Way | None:
    return LOST if isinstance(message, Commit) and message.view == 0 else None


def _stale_replay(stage: Stage) -> None:
    stage.run(0.1)
    stage.ask("first")
    stage.run(0.3)
    old = [
        letter
        for letter in stage.letters
        if letter.sender == "r0" and letter.receiver == "r2" and letter.kind != "Status"
    ]
    stage.ask("second")
    stage.run(0.3)
    stage.say("somebody who listened sends r2 all that r0 ever told it, once more")
    for letter in old:
        stage.post("r0", "r2", letter.envelope, is_forged=True)
    request = next(letter for letter in stage.letters if letter.kind == "Request")
    stage.post(CLIENT, "r2", request.envelope, is_forged=True)
    stage.run(0.3)


def _state_transfer(stage: Stage) -> None:
    stage.run(0.1)
    stage.say("r3 is away while more is ordered than the others keep messages for")
    stage.kill("r3")
    stage.ask("string 0")
    stage.run(0.12)
    more = 2 * WINDOW + 1
    with stage.fold(
        f"{more} more strings are ordered in the same way; their messages are not drawn"
    ):
        for number in range(1, more + 1):
            stage.ask(f"string {number}")
            stage.run(0.12)
    stage.say("r3 is back")
    stage.start("r3")
    stage.run(4.0)


def _two_faulty_of_seven(stage: Stage) -> None:
    stage.silence("r5")
    stage.run(0.1)
    stage.say("r5 says nothing; r6 votes for another digest than everybody else")
    stage.silence("r6")
    stage.ask("hello")
    stage.run(0.03)
    false = digest_of(b"something else")
    others = [name for name in stage.names if name != "r6"]
    stage.forge("r6", Prepare(0, 1, false, 6), others)
    stage.forge("r6", Commit(0, 1, false, 6), others)
    stage.run(0.5)


def _more_than_f_faulty(stage: Stage) -> None:
    stage.silence("r0")
    stage.silence("r1")
    stage.split(("r0", "r1", "r2", CLIENT), ("r0", "r1", "r3", CLIENT))
    stage.rules[:] = [_keeps_apart]
    stage.run(0.1)
    stage.say("two of four are faulty, one more than is tolerated: they tell r2 A and r3 B")
    a, b = _propose_two(stage, "r0", one=("r2",), other=("r3",))
    for digest, victim in ((a, "r2"), (b, "r3")):
        stage.forge("r1", Prepare(0, 1, digest, 1), (victim,))
        for index, name in enumerate(("r0", "r1")):
            stage.forge(name, Commit(0, 1, digest, index), (victim,))
    stage.run(0.4)
    stage.say("the two that are correct meet")
    stage.rules.clear()
    stage.run(2.5)


def _keeps_apart(sender: str, receiver: str, message: AnyMessage) -> Way | None:
    return LOST if {sender, receiver} == {"r2", "r3"} else None


def _propose_two(
    stage: Stage, primary: str, one: tuple[str, ...], other: tuple[str, ...]
) -> tuple[bytes, bytes]:
    """The primary proposes A to some and B to others for number 1 of view 0; their digests."""
    index = stage.names.index(primary)
    digests = []
    for number, (text, receivers) in enumerate((("A", one), ("B", other)), 1):
        request = signed_request(stage, number, text)
        body = encode_batch([request])
        digest = digest_of(body)
        stage.forge(primary, PrePrepare(0, 1, digest, index), receivers, body)
        digests.append(digest)
    # the client really asks for both, under the same numbers
    stage.ask("A")
    stage.ask("B")
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
