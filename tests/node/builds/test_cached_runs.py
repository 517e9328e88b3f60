"""Builds with caches in real containers: who writes, who reads, and what a wrong entry does."""

import json
from typing import Any

import msgspec
import pytest

from ci.assignments import Key
from ci.ledger import LateBallotEntry, RecordedBallot, encode_entry
from ci.operations import BuildResult, Event, Outcome, ResultKey, UsedCache
from driver.ports import BuildOrder
from scripts.base_image import EXAMPLE_IMAGE
from tests.node.conftest import Builder, Room

pytestmark = pytest.mark.docker

CACHE = {"name": "tree", "paths": ["$HOME/.tree", "made/deep"], "files": ["lock"]}
# makes what is not there, and says which it was
MAKE = (
    "if test -e $HOME/.tree/file; then echo warm; else echo cold; mkdir -p $HOME/.tree made/deep;"
    " echo content >$HOME/.tree/file; ln $HOME/.tree/file $HOME/.tree/second;"
    " ln -s /etc/passwd $HOME/.tree/out; echo deep >made/deep/file; chmod 700 made/deep; fi"
)
CHECK = (
    'test "$(cat $HOME/.tree/second made/deep/file)" = "content\ndeep"',
    "test $HOME/.tree/file -ef $HOME/.tree/second",
    'test "$(readlink $HOME/.tree/out)" = /etc/passwd',
    # the build's own user can change and remove all of it
    "echo more >>made/deep/file; rm -r made $HOME/.tree",
)


def with_cache(*commands: str, **more: Any) -> str:
    return json.dumps({"image": EXAMPLE_IMAGE, "commands": commands, "cache": [CACHE], **more})


def files(*commands: str, lock: str = "1", **more: str | bytes) -> dict[str, str | bytes]:
    """A commit that makes its tree if no cache has it, and then runs these commands."""
    # a second run collects reports once more
    reports = {"junit": ["report.xml"]}
    return {".pbft-ci.yml": with_cache(MAKE, *commands, tests=reports), "lock": lock, **more}


async def find(builder: Builder, order: BuildOrder, agrees: bool | None = True) -> BuildResult:
    """The finding, and what the ledger then says of it."""
    found = await builder.find(order)
    settle(builder, order, agrees, found.compared.outcome)
    await builder.runner.settle()
    return found


def settle(
    builder: Builder, order: BuildOrder, agrees: bool | None, outcome: Outcome = Outcome.PASSED
) -> None:
    ballot = RecordedBallot(replica="node0", outcome=outcome)
    entry = LateBallotEntry(order.build.hex(), order.opened, ballot, agrees)
    builder.runner.note_ledger(encode_entry(entry))


def was_warm(builder: Builder, order: BuildOrder) -> bool:
    lines = builder.log(order).split("\n")
    assert ("warm" in lines) is not ("cold" in lines)
    return "warm" in lines


async def test_a_push_fills_it_and_a_request_only_reads_it(room: Room) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url))
    url = room.repository.url
    first = builder.order(url, room.repository.commit(files(*CHECK[:3])))
    assert (await find(builder, first)).compared.outcome is Outcome.PASSED, builder.log(first)
    assert not was_warm(builder, first)

    second = builder.order(url, room.repository.commit(files(*CHECK, more="1")))
    assert (await find(builder, second)).compared.outcome is Outcome.PASSED, builder.log(second)
    assert was_warm(builder, second)
    assert f"made by build {first.build.hex()[:12]}" in builder.log(second)

    # a request reads, and what it leaves under another key is not kept
    room.repository.git("switch", "--quiet", "--create", "fork")
    bad = room.repository.commit(files("echo bad >$HOME/.tree/file", lock="2"))
    room.repository.git("update-ref", "refs/pull/1/head", bad)
    room.repository.git("switch", "--quiet", "main")
    request = msgspec.structs.replace(
        builder.order(url, bad), event=Event.PULL_REQUEST, ref="refs/pull/1/head"
    )
    assert (await find(builder, request)).compared.outcome is Outcome.PASSED
    assert not was_warm(builder, request)
    third = builder.order(url, room.repository.commit(files(*CHECK[:1], lock="2")))
    assert (await find(builder, third)).compared.outcome is Outcome.PASSED, builder.log(third)
    assert not was_warm(builder, third)
    counts = builder.runner.cache_counts
    assert (counts.hits, counts.misses, counts.stored, counts.entries) == (1, 3, 2, 2)


async def test_a_warm_finding_that_others_contradict_is_found_again_without_caches(
    room: Room,
) -> None:
    """The entry misleads: what the build finds with it is not what it finds by itself."""
    asked: list[ResultKey] = []
    is_lonely = False

    def is_contradicted(key: Key, own: ResultKey) -> bool:
        asked.append(own)
        return is_lonely

    builder = await room.make_builder(
        room.make_config(room.repository.url), is_contradicted=is_contradicted
    )
    url = room.repository.url
    spoil = "echo spoiled >>$HOME/.tree/file"
    check = 'test "$(cat $HOME/.tree/file)" = content'
    first = builder.order(url, room.repository.commit(files(spoil)))
    await find(builder, first)

    # nobody contradicts: it votes what it found, differs, and what misled it goes
    red = builder.order(url, room.repository.commit(files(check)))
    found = await builder.find(red)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 1)
    assert found.evidence.caches == (UsedCache("tree", first.build),)
    assert asked == [found.compared]
    is_lonely = True
    # before the verdict it misleads once more, and others are there already
    green = builder.order(url, room.repository.commit(files(check, more="1")))
    found = await find(builder, green)
    assert found.compared.outcome is Outcome.PASSED, builder.log(green)
    assert found.evidence.caches == (), "it was made without"
    log = builder.log(green).split("\n")
    assert log.index("warm") < log.index("cold")
    assert "failed with caches, and other replicas agree on something else" in builder.log(green)
    # what a cold run leaves is not stored: the entry is there still
    counts = builder.runner.cache_counts
    assert (counts.cold_rebuilds, counts.hits, counts.stored) == (1, 2, 1)
    settle(builder, red, agrees=False, outcome=Outcome.FAILED)
    await builder.runner.settle()
    assert +counts.evictions == {"dissent": 1}
    last = builder.order(url, room.repository.commit(files(check, more="2")))
    assert (await find(builder, last)).compared.outcome is Outcome.PASSED
    assert not was_warm(builder, last)
