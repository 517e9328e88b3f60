"""Both ends of a link prove themselves, the dialler first, and a proof serves for one link.

Each says which link versions it speaks, and nobody between them makes them speak an older one.
"""

import base64
from collections.abc import Callable

import msgspec
import pytest

from common.configuration.keys import SigningKey
from common.links.handshake import (
    LINK_VERSIONS,
    PROOF_SECONDS,
    UNSAID_VERSIONS,
    Handshakes,
    Leaves,
    LinkRefused,
    LinkVersions,
)
from pbft.authentication import Identity
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "r1", "client")}


def cluster_of(window: int = 256, epoch: int = 0) -> Cluster:
    r0 = Member("r0", KEYS["r0"].public_key, ("replica",))
    others = tuple(Member(name, KEYS[name].public_key, ("gateway",)) for name in ("r1", "client"))
    cluster = Cluster(Genesis(PROTOCOL_MIN, (r0,), others, 128, window, 256, b""))
    cluster.epoch = epoch
    return cluster


def end(
    name: str, cluster: Cluster | None = None, versions: LinkVersions = LINK_VERSIONS
) -> Handshakes:
    return Handshakes(Identity(cluster or cluster_of(), name, KEYS[name].sign), versions)


def test_both_ends_know_each_other_after_four_messages() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    accepted = r0.accept(dialling.proof, 5.1)
    assert accepted.peer == "r1"
    r1.complete(dialling, accepted.proof)
    assert accepted.version == dialling.version == LINK_VERSIONS.newest


def test_a_proof_counts_once() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    r0.accept(dialling.proof, 5.0)
    with pytest.raises(LinkRefused, match="used before"):
        r0.accept(dialling.proof, 5.0)
    assert r0.accept(r1.answer(r0.offer(5.0), "r0").proof, 5.0).peer == "r1"


def test_a_proof_that_comes_late_does_not_count() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    with pytest.raises(LinkRefused, match="took longer"):
        r0.accept(dialling.proof, 5.1 + PROOF_SECONDS)


def test_a_challenge_of_another_life_does_not_count() -> None:
    r1 = end("r1")
    dialling = r1.answer(end("r0").offer(5.0), "r0")
    with pytest.raises(LinkRefused, match="another challenge"):
        end("r0").accept(dialling.proof, 5.0)


def test_nobody_signs_for_who_has_proved_nothing() -> None:
    """The reflection: what r0 asks of "r1" cannot be had of r1, who signs as an acceptor, too."""
    r0, r1 = end("r0"), end("r1")
    asked = r0.offer(5.0)
    # r1's own challenge, proved by nobody who has a key: there is nothing to answer with
    assert asked != r1.offer(5.0)
    dialling = end("client").answer(r1.offer(5.0), "r1")
    signed_by_r1 = r1.accept(dialling.proof, 5.0).proof
    with pytest.raises(LinkRefused):
        r0.accept(signed_by_r1, 5.0)
    with pytest.raises(LinkRefused):
        r1.accept(dialling.proof, 5.0)
    with pytest.raises(LinkRefused, match="somebody else"):
        r0.accept(dialling.proof, 5.0)


@pytest.mark.parametrize(
    "field", ["role", "dialler", "acceptor", "dialler_challenge", "acceptor_challenge"]
)
def test_each_field_is_part_of_the_acceptors_proof(field: str) -> None:
    """A proof for another handshake is none for this one."""
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0")
    proof = r0.accept(dialling.proof, 5.0).proof
    other = {"role": "acceptor", "dialler": "client", "acceptor": "client"}.get(field, bytes(32))
    hello = msgspec.structs.replace(dialling.hello, **{field: other})
    if field == "role":
        proof = dialling.proof
        hello = dialling.hello
    with pytest.raises(LinkRefused):
        r1.complete(msgspec.structs.replace(dialling, hello=hello), proof)


def test_a_proof_for_another_cluster_is_none() -> None:
    mine, theirs = cluster_of(), cluster_of(window=512)
    assert mine.id != theirs.id
    with pytest.raises(LinkRefused, match="another cluster"):
        end("r1", theirs).answer(end("r0", mine).offer(5.0), "r0")


def test_a_proof_of_another_epoch_is_none() -> None:
    r0, r1 = end("r0"), end("r1", cluster_of(epoch=1))
    with pytest.raises(LinkRefused, match="did not prove"):
        r0.accept(r1.answer(r0.offer(5.0), "r0").proof, 5.0)


LEAVES = Leaves(dialler=b"d" * 32, acceptor=b"a" * 32)


