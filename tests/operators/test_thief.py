"""What the thief says is well made, and its report is judged rightly."""

from typing import cast

import msgspec
import pytest

from common.configuration.config import ClusterConfig
from common.configuration.keys import SigningKey, verify
from pbft.authentication import Authenticator
from pbft.epoch_link import EpochLink, decode_link, follow
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.ports import Refusal
from tests.operators.thief import Knock, Pose, Report, false_link, lies, secrets_told

NAMES = ("acme", "berg", "corp", "dune")
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in NAMES}
BUILD = b"b" * 32
# nothing of it is read here
CONFIG = cast(ClusterConfig, None)


def members(**others: bytes) -> tuple[Member, ...]:
    keys = {name: key.public_key for name, key in KEYS.items()} | others
    return tuple(Member(name, key, ("replica",)) for name, key in keys.items())


OLD = Cluster(Genesis(PROTOCOL_MIN, members(), (), 16, 32, 64, b""))
NEXT = OLD.succeeded_by(
    msgspec.structs.replace(
        OLD.genesis, replicas=members(dune=SigningKey(b"new".ljust(32)).public_key)
    ),
    32,
    b"s" * 32,
)


@pytest.fixture
def pose() -> Pose:
    return Pose(CONFIG, OLD, "dune", KEYS["dune"])


def accepted(pose: Pose, signed_for: Cluster, at: Cluster) -> set[bool]:
    authenticator = Authenticator(at, verify)
    found = set()
    for signed in lies(pose, signed_for, BUILD):
        message = authenticator.read(signed)
        assert not isinstance(message, Refusal), message
        found.add(authenticator.check(signed, message) is None)
    return found


def test_its_lies_count_in_the_epoch_of_its_key_and_in_no_later_one(pose: Pose) -> None:
    assert accepted(pose, OLD, OLD) == {True}
    assert accepted(pose, OLD, NEXT) == {False}
    assert accepted(pose, NEXT, NEXT) == {False}


def test_its_link_is_well_made_and_lacks_signatures_alone(pose: Pose) -> None:
    link = decode_link(false_link(pose))
    assert isinstance(link, EpochLink)
    refused = follow(OLD, link, verify=verify)
    assert isinstance(refused, Refusal)
    assert "signature" in refused.reason, refused


@pytest.mark.parametrize(
    ("row", "is_told"),
    [
        (("/pbft/links", 0, 0, 200, ""), False),
        (("/pbft/links", 0, 0, 404, ""), False),
        (("/pbft/status", 0, 0, 410, "members of an earlier one are served"), False),
        (("/pbft/status", 0, 0, None, "ended at once"), False),
        (("/pbft/begin-state", 0, 0, 403, "a member of epoch 0 is given that one's"), False),
        (("/pbft/begin-state", 0, 0, 200, ""), True),
        (("/pbft/status", 0, 0, 200, "{}"), True),
        (("/ledger", 0, 0, 404, ""), True),
        # a certificate of another epoch than the name that was asked for proves nothing
        (("/pbft/links", 1, 0, 200, ""), True),
        (("/pbft/status", 0, 1, 410, "members of an earlier one are served"), True),
    ],
)
def test_no_more_than_the_link_may_be_told(
    row: tuple[str, int, int, int | None, str], is_told: bool
) -> None:
    path, leaf_epoch, name_epoch, status, text = row
    knock = Knock("acme", "dune", leaf_epoch, name_epoch, path, status, text)
    report = Report(knocks=[(knock,)])
    assert bool(secrets_told(report, knock=0, gone_over=["acme"])) is is_told
    # whoever is in the epoch of the stolen key takes it for a member
    assert secrets_told(report, knock=0, gone_over=["berg"]) == []
