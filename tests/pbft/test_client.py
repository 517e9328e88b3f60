"""The client: f+1 equal signed replies, and nothing less, whatever some replicas say."""

import msgspec
import pytest

from pbft import client as client_module
from pbft.client import Accepted, Client, ClientOutput, ClientSettings
from pbft.codec import digest_of
from pbft.messages import Envelope, Prepare, Replies, Reply, Signed, Status
from tests.pbft.world import World, signer, verify

WORLD = World(client_window=4)
LAST = frozenset({"decided", "refused"})


def new_client(world: World = WORLD, settings: ClientSettings | None = None) -> Client:
    return Client(world.cluster, "client", verify, settings=settings)


def operation(timestamp: int) -> Signed:
    return WORLD.request(timestamp, b"%d" % timestamp)


def reply(timestamp: int = 1, kind: str = "decided", **changes: object) -> Reply:
    digest = digest_of(operation(timestamp).payload)
    good = Reply("client", timestamp, digest, kind, b"subject", b"result", b"")
    return msgspec.structs.replace(good, **changes)


def from_replica(index: int, *replies: Reply, world: World = WORLD) -> Envelope:
    return Envelope(world.sign(f"r{index}", Replies(replies, index)))


def give(client: Client, *envelopes: Envelope, now: float = 0.0) -> ClientOutput:
    return client.receive(envelopes, now)


def sent(output: ClientOutput) -> list[Signed]:
    assert all(send.to is None for send in output.messages)
    return [send.envelope.signed for send in output.messages]


def asking(timestamp: int = 1, settings: ClientSettings | None = None) -> Client:
    client = new_client(settings=settings)
    client.ask(operation(timestamp), LAST, 0.0)
    return client


def reasons(output: ClientOutput) -> list[str]:
    return [str(event.details["reason"]) for event in output.events]


# --- asking -------------------------------------------------------------------------------------


def test_asking_sends_the_request_as_it_is_to_all_replicas() -> None:
    output = new_client().ask(operation(1), LAST, 5.0)
    assert sent(output) == [operation(1)]
    assert output.deadline == 6.0


def test_it_asks_again_with_a_growing_pause_that_has_a_limit() -> None:
    client = asking(settings=ClientSettings(resend_seconds=1.0, resend_seconds_max=5.0))
    assert sent(client.handle_timer(0.9)) == []
    now, pauses = 0.0, []
    for _ in range(6):
        deadline = client.handle_timer(now).deadline
        assert deadline is not None
        pauses.append(deadline - now)
        now = deadline
        assert sent(client.receive([], now)) == [], "only time makes it ask again"
        assert sent(client.handle_timer(now)) == [operation(1)]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_a_number_waits_until_the_one_a_window_below_is_answered() -> None:
    client = new_client()
    assert [sent(client.ask(operation(t), LAST, 0.0)) for t in range(1, 7)] == [
        [operation(1)],
        [operation(2)],
        [operation(3)],
        [operation(4)],
        [],
        [],
    ]
    for timestamp in (3, 2):
        output = give(client, *(from_replica(i, reply(timestamp)) for i in (0, 1)))
        assert len(output.accepted) == 1
        assert sent(output) == []
    output = give(client, *(from_replica(i, reply(1)) for i in (0, 1)))
    assert sent(output) == [operation(5), operation(6)]


def test_a_first_answer_is_enough_to_go_on_with_later_numbers() -> None:
    """A build that is `opened` has used its number, though it will be `decided` much later."""
    client = new_client()
    for timestamp in range(1, 6):
        client.ask(operation(timestamp), LAST, 0.0)
    output = give(client, *(from_replica(i, reply(1, "opened")) for i in (0, 1)))
    assert sent(output) == [operation(5)]


def test_a_restarted_client_asks_for_what_is_open_with_its_old_bytes() -> None:
    client = new_client()
    output = client.ask(operation(1000), LAST, 0.0)
    assert sent(output) == [operation(1000)]
    output = give(client, *(from_replica(i, reply(1000)) for i in (2, 3)))
    assert len(output.accepted) == 1


def test_a_number_is_asked_for_once_and_for_oneself() -> None:
    client = asking()
    with pytest.raises(AssertionError):
        client.ask(operation(1), LAST, 0.0)
    with pytest.raises(AssertionError):
        client.ask(WORLD.request(2, b"", "other"), LAST, 0.0)


