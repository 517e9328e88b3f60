"""A member's leaf is renewed each day, and contexts that are asked for have the newest."""

import os

import pytest

from common.configuration.keys import SigningKey
from common.tls.certificates import PinnedKeys
from common.tls.member_tls import RENEWAL_SECONDS, MemberTls

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("node0", "node1")}
PINNED = PinnedKeys(b"c" * 32, {name: key.public_key for name, key in KEYS.items()})


class _Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def _tls(clock: _Clock) -> MemberTls:
    return MemberTls(PINNED, "node0", KEYS["node0"], clock=clock, randomness=os.urandom)


@pytest.mark.parametrize("step", [RENEWAL_SECONDS, -1.0], ids=["a day later", "clock put back"])
def test_a_leaf_is_renewed(step: float) -> None:
    clock = _Clock()
    tls = _tls(clock)
    leaf, dialling = tls.leaf, tls.dialling("node1")
    clock.now += RENEWAL_SECONDS - 1 if step > 0 else 0
    assert tls.leaf == leaf
    assert tls.dialling("node1") is dialling
    clock.now += 1 if step > 0 else step
    assert tls.dialling("node1") is not dialling
    assert tls.leaf.key != leaf.key
    assert tls.leaf.not_after > leaf.not_after - 2


def test_a_listener_keeps_its_context() -> None:
    clock = _Clock()
    tls = _tls(clock)
    listening = tls.listening
    clock.now += RENEWAL_SECONDS
    assert tls.leaf
    assert tls.listening is listening


def test_nothing_of_a_leaf_is_on_a_disk_or_stays_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    tls = _tls(_Clock())
    assert tls.dialling("node1").context.cert_store_stats()["x509_ca"] == 1
    assert tls.listening.cert_store_stats()["x509_ca"] == 2
    assert set(os.listdir("/proc/self/fd")) == before
