"""`trust`: a file of keys is renewed by links alone, and by nothing that a liar gives."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.ledger import VerdictEntry
from ci.statement import envelope, keyid_for, pae
from ci.supplement import supplement_bytes
from client.commands import trust
from client.commands.trust_file import InvalidTrust, TrustFile, read_trust, trust_of
from client.main import main
from common.address import Address
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster
from scripts import verify_build
from tests.ci.builders import PASSED, World, cluster_of, signing_key
from tests.client.cluster_file import write_cluster
from tests.client.commands.epoch_links import NEW_KEY, lead, rekeyed
from tests.scripts.test_verify_build import as_bytes, signed

FIRST = cluster_of()
TO_SECOND, SECOND = lead(FIRST, rekeyed(FIRST))
TO_THIRD, THIRD = lead(SECOND, FIRST)
# also signed by strong replicas of the first epoch: their keys were stolen
TO_OTHER, OTHER = lead(FIRST, rekeyed(FIRST, "a thief's"))

Links = dict[int, EpochLink | bytes]


class Place:
    """Four HTTP servers that give links, and a trust file of the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.links: dict[str, Links] = {name: {} for name in FIRST.replica_names}
        self.silent: set[str] = set()
        # past the epoch that is asked for, without the link
        self.lacking: set[str] = set()
        self.cluster_file = folder / "cluster.yml"
        self.file = folder / "trust.json"
        self.file.write_text(json.dumps(trust_of(FIRST)))

    def server(self, name: str) -> TestServer:
        async def links(request: web.Request) -> web.Response:
            if name in self.silent:
                raise web.HTTPServiceUnavailable
            if name in self.lacking:
                raise web.HTTPGone
            link = self.links[name].get(int(request.query["after"]))
            if link is None:
                raise web.HTTPNotFound
            data = link if isinstance(link, bytes) else msgspec.msgpack.encode(link)
            return web.Response(body=data)

        app = web.Application()
        app.router.add_get("/pbft/links", links)
        return TestServer(app)

    def all_give(self, links: Links) -> None:
        """Each replica gives these links."""
        self.links = dict.fromkeys(FIRST.replica_names, links)

    async def refresh(self, *flags: str) -> int:
        words = ["trust", "--refresh", str(self.file), "--cluster", str(self.cluster_file)]
        return await asyncio.to_thread(main, [*words, *flags])

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.file.read_text())
        return fields


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    servers = {name: place.server(name) for name in FIRST.replica_names}
    for server in servers.values():
        await server.start_server()
    addresses = {name: Address("127.0.0.1", server.port or 0) for name, server in servers.items()}
    write_cluster(tmp_path, FIRST, addresses)
    yield place
    for server in servers.values():
        await server.close()


def today() -> date:
    return datetime.now(UTC).date()