# --- accepting ----------------------------------------------------------------------------------


def test_f_plus_1_equal_replies_are_accepted_with_who_gave_them() -> None:
    client = asking()
    first = from_replica(2, reply(attestation=b"a" * 64))
    second = from_replica(0, reply(attestation=b"b" * 64))
    assert give(client, first).accepted == []
    (accepted,) = give(client, second).accepted
    assert accepted == Accepted(
        1,
        digest_of(operation(1).payload),
        "decided",
        b"subject",
        b"result",
        (("r0", b"b" * 64, second.signed), ("r2", b"a" * 64, first.signed)),
    )


def test_with_seven_replicas_three_are_needed() -> None:
    world = World(7)
    client = Client(world.cluster, "client", verify)
    client.ask(world.request(1, b"1"), LAST, 0.0)
    answer = reply(request_digest=digest_of(world.request(1, b"1").payload))
    for index, expected in ((0, 0), (1, 0), (2, 1)):
        output = give(client, from_replica(index, answer, world=world))
        assert len(output.accepted) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"result": b"other"},
        {"subject": b"other"},
        {"kind": "refused"},
        {"request_digest": bytes(32)},
    ],
)
def test_what_differs_in_any_compared_field_does_not_count_together(
    changes: dict[str, object],
) -> None:
    client = asking()
    assert give(client, from_replica(0, reply())).accepted == []
    differing = msgspec.structs.replace(reply(), **changes)
    assert give(client, from_replica(1, differing)).accepted == []
    assert len(give(client, from_replica(2, reply())).accepted) == 1


def test_one_replica_counts_once_however_often_it_answers() -> None:
    client = asking()
    for _ in range(3):
        assert give(client, from_replica(0, reply())).accepted == []
    assert give(client, from_replica(0, reply(), reply())).accepted == []
    assert give(client, from_replica(0, reply(attestation=b"x"))).accepted == []


def test_an_answer_that_changes_with_the_state_is_accepted_once_f_plus_1_say_the_same() -> None:
    """Correct replicas refuse with another reason once the state went on; two of four are heard."""
    client = asking()
    early, later = (reply(kind="refused", result=text) for text in (b"not open", b"decided"))
    assert give(client, from_replica(0, early)).accepted == []
    assert give(client, from_replica(1, later)).accepted == []
    (accepted,) = give(client, from_replica(0, later)).accepted
    assert accepted.result == b"decided"
    assert [name for name, *_ in accepted.replies] == ["r0", "r1"]


def test_a_word_that_was_taken_back_counts_no_more() -> None:
    client = asking()
    give(client, from_replica(0, reply()))
    give(client, from_replica(0, reply(result=b"other")))
    assert give(client, from_replica(1, reply())).accepted == []
    output = give(client, from_replica(2, reply()))
    assert [name for name, *_ in output.accepted[0].replies] == ["r1", "r2"]
    assert [(late.replica, late.result) for late in output.late] == [("r0", b"other")]


def test_of_two_answers_in_one_message_the_later_one_counts() -> None:
    client = asking()
    give(client, from_replica(0, reply(result=b"first"), reply(result=b"second")))
    assert give(client, from_replica(1, reply(result=b"first"))).accepted == []
    assert len(give(client, from_replica(2, reply(result=b"second"))).accepted) == 1


def test_what_a_message_says_after_the_answer_that_it_decides_is_not_told() -> None:
    client = asking()
    give(client, from_replica(0, reply()))
    output = give(client, from_replica(1, reply(), reply(result=b"other")))
    assert [accepted.result for accepted in output.accepted] == [b"result"]
    assert output.late == []


def test_f_liars_who_agree_are_not_believed() -> None:
    world = World(7)
    client = Client(world.cluster, "client", verify)
    client.ask(world.request(1, b"1"), LAST, 0.0)
    lie = reply(result=b"lie")
    for index in (5, 6):
        assert give(client, from_replica(index, lie, world=world)).accepted == []