def test_over_tls_both_ends_know_each_other_too() -> None:
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0", LEAVES)
    accepted = r0.accept(dialling.proof, 5.1, LEAVES)
    assert accepted.peer == "r1"
    r1.complete(dialling, accepted.proof)


@pytest.mark.parametrize(
    ("signed_for", "came_over"),
    [
        (LEAVES, Leaves(b"x" * 32, LEAVES.acceptor)),
        (LEAVES, Leaves(LEAVES.dialler, b"x" * 32)),
        (LEAVES, Leaves(LEAVES.acceptor, LEAVES.dialler)),
        (LEAVES, None),
        (None, LEAVES),
    ],
    ids=["another dialler's", "another acceptor's", "swapped", "without TLS", "made without TLS"],
)
def test_a_proof_is_bound_to_both_certificates(
    signed_for: Leaves | None, came_over: Leaves | None
) -> None:
    """Who passes proofs on between two TLS connections shows another certificate in each."""
    r0, r1 = end("r0"), end("r1")
    dialling = r1.answer(r0.offer(5.0), "r0", signed_for)
    with pytest.raises(LinkRefused, match=r"another TLS connection|not the words"):
        r0.accept(dialling.proof, 5.0, came_over)


# --- link versions ------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [None, LEAVES], ids=["plain", "over TLS"])
@pytest.mark.parametrize(
    ("dialler", "acceptor", "spoken"),
    [
        (LinkVersions(2, 2), LinkVersions(2, 2), 2),
        (LinkVersions(2, 3), LinkVersions(2, 2), 2),
        (LinkVersions(2, 2), LinkVersions(2, 3), 2),
        (LinkVersions(2, 4), LinkVersions(3, 5), 4),
        (LinkVersions(255, 255), LinkVersions(1, 255), 255),
    ],
)
def test_both_ends_speak_the_highest_version_that_both_know(
    dialler: LinkVersions, acceptor: LinkVersions, spoken: int, leaves: Leaves | None
) -> None:
    r0, r1 = end("r0", versions=acceptor), end("r1", versions=dialler)
    dialling = r1.answer(r0.offer(5.0), "r0", leaves)
    accepted = r0.accept(dialling.proof, 5.0, leaves)
    r1.complete(dialling, accepted.proof)
    assert (dialling.version, accepted.version) == (spoken, spoken)


@pytest.mark.parametrize(
    ("dialler", "acceptor", "older"),
    [
        (LinkVersions(2, 3), LinkVersions(4, 5), "this member"),
        (LinkVersions(4, 4), LinkVersions(2, 3), "'r0'"),
    ],
)
def test_without_a_common_version_both_ends_name_both_ranges(
    dialler: LinkVersions, acceptor: LinkVersions, older: str
) -> None:
    """The dialler signs nothing then; the acceptor hears of it in message 1, without proof."""
    r0, r1 = end("r0", versions=acceptor), end("r1", versions=dialler)
    line = f"'r0' speaks link version {acceptor}, this member {dialler}; upgrade PBFT/CI of {older}"
    with pytest.raises(LinkRefused) as refused:
        r1.answer(r0.offer(5.0), "r0")
    assert str(refused.value) == line
    upgraded = "this member" if older == "'r0'" else "'r1'"
    with pytest.raises(LinkRefused) as refused:
        r0.check_said(r1.said(), "r1")
    assert str(refused.value) == (
        f"'r1' speaks link version {dialler}, this member {acceptor}; upgrade PBFT/CI of {upgraded}"
    )
    with pytest.raises(LinkRefused, match="the dialler speaks"):
        r0.check_said(r1.said(), None)


def test_a_dialler_that_proves_itself_without_a_common_version_gets_no_link() -> None:
    """Whatever its message 1 said: the proof has what counts."""
    r0, liar = end("r0", versions=LinkVersions(4, 5)), end("r1", versions=LinkVersions(2, 3))
    liar.versions = LinkVersions(2, 5)  # what it decides by, not what it says
    with pytest.raises(LinkRefused, match="'r1' speaks link version 2 to 3, this member 4 to 5"):
        r0.accept(liar.answer(r0.offer(5.0), "r0").proof, 5.0)


@pytest.mark.parametrize("text", ["", "2", "2-2, 3-3", "2-", "9999-1", "2-2\n", "٢-٢"])
def test_message_1_of_who_knows_no_versions_is_one_of_the_version_before(text: str) -> None:
    end("r0").check_said(text, None)
    with pytest.raises(LinkRefused, match=f"the dialler speaks link version {UNSAID_VERSIONS}, "):
        end("r0", versions=LinkVersions(7, 9)).check_said(text, None)