async def test_links_lead_to_the_newest_epoch_and_earlier_keys_are_kept(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.all_give({0: TO_SECOND, 1: TO_THIRD})
    assert await place.refresh() == 0
    output = capsys.readouterr().out
    assert f"was  epoch 0  {FIRST.id.hex()}" in output
    assert f"is   epoch 2  {THIRD.id.hex()}" in output
    fields = place.fields()
    assert (fields["epoch"], fields["instance"]) == (2, THIRD.id.hex())
    assert (fields["root"], fields["confirmed"]) == (FIRST.id.hex(), today().isoformat())
    assert [epoch.get("instance") for epoch in fields["earlier"]] == [None, SECOND.id.hex()]
    # once more: nothing new, and it can still be read
    assert await place.refresh() == 0
    assert place.fields() == fields
    trust = verify_build.read_trust(place.file)
    assert [epoch["epoch"] for epoch in trust["earlier"]] == [0, 1]


async def test_without_a_link_only_the_date_is_new(place: Place) -> None:
    before = place.fields()
    assert await place.refresh() == 0
    assert place.fields() == {
        **before,
        "root": FIRST.id.hex(),
        "confirmed": today().isoformat(),
    }


async def test_two_links_of_one_epoch_are_shown_and_neither_is_followed(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.all_give({0: TO_SECOND})
    place.links["replica-2"] = {0: TO_OTHER}
    before = place.file.read_bytes()
    assert await place.refresh() == 2
    error = capsys.readouterr().err
    assert "epoch 1 is proved twice" in error
    assert SECOND.id.hex() in error
    assert OTHER.id.hex() in error
    assert place.file.read_bytes() == before


async def test_what_a_liar_gives_is_passed_over(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links of no key that counts, links of another epoch, and nonsense."""
    forged, _ = lead(FIRST, rekeyed(FIRST, "x"), {"replica-1": "x"})
    for wrong in (forged, TO_THIRD, b"\xc1"):
        place.all_give({0: TO_SECOND})
        place.links["replica-0"] = {0: wrong}
        place.file.write_text(json.dumps(trust_of(FIRST)))
        assert await place.refresh() == 0
        assert place.fields()["instance"] == SECOND.id.hex()
        assert "replica-0: its link is refused" in capsys.readouterr().err


async def test_f_answers_renew_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """That nothing follows may be said by liars alone."""
    before = place.file.read_bytes()
    place.silent = {"replica-0", "replica-1", "replica-2"}
    assert await place.refresh() == 3
    assert "1 replica of 4 say what follows epoch 0, and 2 are needed" in capsys.readouterr().err
    place.links["replica-3"] = {0: b"nonsense"}
    place.silent = {"replica-0", "replica-1"}
    assert await place.refresh() == 3
    assert place.file.read_bytes() == before
    place.links["replica-3"] = {}
    assert await place.refresh() == 0


async def test_links_without_end_are_not_followed(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.all_give({0: TO_SECOND, 1: TO_THIRD})
    before = place.file.read_bytes()
    monkeypatch.setattr(trust, "EPOCHS_MAX", 1)
    assert await place.refresh() == 2
    assert "more than 1 times since epoch 0" in capsys.readouterr().err
    assert place.file.read_bytes() == before


async def test_replicas_that_lack_a_link_do_not_say_that_nothing_follows(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.file.read_bytes()
    place.lacking = {"replica-1", "replica-2"}
    assert await place.refresh() == 3
    assert "2 replicas of 4 are past epoch 0 and lack the link" in capsys.readouterr().err
    assert place.file.read_bytes() == before
    # who has it is believed for the proof, whatever the others lack
    place.lacking.add("replica-3")
    place.links["replica-0"] = {0: TO_SECOND}
    assert await place.refresh() == 3
    assert "past epoch 1" in capsys.readouterr().err
    # one may lie about it
    place.lacking = {"replica-1"}
    assert await place.refresh() == 0
    assert place.fields()["instance"] == SECOND.id.hex()


async def test_a_file_that_is_too_old_is_not_renewed_unattended(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    for days, flags, code in ((30, (), 0), (31, (), 2), (31, ("--trust-days", "31"), 0)):
        old = TrustFile(FIRST, FIRST.id.hex(), today() - timedelta(days), ())
        place.file.write_text(json.dumps(old.encode()))
        assert await place.refresh(*flags) == code
        error = capsys.readouterr().err
        assert ("its date is more than 30 days ago" in error) is (code == 2)
        assert (place.fields()["confirmed"] == today().isoformat()) is (code == 0)


def _without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in trust_of(SECOND).items() if name not in names}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (_without("configuration"), "make it again from the cluster file"),
        (_without("ancestry"), "names other members than its configuration"),
        (trust_of(SECOND) | {"instance": "00" * 32}, "names other members"),
        (trust_of(SECOND) | {"cluster": "00" * 32}, "names other members"),
        (
            trust_of(SECOND) | {"replicas": trust_of(FIRST)["replicas"]},
            "names other members than its configuration",
        ),
        (trust_of(SECOND) | {"configuration": "?"}, "no valid configuration"),
        (trust_of(SECOND) | {"configuration": "wA=="}, "no valid configuration"),
        (trust_of(SECOND) | {"root": "x"}, "no trust file"),
        (trust_of(SECOND) | {"confirmed": "soon"}, "no trust file"),
        (trust_of(SECOND) | {"format": 2}, "has format 2"),
    ],
)
def test_what_links_cannot_lead_on_from(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidTrust, match=reason):
        read_trust(json.dumps(fields).encode())


# --- what verify_build.py makes of it -----------------------------------------------------------


def entry_of(cluster: Cluster) -> VerdictEntry:
    """A green build in that epoch."""
    world = World(cluster)
    build = world.open()
    for index in range(3):
        world.cast(build, index, PASSED)
    return world.verdict_entries()[0]


def verdict_of(cluster: Cluster) -> bytes:
    """Its statement."""
    return bytes(entry_of(cluster).statement)


def by(statement: bytes, *secrets: str) -> dict[str, Any]:
    """Its envelope, signed with these keys."""
    keys = [signing_key(secret) for secret in secrets]
    return dict(
        envelope(
            statement,
            [(keyid_for(bytes(k.verify_key)), k.sign(pae(statement)).signature) for k in keys],
        )
    )


class Verifier:
    """A deploy pipeline with a renewed trust file."""

    def __init__(self, folder: Path, confirmed: date | None = None) -> None:
        self.folder = folder
        self.file = folder / "trust.json"
        renewed = TrustFile(FIRST, FIRST.id.hex(), None, ()).followed_by((SECOND,), today())
        self.write({**renewed.encode(), "confirmed": (confirmed or today()).isoformat()})

    def write(self, fields: dict[str, object]) -> None:
        self.file.write_text(json.dumps(fields))

    def code(self, envelope: dict[str, Any], *flags: str) -> int:
        file = self.folder / "build.json"
        file.write_bytes(as_bytes(envelope))
        return verify_build.main([str(file), "--trust", str(self.file), "--any", *flags])


def test_old_and_new_envelopes_verify_and_a_removed_key_signs_nothing_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verifier = Verifier(tmp_path)
    before, after = verdict_of(FIRST), verdict_of(SECOND)
    assert verifier.code(by(before, "replica-0", "replica-3")) == 0
    assert verifier.code(by(before, "replica-0", NEW_KEY)) == 0, "members attest earlier verdicts"
    assert verifier.code(by(after, "replica-0", NEW_KEY)) == 0
    capsys.readouterr()
    # replica-3's key of epoch 0 was taken from it
    assert verifier.code(by(after, "replica-0", "replica-3")) == 2
    assert "of epoch 1, and signed by replicas of epoch 0 alone" in capsys.readouterr().err
    assert verifier.code(by(after, "replica-3")) == 2
    # a key of each epoch, and of no epoch two
    assert verifier.code(by(before, "replica-3", NEW_KEY)) == 2
    assert verifier.code(signed(verdict_of(THIRD), 0, 1)) == 2
    assert "of epoch 2, and the trust file of epoch 1" in capsys.readouterr().err
    assert verifier.code(by(verdict_of(OTHER), "replica-0", "replica-1")) == 2


def test_a_removed_key_signs_no_supplement_to_a_later_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verifier = Verifier(tmp_path)
    verdict = entry_of(SECOND)
    after = bytes(verdict.statement)
    supplement = supplement_bytes(
        SECOND, verdict, [], ledger_index=1, ledger_head=bytes(32), is_final=True
    )
    file = tmp_path / "supplement.json"
    for secrets, code in ((("replica-0", NEW_KEY), 0), (("replica-0", "replica-3"), 2)):
        file.write_bytes(as_bytes(by(supplement, *secrets)))
        envelope = by(after, "replica-0", "replica-1")
        assert verifier.code(envelope, "--supplement", str(file)) == code
    assert "signed by 1 replicas; 2 are needed" in capsys.readouterr().err


def test_each_epoch_has_its_own_threshold(tmp_path: Path) -> None:
    """From four replicas to seven: two signed what three would have to sign now."""
    verifier = Verifier(tmp_path)
    _, seven = lead(FIRST, cluster_of(7))
    renewed = TrustFile(FIRST, FIRST.id.hex(), None, ()).followed_by((seven,), today())
    verifier.write(renewed.encode())
    assert verifier.code(signed(verdict_of(FIRST), 0, 1)) == 0
    assert verifier.code(signed(verdict_of(FIRST), 0, 1), "--threshold", "3") == 2
    assert verifier.code(signed(verdict_of(FIRST), 0, 1), "--threshold", "2") == 2


def test_the_root_must_be_the_one_that_is_asked_for(tmp_path: Path) -> None:
    verifier, before = Verifier(tmp_path), signed(verdict_of(FIRST), 0, 1)
    assert verifier.code(before, "--trust-root", FIRST.id.hex().upper()) == 0
    assert verifier.code(before, "--trust-root", SECOND.id.hex()) == 2
    # a file that was made and never renewed goes back to its own epoch
    verifier.write(trust_of(SECOND))
    assert verifier.code(before, "--trust-root", SECOND.id.hex()) == 0
    assert verifier.code(before, "--trust-root", FIRST.id.hex()) == 2


@pytest.mark.parametrize(
    ("days", "flags", "code"),
    [
        (0, (), 0),
        (30, (), 0),
        (31, (), 2),
        (31, ("--trust-days", "31"), 0),
        (1, ("--trust-days", "0"), 2),
        (-1, (), 0),
        (-2, (), 2),
    ],
)
def test_a_file_ages_by_its_date(
    tmp_path: Path, days: int, flags: tuple[str, ...], code: int
) -> None:
    verifier = Verifier(tmp_path, today() - timedelta(days))
    assert verifier.code(signed(verdict_of(FIRST), 0, 1), *flags) == code


def test_a_file_without_a_date_does_not_age(tmp_path: Path) -> None:
    """As those of releases before."""
    verifier = Verifier(tmp_path)
    verifier.write({n: v for n, v in trust_of(FIRST).items() if n != "configuration"})
    assert verifier.code(signed(verdict_of(FIRST), 0, 1), "--trust-days", "0") == 0


@pytest.mark.parametrize(
    "change",
    [
        {"earlier": {}},
        {"earlier": [7]},
        {"earlier": [{"faults_max": 0}]},
        {"earlier": [{"faults_max": 0, "replicas": {"a": "zz"}}]},
        {"earlier": [trust_of(SECOND)]},
        {"earlier": [trust_of(FIRST)] * 2},
        {"root": 7},
        {"confirmed": "soon"},
        {"confirmed": 7},
    ],
)
def test_a_renewed_file_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    verifier = Verifier(tmp_path)
    assert verifier.code(signed(verdict_of(FIRST), 0, 1)) == 0
    verifier.write({**json.loads(verifier.file.read_text()), **change})
    assert verifier.code(signed(verdict_of(FIRST), 0, 1)) == 2