def test_signatures_and_senders_are_checked() -> None:
    client = asking()
    give(client, from_replica(0, reply()))
    good = from_replica(1, reply()).signed
    forged = [
        Signed("r1", good.payload, bytes(64)),
        WORLD.sign("r2", Replies((reply(),), 1)),
        Signed("r1", good.payload, WORLD.sign("r2", Replies((reply(),), 1)).signature),
        WORLD.sign("other", Replies((reply(),), 1)),
        Signed("r1", b"noise", bytes(64)),
    ]
    for signed in forged:
        output = give(client, Envelope(signed))
        assert output.accepted == []
        assert len(reasons(output)) == 1
    assert len(give(client, Envelope(good)).accepted) == 1


def test_replies_to_another_client_or_number_are_not_ours() -> None:
    client = asking()
    for answer in (reply(client="other"), reply(timestamp=2)):
        for index in range(4):
            output = give(client, from_replica(index, answer))
            assert (output.accepted, output.late) == ([], [])


def test_what_is_not_a_reply_is_left_alone() -> None:
    client = asking()
    for message in (Status(0, True, 0, 0, 1), Prepare(0, 1, bytes(32), 1)):
        output = give(client, Envelope(WORLD.sign("r1", message)))
        assert (output.accepted, output.messages) == ([], [])


def test_every_kind_of_answer_is_accepted_once_and_the_last_kind_ends_it() -> None:
    client = asking()
    opened = [from_replica(i, reply(kind="opened")) for i in range(4)]
    decided = [from_replica(i, reply(kind="decided", result=b"statement")) for i in range(4)]
    output = give(client, *opened[:2])
    assert [a.kind for a in output.accepted] == ["opened"]
    assert output.deadline is not None, "it goes on asking, slowly, for the last kind"
    output = give(client, *decided[:2])
    assert [a.kind for a in output.accepted] == ["decided"]
    assert output.deadline is None
    assert sent(client.handle_timer(1e9)) == []


def test_after_the_first_answer_it_asks_slowly() -> None:
    client = asking(settings=ClientSettings(resend_seconds=1.0, resend_seconds_max=15.0))
    give(client, *(from_replica(i, reply(kind="opened")) for i in (0, 1)))
    assert sent(client.handle_timer(1.0)) == [operation(1)]
    assert client.handle_timer(1.0).deadline == 16.0


def test_the_last_answer_may_come_before_the_first() -> None:
    client = asking()
    output = give(client, *(from_replica(i, reply(kind="decided")) for i in (0, 1)))
    assert [a.kind for a in output.accepted] == ["decided"]
    output = give(client, *(from_replica(i, reply(kind="opened")) for i in (0, 1)))
    assert [a.kind for a in output.accepted] == ["opened"]


def test_many_answers_in_one_message_are_counted_each() -> None:
    client = new_client()
    for timestamp in (1, 2, 3):
        client.ask(operation(timestamp), LAST, 0.0)
    both = [from_replica(i, *(reply(t) for t in (1, 2, 3))) for i in (0, 1)]
    assert [a.timestamp for a in give(client, *both).accepted] == [1, 2, 3]


def test_an_answer_that_names_another_request_says_that_the_number_is_used() -> None:
    """A client that lost its counter: its own request needs a new number (docs/PROTOCOL.md)."""
    client = asking()
    other = digest_of(b"what was executed under this number before")
    output = give(
        client, *(from_replica(i, reply(kind="opened", request_digest=other)) for i in (0, 1))
    )
    (accepted,) = output.accepted
    assert accepted.request_digest == other != digest_of(operation(1).payload)
    assert output.deadline is None, "not asked again, though `opened` is no last kind"


# --- late replies -------------------------------------------------------------------------------


def test_late_replies_are_told_with_whether_they_agree() -> None:
    client = asking()
    give(client, *(from_replica(i, reply()) for i in (0, 1)))
    agreeing = from_replica(2, reply(attestation=b"c" * 64))
    (late,) = give(client, agreeing).late
    assert (late.replica, late.agrees, late.attestation) == ("r2", True, b"c" * 64)
    assert late.signed == agreeing.signed
    (late,) = give(client, from_replica(3, reply(result=b"dissent"))).late
    assert (late.replica, late.agrees, late.result) == ("r3", False, b"dissent")
    for index in range(4):
        output = give(client, from_replica(index, reply()))
        assert (output.late, output.accepted) == ([], []), "each replica is told once"


