"""VIEW-CHANGE and NEW-VIEW against mutation: nothing but what was signed proves anything."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.authentication import Authenticator
from pbft.certificates import (
    CheckedViewChange,
    NewViewOrder,
    check_decided,
    check_prepared,
    check_stable,
    check_view_change,
    new_view_order,
)
from pbft.codec import decode_message, encode_message
from pbft.log import NULL_REQUEST
from pbft.messages import NewView, PreparedCertificate, PrePrepare, Signed, ViewChange
from pbft.ports import Executed, Refusal
from pbft.view_change import check_new_view
from tests.pbft.forge import FALSE, certificate, checked, new_view, proof, view_change
from tests.pbft.world import World, verify

WORLD = World(checkpoint_interval=8, window=16)
A, B = bytes([1]) * 32, bytes([2]) * 32
LIAR = "r2"


def authenticator() -> Authenticator:
    """A fresh one: what it remembers must not help."""
    return Authenticator(WORLD.cluster, verify)


@st.composite
def tampered(draw: st.DrawFn, signed: Signed) -> Signed:
    """The signed message of somebody else, changed in one place without the key."""
    kind = draw(st.sampled_from(["payload", "signature", "signer", "field"]))
    if kind == "signer":
        others = [n for n in (*WORLD.names, "client", "x") if n != signed.signer]
        return msgspec.structs.replace(signed, signer=draw(st.sampled_from(others)))
    if kind == "field":
        message = decode_message(signed.payload)
        fields = {f: getattr(message, f) for f in message.__struct_fields__}
        name = draw(st.sampled_from([f for f, v in fields.items() if isinstance(v, int | bytes)]))
        value = fields[name]
        if isinstance(value, int):
            fields[name] = max(0, value + draw(st.sampled_from([-1, 1, 2])))
            if fields[name] == value:
                fields[name] = value + 1
        else:
            fields[name] = draw(st.sampled_from([d for d in (A, B, FALSE) if d != value]))
        return msgspec.structs.replace(signed, payload=encode_message(type(message)(**fields)))
    data = bytearray(getattr(signed, kind))
    index = draw(st.integers(0, len(data) - 1))
    data[index] ^= draw(st.integers(1, 255))
    return msgspec.structs.replace(signed, **{kind: bytes(data)})


# --- certificates -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data(), position=st.integers(0, 2))
def test_no_mutation_of_a_prepared_certificate_is_accepted(
    data: st.DataObject, position: int
) -> None:
    good = certificate(WORLD, 3, A)
    parts = [good.pre_prepare, *good.prepares]
    parts[position] = data.draw(tampered(parts[position]))
    bad = PreparedCertificate(parts[0], tuple(parts[1:]))
    assert isinstance(check_prepared(bad, WORLD.cluster, authenticator()), Refusal)
    assert check_prepared(good, WORLD.cluster, authenticator()) == PrePrepare(0, 3, A, 0)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), position=st.integers(0, 2))
def test_no_mutation_of_a_checkpoint_certificate_is_accepted(
    data: st.DataObject, position: int
) -> None:
    parts = list(proof(WORLD, 8, A))
    parts[position] = data.draw(tampered(parts[position]))
    assert isinstance(check_stable(parts, 8, WORLD.cluster, authenticator=authenticator()), Refusal)
    assert check_stable(proof(WORLD, 8, A), 8, WORLD.cluster, authenticator=authenticator()) == A


@settings(max_examples=150, deadline=None)
@given(data=st.data(), position=st.integers(0, 2))
def test_no_mutation_of_a_commit_certificate_is_accepted(
    data: st.DataObject, position: int
) -> None:
    parts = [WORLD.commit(3, A, replica, 1) for replica in (0, 1, 3)]
    good = Executed(3, A, tuple(parts))
    assert check_decided(good, WORLD.cluster, authenticator()) is None
    parts[position] = data.draw(tampered(parts[position]))
    bad = Executed(3, A, tuple(parts))
    assert isinstance(check_decided(bad, WORLD.cluster, authenticator()), Refusal)


def good_view_change() -> Signed:
    return view_change(
        WORLD,
        2,
        3,
        stable=8,
        stable_proof=proof(WORLD, 8, A, replicas=(0, 1, 3)),
        prepared=[certificate(WORLD, 9, A, 0, (1, 3)), certificate(WORLD, 12, B, 1, (0, 3))],
    )


def inner(message: ViewChange) -> list[Signed]:
    return [
        *message.certificate,
        *(s for p in message.prepared for s in (p.pre_prepare, *p.prepares)),
    ]


def with_inner(message: ViewChange, parts: list[Signed]) -> ViewChange:
    count = len(message.certificate)
    prepared = []
    position = count
    for each in message.prepared:
        prepared.append(
            PreparedCertificate(
                parts[position], tuple(parts[position + 1 : position + 1 + len(each.prepares)])
            )
        )
        position += 1 + len(each.prepares)
    return msgspec.structs.replace(
        message, certificate=tuple(parts[:count]), prepared=tuple(prepared)
    )


def check_change(signed: Signed) -> CheckedViewChange | Refusal:
    fresh = authenticator()
    message = fresh.read(signed)
    if isinstance(message, Refusal):
        return message
    assert isinstance(message, ViewChange)
    return check_view_change(message, signed, WORLD.cluster, authenticator=fresh)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_liar_can_change_nothing_inside_its_view_change(data: st.DataObject) -> None:
    """It signs the outside anew; what others signed inside stands or is refused."""
    good = decode_message(good_view_change().payload)
    assert isinstance(good, ViewChange)
    assert isinstance(check_change(WORLD.sign(LIAR, good)), CheckedViewChange)
    parts = inner(good)
    position = data.draw(st.integers(0, len(parts) - 1))
    parts[position] = data.draw(tampered(parts[position]))
    bad = with_inner(good, parts)
    assert isinstance(check_change(WORLD.sign(LIAR, bad)), Refusal)


SHAPES: dict[str, Callable[[ViewChange], ViewChange]] = {
    "a CHECKPOINT less": lambda m: msgspec.structs.replace(m, certificate=m.certificate[1:]),
    "no proof": lambda m: msgspec.structs.replace(m, certificate=()),
    "another checkpoint": lambda m: msgspec.structs.replace(m, stable=16),
    "a lower checkpoint": lambda m: msgspec.structs.replace(m, stable=7),
    "the genesis": lambda m: msgspec.structs.replace(m, stable=0),
    "another order": lambda m: msgspec.structs.replace(m, prepared=m.prepared[::-1]),
    "twice the same": lambda m: msgspec.structs.replace(m, prepared=(m.prepared[0],) * 2),
    "the view of a certificate": lambda m: msgspec.structs.replace(m, view=1),
    "PREPAREs of the other number": lambda m: msgspec.structs.replace(
        m, prepared=(PreparedCertificate(m.prepared[0].pre_prepare, m.prepared[1].prepares),)
    ),
    "a PREPARE less": lambda m: msgspec.structs.replace(
        m,
        prepared=(PreparedCertificate(m.prepared[0].pre_prepare, m.prepared[0].prepares[1:]),),
    ),
    "a PREPARE twice": lambda m: msgspec.structs.replace(
        m,
        prepared=(
            PreparedCertificate(m.prepared[0].pre_prepare, (m.prepared[0].prepares[0],) * 2),
        ),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_liar_cannot_put_true_parts_together_otherwise(shape: str) -> None:
    good = decode_message(good_view_change().payload)
    assert isinstance(good, ViewChange)
    assert isinstance(check_change(WORLD.sign(LIAR, SHAPES[shape](good))), Refusal)


# --- NEW-VIEW -----------------------------------------------------------------------------------


def changes() -> list[Signed]:
    return [
        view_change(WORLD, 0, 5, prepared=[certificate(WORLD, 9, A), certificate(WORLD, 11, A)]),
        good_for_view_5(),
        view_change(WORLD, 3, 5, stable=8, stable_proof=proof(WORLD, 8)),
    ]


def good_for_view_5() -> Signed:
    return view_change(WORLD, 2, 5, prepared=[certificate(WORLD, 9, B, view=2, backups=(0, 3))])


def check_view(message: NewView, signed: Signed) -> NewViewOrder | Refusal:
    return check_new_view(message, signed, WORLD.cluster, authenticator=authenticator())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_faulty_primary_can_change_nothing_inside_its_new_view(data: st.DataObject) -> None:
    """Neither the VIEW-CHANGEs of others nor what follows from them (it signs O itself)."""
    good = decode_message(new_view(WORLD, 5, changes()).payload)
    assert isinstance(good, NewView)
    order = check_view(good, WORLD.sign("r1", good))
    assert isinstance(order, NewViewOrder)
    if data.draw(st.booleans()):
        parts = list(good.view_changes)
        position = data.draw(st.integers(0, 2))
        parts[position] = data.draw(tampered(parts[position]))
        bad = msgspec.structs.replace(good, view_changes=tuple(parts))
    else:
        numbers = list(order.digests)
        position = data.draw(st.integers(0, len(numbers) - 1))
        sequence, digest = numbers[position]
        other = data.draw(st.sampled_from([d for d in (A, B, NULL_REQUEST) if d != digest]))
        change = data.draw(st.sampled_from(["digest", "sequence", "drop", "double"]))
        numbers[position : position + 1] = {
            "digest": [(sequence, other)],
            "sequence": [(sequence + data.draw(st.sampled_from([-1, 1])), digest)],
            "drop": [],
            "double": [(sequence, digest)] * 2,
        }[change]
        bad = decode_message(new_view(WORLD, 5, changes(), numbers).payload)  # type: ignore[assignment]
    assert isinstance(check_view(bad, WORLD.sign("r1", bad)), Refusal)


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(4)), st.data())
def test_the_order_does_not_hang_on_the_order_of_the_view_changes(
    permutation: list[int], data: st.DataObject
) -> None:
    """Primary and backups compute the same from the same set."""
    all_changes = [checked(WORLD, change) for change in (*changes(), view_change(WORLD, 1, 5))]
    chosen = sorted(permutation[: data.draw(st.integers(3, 4))])
    shuffled = [i for i in permutation if i in chosen]
    expected = new_view_order([all_changes[i] for i in chosen], NULL_REQUEST)
    assert new_view_order([all_changes[i] for i in shuffled], NULL_REQUEST) == expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 8]),
            st.dictionaries(st.integers(1, 16), st.tuples(st.integers(0, 4), st.integers(0, 3))),
        ),
        min_size=3,
        max_size=4,
    )
)
def test_the_order_says_what_the_paper_says(
    drawn: list[tuple[int, dict[int, tuple[int, int]]]],
) -> None:
    """min-s, max-s, the highest view's digest, null in the gaps: against a second computation."""
    made = [
        CheckedViewChange(
            ViewChange(5, stable, (), (), replica),
            Signed("r0", b"", bytes(64)),
            tuple(
                (stable + n, view, bytes([view, variant]) * 16)
                for n, (view, variant) in sorted(prepared.items())
            ),
        )
        for replica, (stable, prepared) in enumerate(drawn)
    ]
    order = new_view_order(made, NULL_REQUEST)
    minimum = max(change.message.stable for change in made)
    elements = [e for change in made for e in change.prepared if e[0] > minimum]
    maximum = max((sequence for sequence, _, _ in elements), default=minimum)
    assert order.sequence_min == minimum
    assert order.sequence_max == maximum
    assert [sequence for sequence, _ in order.digests] == list(range(minimum + 1, maximum + 1))
    for sequence, digest in order.digests:
        of_number = [(view, d) for s, view, d in elements if s == sequence]
        if not of_number:
            assert digest == NULL_REQUEST
        else:
            highest = max(view for view, _ in of_number)
            assert digest in {d for view, d in of_number if view == highest}
