"""What a gateway learns of a build's commit: one honest replica is enough, and none can lie."""

from common.git_commits import commit_id
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running
from tests.common.test_git_commits import chain, packed

COMMITS = chain(3)
COMMIT = commit_id(COMMITS[0], is_sha256=False)
PARENT = commit_id(COMMITS[1], is_sha256=False)


async def begun(running: Running) -> bytes:
    """A build of the first commit that nobody has built yet."""
    nobody_finishes(running.network)
    build = await running.gateway.submit(REPOSITORY, "master", COMMIT)
    await until(lambda: record_of(running, build).opened_at is not None)
    return build


async def test_the_first_replica_whose_commits_are_true_is_believed(running: Running) -> None:
    build = await begun(running)
    nodes = list(running.network.nodes.values())
    nodes[0].commits[build] = packed(COMMITS[0].replace(b"number", b"another"))
    nodes[1].is_down = True
    nodes[2].commits[build] = packed(*COMMITS)
    await running.collector.glance(build)
    known = running.archive.commits.get
    await until(lambda: known(COMMIT) is not None)
    found = known(COMMIT)
    assert found is not None
    assert (found.subject, found.parents) == ("number 2", (PARENT,))
    assert known(PARENT) is not None
    lie = commit_id(COMMITS[0].replace(b"number", b"another"), is_sha256=False)
    assert known(lie) is None


async def test_without_an_honest_one_nothing_is_known(running: Running) -> None:
    build = await begun(running)
    for node in running.network.nodes.values():
        node.commits[build] = b"nonsense"
    await running.collector.glance(build)
    assert running.archive.commits.get(COMMIT) is None
