"""The genesis: what it refuses, and that its digest is the cluster's identity."""

import msgspec
import pytest

from pbft.codec import encode_message
from pbft.genesis import (
    CLIENTS_MAX,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    PROTOCOL_WITHOUT_VACANT,
    Cluster,
    Genesis,
    InvalidGenesis,
    Member,
    check_protocol,
    new_view_bytes,
    vacant_key,
    window_max,
)
from pbft.messages import (
    NAME_CHARACTERS_MAX,
    PAYLOAD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    AnyMessage,
    Checkpoint,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Signed,
    ViewChange,
)
from pbft.quorums import UnsupportedSize
from tests.pbft.world import World, public_key


def good() -> Genesis:
    return World().cluster.genesis


def changed(**changes: object) -> Genesis:
    return msgspec.structs.replace(good(), **changes)


def test_the_id_follows_from_every_field_and_from_nothing_else() -> None:
    cluster = Cluster(good())
    assert Cluster(good()).id == cluster.id
    assert len(cluster.id) == 32
    others = [
        changed(replicas=good().replicas[::-1]),
        changed(clients=()),
        changed(checkpoint_interval=7),
        changed(window=17),
        changed(client_window=65),
        changed(application=b"rules"),
    ]
    ids = {Cluster(genesis).id for genesis in others}
    assert len(ids) == len(others)
    assert cluster.id not in ids


def test_a_genesis_comes_back_from_its_bytes_with_the_same_id() -> None:
    cluster = Cluster(good())
    again = Cluster.from_bytes(cluster.encoded)
    assert again.genesis == cluster.genesis
    assert again.id == cluster.id


@pytest.mark.parametrize("encoded", [b"", b"\x90", b"\xc0", b"noise" * 20])
def test_bytes_that_are_no_genesis_are_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidGenesis, match="not a genesis"):
        Cluster.from_bytes(encoded)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkpoint_interval": 0}, "checkpoint_interval"),
        ({"window": 15}, "window must be at least twice"),
        ({"client_window": 0}, "client_window"),
        ({"clients": (Member("r0", public_key("x"), ()),)}, "one name"),
        ({"clients": (Member("x", public_key("r0"), ()),)}, "one public key"),
        ({"clients": (Member("x", public_key("x"), ("replica",)),)}, "only replicas"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidGenesis, match=reason):
        Cluster(changed(**changes))


def test_only_known_protocols_are_spoken_and_each_is_a_configuration() -> None:
    """A change to a protocol that this release does not speak is ordered like any other."""
    for protocol in range(PROTOCOL_MIN, PROTOCOL_MAX + 1):
        check_protocol(changed(protocol=protocol))
    later = changed(protocol=PROTOCOL_MAX + 1)
    assert Cluster.from_bytes(Cluster(later).encoded).genesis == later
    with pytest.raises(InvalidGenesis, match=f"speaks 1 to {PROTOCOL_MAX}; install a newer one"):
        check_protocol(later)
    with pytest.raises(InvalidGenesis, match="not a genesis"):
        Cluster.from_bytes(msgspec.msgpack.encode(changed(protocol=0)))


@pytest.mark.parametrize(
    ("protocol", "primaries"), [(1, [0, 1, 2, 3, 0, 1]), (PROTOCOL_WITHOUT_VACANT, [0, 2, 3, 0, 2])]
)
def test_a_vacant_seat_is_no_primary_from_protocol_2_on(
    protocol: int, primaries: list[int]
) -> None:
    replicas = [member if member.name != "r1" else vacant("r1") for member in good().replicas]
    cluster = Cluster(changed(replicas=tuple(replicas), protocol=protocol))
    assert [cluster.primary(view) for view in range(len(primaries))] == primaries
    assert len(cluster.expected_names) == len(set(primaries))
    assert cluster.quorums.replicas == 4, "thresholds stay those of all seats"


def vacant(name: str) -> Member:
    """A replica without an owner."""
    return Member(name, vacant_key(name), ("replica",))


@pytest.mark.parametrize("roles", [(), ("gateway",), ("replica", "gateway")])
def test_a_replica_has_that_role_and_no_other(roles: tuple[str, ...]) -> None:
    first, *rest = good().replicas
    replaced = msgspec.structs.replace(first, roles=roles)
    with pytest.raises(InvalidGenesis, match="r0"):
        Cluster(changed(replicas=(replaced, *rest)))


def test_a_number_of_replicas_that_gives_nothing_is_refused() -> None:
    members = tuple(Member(f"m{i}", public_key(f"m{i}"), ("replica",)) for i in range(5))
    with pytest.raises(UnsupportedSize):
        Cluster(changed(replicas=members))