@pytest.mark.parametrize("late", [reply(result=b"dissent"), reply(attestation=b"c" * 64)])
def test_a_late_reply_with_a_bad_signature_is_not_told(late: Reply) -> None:
    client = asking()
    give(client, *(from_replica(i, reply()) for i in (0, 1)))
    signed = Signed("r2", from_replica(2, late).signed.payload, bytes(64))
    output = give(client, Envelope(signed))
    assert output.late == []
    assert reasons(output) == ["bad signature"]


def test_a_late_reply_that_its_own_message_pushes_out_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica that was away answers old and new requests in one message."""
    monkeypatch.setattr(client_module, "FINISHED_KEPT", 1)
    client = asking()
    give(client, *(from_replica(i, reply()) for i in (0, 1)))
    client.ask(operation(2), LAST, 0.0)
    give(client, from_replica(0, reply(2)))
    output = give(client, from_replica(2, reply(2), reply(result=b"dissent")))
    assert [accepted.timestamp for accepted in output.accepted] == [2]
    assert output.late == []


def test_replies_beyond_f_plus_1_that_add_nothing_are_not_even_verified() -> None:
    """docs/FACTS.md: with 64 clients these signatures were a quarter of their CPU time."""
    verified: list[bytes] = []

    def noted(public_key: bytes, message: bytes, signature: bytes) -> bool:
        verified.append(signature)
        return verify(public_key, message, signature)

    client = Client(WORLD.cluster, "client", noted)
    client.ask(operation(1), LAST, 0.0)
    replies = [from_replica(i, reply()) for i in range(4)]
    outputs = [give(client, envelope) for envelope in replies]
    assert [len(output.accepted) for output in outputs] == [0, 1, 0, 0]
    assert [output.late + output.events for output in outputs] == [[]] * 4
    assert verified == [envelope.signed.signature for envelope in replies[:2]]


def test_a_late_reply_that_comes_twice_in_one_message_is_told_once() -> None:
    client = asking()
    give(client, *(from_replica(i, reply()) for i in (0, 1)))
    signed_apart = reply(attestation=b"c" * 64)
    (late,) = give(client, from_replica(2, signed_apart, reply(result=b"dissent"))).late
    assert late.agrees


def test_late_replies_are_told_for_the_newest_finished_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "FINISHED_KEPT", 2)
    client = new_client()
    for timestamp in (1, 2, 3):
        client.ask(operation(timestamp), LAST, 0.0)
        give(client, *(from_replica(i, reply(timestamp)) for i in (0, 1)))
    dissent = [from_replica(2, reply(t, result=b"dissent")) for t in (1, 2, 3)]
    late = [len(give(client, envelope).late) for envelope in dissent]
    assert late == [0, 1, 1]


def test_a_liar_whose_late_replies_all_differ_is_told_once() -> None:
    """Whether it spoke before the others agreed or not."""
    client = asking()
    give(client, from_replica(2, reply(result=b"lie")))
    output = give(client, *(from_replica(i, reply()) for i in (0, 1)))
    assert [late.replica for late in output.late] == ["r2"]
    lies = [reply(result=b"lie %d" % number, attestation=b"x" * 64) for number in range(50)]
    told = [give(client, from_replica(i, lie)).late for lie in lies for i in (2, 3)]
    assert [late.replica for lates in told for late in lates] == ["r3"]


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_message", [1, 10])
def test_a_replica_that_invents_kinds_is_heard_for_a_few_and_bars_nobody(per_message: int) -> None:
    client = asking()
    invented = [reply(kind=f"kind {number}") for number in range(100)]
    for first in range(0, 100, per_message):
        give(client, from_replica(0, *invented[first : first + per_message]))
    kinds = client._asking[1].replies
    assert len(kinds) == client_module.KINDS_PER_REPLICA_MAX
    output = give(client, *(from_replica(i, reply()) for i in (1, 2)))
    assert len(output.accepted) == 1


def test_two_messages_of_one_turn_are_both_counted() -> None:
    client = asking()
    output = client.receive([from_replica(0, reply()), from_replica(1, reply())], 0.0)
    assert len(output.accepted) == 1


def test_the_request_bears_our_own_signature() -> None:
    signed = operation(1)
    assert signed.signer == "client"
    assert signer("client")(b"") != signer("other")(b"")
    assert verify(
        WORLD.cluster.public_key("client") or b"",
        b"pbft-ci 1 Request\0" + WORLD.cluster.id + bytes(8) + signed.payload,
        signed.signature,
    )
