"""Builds that attack what later builds are made from: the caches of a repository."""

import contextlib
import json
import sqlite3
from typing import Any

import msgspec
import pytest

from ci.operations import Event, Outcome
from common.configuration.config import NodeConfig
from driver.ports import BuildOrder
from scripts.base_image import EXAMPLE_IMAGE
from tests.node.builds.test_cached_runs import find
from tests.node.conftest import Builder, GitRepository, Room

pytestmark = pytest.mark.docker

# what a protected branch does: it uses what it finds, and says what that is
SHOW = "cat $HOME/.tree/file built/file 2>/dev/null || echo nothing"
FILL = (
    "mkdir -p $HOME/.tree built; test -e $HOME/.tree/file ||"
    " { echo good >$HOME/.tree/file; echo good >built/file; }"
)
POISON = "mkdir -p $HOME/.tree built; echo poison >$HOME/.tree/file; echo poison >built/file"


def pipeline_with(*commands: str, **cache: Any) -> dict[str, str | bytes]:
    """A commit whose cache may be named as its author likes; the files that decide are equal."""
    named = {"name": "tree", "paths": ["$HOME/.tree", "built"], "files": ["lock"], **cache}
    text = json.dumps({"image": EXAMPLE_IMAGE, "commands": commands, "cache": [named]})
    return {".pbft-ci.yml": text, "lock": "1"}


def said(builder: Builder, order: BuildOrder) -> set[str]:
    """What the build of a protected branch found in its cache."""
    lines = set(builder.log(order).split("\n"))
    return lines & {"good", "poison", "nothing"}


def commit_on(repository: GitRepository, branch: str, files: dict[str, str | bytes]) -> str:
    """A commit on that branch. HEAD, which says whose builds write, is at main again then."""
    repository.git("switch", "--quiet", branch)
    commit = repository.commit(files)
    repository.git("switch", "--quiet", "main")
    return commit


async def test_nobody_but_a_named_branch_writes(room: Room) -> None:
    """The ways of TanStack and GitLab: each tries to have a build of main use its file."""
    repository, url = room.repository, room.repository.url
    builder = await room.make_builder(room.make_config(url))
    counts = builder.runner.cache_counts
    git = repository.git
    repository.commit(pipeline_with("true"))
    git("branch", "evil")
    poison = commit_on(repository, "evil", pipeline_with(POISON))
    git("update-ref", "refs/pull/1/head", poison)
    git("tag", "v1", poison)

    for branch, ref, event in (
        # a fork's request, and what claims to be more than that: replicas refuse it (ci.references)
        ("main", "refs/pull/1/head", Event.PULL_REQUEST),
        ("main", "refs/pull/1/head", Event.PUSH),
        ("main", "refs/heads/evil", Event.PUSH),
        ("evil", None, Event.PUSH),
        ("v1", "refs/tags/v1", Event.TAG),
    ):
        order = msgspec.structs.replace(builder.order(url, poison, branch), ref=ref, event=event)
        assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    # an old commit of main: it came in with a branch, and was undone before anybody merged
    git("merge", "--quiet", "--no-ff", "--message=merge", "evil")
    repository.commit(pipeline_with("true"))
    order = builder.order(url, poison)
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert (counts.hits, counts.stored) == (0, 0)

    protected = builder.order(url, repository.commit(pipeline_with(SHOW, FILL)))
    assert (await find(builder, protected)).compared.outcome is Outcome.PASSED
    assert said(builder, protected) == {"nothing"}
    assert counts.stored == 1
    # it reads what main left, and spoils its own copy alone
    reading = builder.order(url, commit_on(repository, "evil", pipeline_with(SHOW, POISON)), "evil")
    await find(builder, reading)
    assert said(builder, reading) == {"good"}
    protected = builder.order(url, repository.commit(pipeline_with(SHOW, FILL, "true")))
    await find(builder, protected)
    assert said(builder, protected) == {"good"}
    assert (counts.hits, counts.stored) == (2, 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("leave", "is_stored"),
    [
        # a link in the place of a folder above the path, which the engine would follow
        ("mkdir $HOME/t; echo x >$HOME/t/x; ln -s $HOME/t deep", False),
        ("mkdir -p deep/tree; mkfifo deep/tree/pipe", False),
        # more than may be stored, of which nothing is on any disk
        ("mkdir -p deep/tree; dd if=/dev/zero of=deep/tree/big bs=1M count=1 seek=40", False),
        # the path itself is a link: it is kept as it is, and nothing behind it
        ("mkdir deep; ln -s /etc deep/tree", True),
    ],
)
async def test_what_a_build_leaves_in_the_place_of_a_cache(
    room: Room, leave: str, is_stored: bool
) -> None:
    repository, url = room.repository, room.repository.url
    builder = await room.make_builder(
        room.make_config(url, cache_entry_bytes_max=8 * 2**20), home_bytes=64 * 2**20
    )
    cache = {"paths": ["deep/tree"]}
    order = builder.order(url, repository.commit(pipeline_with(leave, **cache)))
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert builder.runner.cache_counts.entries == is_stored
    if is_stored:
        show = "readlink deep/tree; touch deep/tree/x 2>&1 || true"
        order = builder.order(url, repository.commit(pipeline_with(show, **cache)))
        await find(builder, order)
        assert "\n/etc\n" in builder.log(order)
        assert "Read-only file system" in builder.log(order)