class _Older(Handshakes):
    """An end that says nothing of versions: its challenges are all random, or an HMAC."""

    def __init__(self, name: str) -> None:
        super().__init__(Identity(cluster_of(), name, KEYS[name].sign), UNSAID_VERSIONS)
        self._versions_said = b"8 random"


@pytest.mark.parametrize("newer", [LinkVersions(2, 2), LinkVersions(2, 9)])
@pytest.mark.parametrize("leaves", [None, LEAVES], ids=["plain", "over TLS"])
def test_an_end_that_says_nothing_speaks_the_version_before(
    newer: LinkVersions, leaves: Leaves | None
) -> None:
    older, r0 = _Older("r1"), end("r0", versions=newer)
    accepted = r0.accept(
        older.answer(_as_version_2(r0.offer(5.0)), "r0", leaves).proof, 5.0, leaves
    )
    assert accepted.version == 2
    older, r1 = _Older("r0"), end("r1", versions=newer)
    dialling = r1.answer(older.offer(5.0), "r0", leaves)
    assert dialling.version == 2
    r1.complete(dialling, older.accept(dialling.proof, 5.0, leaves).proof)


def _as_version_2(offer: str) -> str:
    """As the older end reads it: it answers no other number than 2."""
    assert msgspec.msgpack.decode(base64.b64decode(offer))[0] == 2
    return offer


def _changed(offer: str, change: Callable[[list[object]], None]) -> str:
    """An offer as somebody between the ends hands it on."""
    words = msgspec.msgpack.decode(base64.b64decode(offer))
    change(words)
    return base64.b64encode(msgspec.msgpack.encode(words)).decode()


BOTH_SPEAK = LinkVersions(2, 3)
_STRIPPED = b"8 random"
_LOWERED = b"pbftci\x02\x02"


@pytest.mark.parametrize("leaves", [None, LEAVES], ids=["plain", "over TLS"])
@pytest.mark.parametrize("said", [_STRIPPED, _LOWERED], ids=["stripped", "lowered"])
def test_an_offer_that_was_changed_on_its_way_makes_no_link_of_an_older_version(
    said: bytes, leaves: Leaves | None
) -> None:
    r0, r1 = end("r0", versions=BOTH_SPEAK), end("r1", versions=BOTH_SPEAK)

    def change(words: list[object]) -> None:
        challenge = words[3]
        assert isinstance(challenge, bytes)
        words[0], words[3] = 2, challenge[: -len(said)] + said

    dialling = r1.answer(_changed(r0.offer(5.0), change), "r0", leaves)
    assert dialling.version == 2, "the dialler believes it, and signs what it was given"
    with pytest.raises(LinkRefused, match="another challenge"):
        r0.accept(dialling.proof, 5.0, leaves)


def test_the_number_beside_a_challenge_that_says_versions_decides_nothing() -> None:
    r0, r1 = end("r0", versions=BOTH_SPEAK), end("r1", versions=BOTH_SPEAK)

    def change(words: list[object]) -> None:
        words[0] = 9

    assert r1.answer(_changed(r0.offer(5.0), change), "r0").version == 3


@pytest.mark.parametrize("said", [_STRIPPED, _LOWERED], ids=["stripped", "lowered"])
def test_a_proof_that_was_changed_on_its_way_makes_no_link(said: bytes) -> None:
    """The dialler's versions are in what it signs: in its challenge, or in the secret behind it."""
    r0, r1 = end("r0", versions=BOTH_SPEAK), end("r1", versions=BOTH_SPEAK)
    proof = msgspec.msgpack.decode(base64.b64decode(r1.answer(r0.offer(5.0), "r0").proof))
    hello = msgspec.msgpack.decode(proof[1])
    hello[4] = hello[4][: -len(said)] + said
    proof[1] = msgspec.msgpack.encode(hello)
    with pytest.raises(LinkRefused, match="did not prove"):
        r0.accept(base64.b64encode(msgspec.msgpack.encode(proof)).decode(), 5.0)
    signed, secret = msgspec.msgpack.decode(
        base64.b64decode(r1.answer(r0.offer(6.0), "r0", LEAVES).proof)
    )
    bound = [signed, secret[: -len(said)] + said]
    with pytest.raises(LinkRefused, match="another TLS connection"):
        r0.accept(base64.b64encode(msgspec.msgpack.encode(bound)).decode(), 6.0, LEAVES)