def test_members_are_found_by_name() -> None:
    cluster = Cluster(good())
    assert cluster.public_key("r1") == public_key("r1")
    assert cluster.public_key("client") == public_key("client")
    assert cluster.public_key("stranger") is None
    assert cluster.roles("client") == ("gateway",)
    assert cluster.roles("stranger") == ()
    assert cluster.replica_index("r3") == 3
    assert cluster.replica_index("client") is None
    assert [cluster.primary(view) for view in (0, 1, 4, 7)] == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("interval", "window", "bytes_max"),
    [(8, 16, 4 * 1024**2), (128, 256, 699_050), (2048, 4096, 512 * 1024)],
)
def test_the_larger_the_window_the_smaller_a_body(
    interval: int, window: int, bytes_max: int
) -> None:
    cluster = Cluster(changed(checkpoint_interval=interval, window=window))
    assert cluster.body_bytes_max == bytes_max
    assert bytes_max >= 2 * REQUEST_BYTES_MAX


def test_more_clients_than_a_state_has_room_for_are_refused() -> None:
    clients = tuple(Member(f"c{i}", public_key(f"c{i}"), ()) for i in range(CLIENTS_MAX + 1))
    Cluster(changed(clients=clients[:-1]))
    with pytest.raises(InvalidGenesis, match=f"{CLIENTS_MAX + 1} clients: at most {CLIENTS_MAX}"):
        Cluster(changed(clients=clients))


def genesis_of(replicas: int, name_characters: int, filled_with: str = "x") -> Genesis:
    """With replicas whose names are that long."""
    names = [f"r{number:02}".ljust(name_characters, filled_with) for number in range(replicas)]
    members = tuple(Member(name, public_key(name), ("replica",)) for name in names)
    return changed(replicas=members)


def largest_new_view(genesis: Genesis, window: int) -> NewView:
    """The largest numbers, a vote of each replica for the checkpoint, all slots prepared."""
    quorums = Cluster(genesis).quorums
    large, replica = 2**62, 1023
    name = genesis.replicas[-1].name

    def signed(message: AnyMessage) -> Signed:
        return Signed(name, encode_message(message), bytes(64))

    pre_prepare = signed(PrePrepare(large, large, bytes(32), replica))
    prepare = signed(Prepare(large, large, bytes(32), replica))
    checkpoint = signed(Checkpoint(large, bytes(32), replica))
    prepared = PreparedCertificate(pre_prepare, (prepare,) * quorums.prepares)
    change = ViewChange(
        large, large, (checkpoint,) * quorums.replicas, (prepared,) * window, replica, large
    )
    changes = (signed(change),) * quorums.strong
    return NewView(large, changes, (pre_prepare,) * window, replica)


@pytest.mark.parametrize(
    ("replicas", "name_characters", "filled_with"),
    [(1, 5, "x"), (4, 5, "x"), (4, 64, "x"), (13, 64, "x"), (4, 64, "\U0001f99c")],
)
def test_the_largest_new_view_is_not_larger_than_was_reckoned(
    replicas: int, name_characters: int, filled_with: str
) -> None:
    assert name_characters <= NAME_CHARACTERS_MAX
    genesis = genesis_of(replicas, name_characters, filled_with)
    for window in (2, 300):
        measured = len(encode_message(largest_new_view(genesis, window)))
        assert measured <= new_view_bytes(genesis, window) < 1.2 * measured + 1500


@pytest.mark.parametrize("replicas", [4, 7])
@pytest.mark.parametrize("name_characters", [5, NAME_CHARACTERS_MAX])
def test_the_largest_new_view_that_a_genesis_admits_is_decoded(
    replicas: int, name_characters: int
) -> None:
    """By the real sizes: a few slots are encoded, and as many more reckoned as the window has."""
    admitted = window_max(genesis_of(replicas, name_characters))
    genesis = msgspec.structs.replace(genesis_of(replicas, name_characters), window=admitted)
    Cluster(genesis)
    few, more = (len(encode_message(largest_new_view(genesis, n))) for n in (1000, 1010))
    per_slot, rest = divmod(more - few, 10)
    # Between these numbers the head of an array is of one size, so nothing else grows.
    assert (rest, 1000 < admitted < 2**16) == (0, True)
    assert few + (admitted - 1000) * per_slot <= PAYLOAD_BYTES_MAX


def test_a_window_with_which_no_view_could_change_is_refused() -> None:
    """Its NEW-VIEW would be refused by everybody as too large, again and again."""
    genesis = genesis_of(4, 5)
    largest = window_max(genesis)
    assert new_view_bytes(genesis, largest) <= PAYLOAD_BYTES_MAX
    assert new_view_bytes(genesis, largest + 1) > PAYLOAD_BYTES_MAX
    Cluster(msgspec.structs.replace(genesis, window=largest))
    with pytest.raises(InvalidGenesis, match=f"at most {largest} is allowed"):
        Cluster(msgspec.structs.replace(genesis, window=largest + 1))
    assert window_max(genesis_of(31, NAME_CHARACTERS_MAX)) >= 256, "the default must do"
