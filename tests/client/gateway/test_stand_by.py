"""With `executors: minimal` who need not build is said to stand by: it is no trouble, nor late."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from ci.builds import OpenBuild
from ci.executors import STAND_BY
from ci.limits import Limits
from ci.operations import Ballot, BuildResult
from client.commands.builds import print_build
from client.dashboard.builds_page import build_row
from client.storage.archive import BallotRecord, StateRecord
from client.views.agreement import STANDS_BY, agreement_of, stance_of
from client.views.build_view import BuildView, build_view
from tests.ci.builders import ABSTAIN, FAILED, FAILED_2, PASSED, World, cluster_of
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Network, gateway_on, passed
from tests.client.views.test_build_view import record, signed_ballot

MINIMAL = Limits(executors="minimal")


class Glance:
    """A build of a network of four, one of which stands by, after these ballots in this order."""

    def __init__(
        self, executors: list[Ballot], fourth: Ballot | None = None, says: str | None = None
    ) -> None:
        """executors: their ballots; says: the fourth's own words when it was last asked."""
        world = World(cluster_of(4, MINIMAL), MINIMAL)
        build = world.open(1)
        drawn = world.application.open_builds()[build].executors
        self.names = world.cluster.replica_names
        (self.fourth,) = set(self.names) - set(drawn)
        cast = list(zip(drawn, executors, strict=False))
        cast += [(self.fourth, fourth)] if fourth is not None else []
        records = []
        for name, ballot in cast:
            index = self.names.index(name)
            records.append(BallotRecord(name, signed_ballot(world, index, build, ballot), True))
            world.cast(build, index, ballot)
        statement = world.find_statement(build)
        archived = record(build=build, statement=statement, opened_at=1.0)
        states = [
            StateRecord(name, says if name == self.fourth else None, None, None)
            for name in self.names
        ]
        self.view: BuildView = build_view(archived, records, [], states=states)
        self.in_list: BuildView = build_view(archived, records, [])
        self.groups = agreement_of(
            self.view, dict(cast), self.names, quorums=world.cluster.quorums, limits=MINIMAL
        ).groups


@pytest.mark.parametrize("says", [None, "none", STAND_BY])
def test_who_stood_by_a_verdict_is_neither_missing_nor_dissenting(says: str | None) -> None:
    glance = Glance([PASSED] * 3, says=says)
    assert glance.view.verdict is not None
    assert glance.view.verdict.dissenting == ()
    assert glance.fourth not in glance.view.verdict.executors
    assert stance_of(glance.view, glance.fourth) == STANDS_BY
    last = glance.groups[-1]
    assert (last.stance, last.replicas, last.says) == (
        STANDS_BY,
        (glance.fourth,),
        "need not build",
    )
    row = build_row(glance.in_list, glance.names)
    (mark,) = [mark for mark in row.marks if mark.replica == glance.fourth]
    assert (mark.stance, mark.text) == (STANDS_BY, f"{glance.fourth} stand-by")
    assert (row.agreement, row.apart) == ("3 of 4 agree", ())


def test_while_it_is_open_its_own_words_tell() -> None:
    glance = Glance([PASSED], says=STAND_BY)
    assert stance_of(glance.view, glance.fourth) == STANDS_BY
    assert build_row(glance.view, glance.names).agreement == "1 of 4 so far"
    assert stance_of(Glance([PASSED], says="building").view, glance.fourth) == "none yet"


def test_who_was_called_stands_where_its_ballot_stands() -> None:
    for other in (FAILED, ABSTAIN):
        glance = Glance([PASSED, other, PASSED], PASSED)
        assert stance_of(glance.view, glance.fourth) == "agrees"
    glance = Glance([PASSED, FAILED, PASSED], says="building")
    assert stance_of(glance.view, glance.fourth) == "none yet"


def test_in_a_dispute_nobody_is_said_to_have_stood_by() -> None:
    glance = Glance([PASSED, FAILED, FAILED_2], ABSTAIN)
    assert glance.view.verdict is not None
    assert glance.view.verdict.outcome == "disputed"
    assert STANDS_BY not in {group.stance for group in glance.groups}


def test_the_command_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    glance = Glance([PASSED] * 3, says="none")
    print_build(msgspec.to_builtins(glance.view))
    out = capsys.readouterr().out
    assert f"  {glance.fourth:10}{STAND_BY}: it need not build\n" in out
    assert "no ballot" not in out


def _of_executors(network: Network, other: Ballot | None = None) -> None:
    """Executors find `passed`, the first of them something else; who stands by, once called."""

    def finds(name: str, build: OpenBuild) -> tuple[Ballot, bytes] | None:
        if name not in build.executors:
            ballots = build.ballots.values()
            is_called = any(not isinstance(b, BuildResult) or b == other for b in ballots)
            return passed("called") if is_called else None
        if other is not None and name == build.executors[0]:
            return other, b""
        return passed()

    for name, node in network.nodes.items():
        node.finds = partial(finds, name)


async def test_nothing_is_waited_for_from_who_stood_by(tmp_path: Path) -> None:
    async with gateway_on(Network(limits=MINIMAL), tmp_path) as running:
        _of_executors(running.network)
        build = await running.gateway.submit(REPOSITORY, "master", None)
        await until(lambda: record_of(running, build).collected)
        assert len(running.archive.ballots(build)) == 3


async def test_where_all_were_called_all_are_waited_for(tmp_path: Path) -> None:
    async with gateway_on(Network(limits=MINIMAL), tmp_path) as running:
        _of_executors(running.network, other=ABSTAIN)
        build = await running.gateway.submit(REPOSITORY, "master", None)
        await until(lambda: record_of(running, build).collected)
        assert len(running.archive.ballots(build)) == 4