async def test_the_commit_wins_and_trouble_is_a_miss(room: Room) -> None:
    """A commit lays its own files over an entry; one that does not fit or is damaged is a miss."""
    repository, url = room.repository, room.repository.url
    config = room.make_config(url)
    builder = await room.make_builder(config)
    cache = {"paths": ["deep/tree"]}
    make = "mkdir -p deep/tree/sub; echo cached >deep/tree/file; echo cached >deep/tree/sub/other"
    await find(builder, builder.order(url, repository.commit(pipeline_with(make, **cache))))
    counts = builder.runner.cache_counts
    assert counts.entries == 1

    # a commit with a link or a file where an entry has folders and files
    show = "cat deep/tree/file deep/tree/sub || true; readlink deep/tree/sub || true"
    for name in ("deep/tree/sub", "deep", "deep/tree"):
        links = {name: "/etc"}
        order = builder.order(url, repository.commit(pipeline_with(show, **cache), links))
        assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
        assert [line for line in builder.log(order).split("\n") if line == "/etc"] == (
            ["/etc"] if "deep/tree/sub" in links else []
        )
    assert counts.hits == 3

    # the file systems of a later build are smaller
    cramped = msgspec.structs.replace(builder.limits, workspace_bytes=12_288)
    order = builder.order(url, repository.commit(pipeline_with("test ! -e deep", **cache)))
    order = msgspec.structs.replace(order, limits=cramped)
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert "not used, the file systems of this build are smaller" in builder.log(order)

    # the engine finds no room that the index promised: the keeper is made anew
    say_it_is_small(config)
    order = builder.order(url, repository.commit(pipeline_with("test ! -e deep", "true", **cache)))
    order = msgspec.structs.replace(order, limits=cramped)
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert "caches: not used after all: the Docker engine" in builder.log(order)

    # a changed file is a miss, and gone
    (entry,) = (config.data_directory / "caches").glob("*.tar")
    data = entry.read_bytes()
    entry.write_bytes(data.replace(b"cached", b"poison"))
    order = builder.order(url, repository.commit(pipeline_with("test ! -e deep/x", **cache)))
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert "its entry is not as it was written" in builder.log(order)
    assert not entry.exists()
    assert +counts.evictions == {"damaged": 1}


@pytest.mark.long
async def test_an_entry_that_the_engine_does_not_take_goes(room: Room) -> None:
    repository, url = room.repository, room.repository.url
    config = room.make_config(url)
    builder = await room.make_builder(config)
    counts = builder.runner.cache_counts
    make = (
        "test -e $HOME/.tree/b || { mkdir -p $HOME/.tree; cd $HOME/.tree; echo 1 >a; echo 2 >b; }"
    )
    await find(builder, builder.order(url, repository.commit(pipeline_with(make))))
    assert counts.entries == 1
    say_it_is_small(config)
    cramped = msgspec.structs.replace(builder.limits, home_bytes=4096)
    order = builder.order(url, repository.commit(pipeline_with("test ! -e $HOME/.tree")))
    order = msgspec.structs.replace(order, limits=cramped)
    assert (await find(builder, order)).compared.outcome is Outcome.PASSED, builder.log(order)
    assert "caches: not used after all: the Docker engine" in builder.log(order)
    assert +counts.evictions == {"unusable": 1}


def say_it_is_small(config: NodeConfig) -> None:
    """Have the index promise that two files need no room."""
    index = sqlite3.connect(config.data_directory / "caches" / "index.sqlite3")
    with contextlib.closing(index), index:
        index.execute(
            "UPDATE entries SET parts = CAST(replace(CAST(parts AS TEXT), '8192', '0') AS BLOB)"
        )
