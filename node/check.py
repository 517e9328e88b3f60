"""`check`: what keeps this node from its work, in one table, before it starts."""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ci.limits import Limits
from common.checks.machine import check_listen, check_saves, check_space
from common.checks.members import check_members
from common.configuration.config import NodeConfig, RepositoryEntry
from common.finding import Finding, State
from common.web.peers import Peers
from node.diagnostics.disk_speed import SAVES_PER_TIMER_MIN
from node.sandboxes.containers.engine_check import check_engine
from node.sandboxes.containers.swarm_check import check_swarm
from node.sources.checkout import Checkout
from node.work.infrastructure_error import InfrastructureError
from pbft.authentication import Identity

REPOSITORIES_AT_ONCE = 8


async def check_node(
    config: NodeConfig, identity: Identity, limits: Limits, *, peers: Peers
) -> list[Finding]:
    """What was found, in the order of the table. peers: the other replicas."""
    directory = config.data_directory
    kept_bytes_max = config.mirrors_bytes_max + config.builds_bytes_max + config.cache_bytes_max
    save_seconds_max = config.view_change_seconds / SAVES_PER_TIMER_MIN
    local = config.local_listen
    machine = [
        check_listen(config.listen, directory),
        *([] if local is None else [check_listen(local, directory, "local_listen")]),
        check_space(directory, kept_bytes_max),
        # before others use the disk
        await asyncio.to_thread(check_saves, directory, save_seconds_max),
    ]
    engine, repositories, members = await asyncio.gather(
        _engine(config, limits, identity.cluster.lineage),
        _repositories(config),
        check_members(identity, peers),
    )
    return [*machine, *engine, *repositories, *members]


async def _engine(config: NodeConfig, limits: Limits, cluster_id: bytes) -> list[Finding]:
    if config.executor == "swarm":
        return await asyncio.to_thread(check_swarm, config, limits, cluster_id)
    if config.executor != "docker":
        text = f"executor: {config.executor}: builds have the rights of this user; trust all of"
        return [Finding("Docker", State.WARNING, f"{text} their authors")]
    return await asyncio.to_thread(check_engine, config, limits, cluster_id)


async def _repositories(config: NodeConfig) -> list[Finding]:
    """Whether git reaches each repository with the login that is configured for it."""
    with (
        ThreadPoolExecutor(REPOSITORIES_AT_ONCE) as threads,
        tempfile.TemporaryDirectory() as folder,
    ):
        # with folders of its own, so that a running node's stay as they are
        apart = msgspec.structs.replace(config, data_directory=Path(folder))
        checkout = Checkout(apart, threads)
        checkout.start()
        return list(
            await asyncio.gather(*(_repository(checkout, entry) for entry in config.repositories))
        )


async def _repository(checkout: Checkout, entry: RepositoryEntry) -> Finding:
    subject = f"repository {entry.url}"
    try:
        await checkout.check_access(entry)
    except InfrastructureError as error:
        return Finding(subject, State.WRONG, error.reason)
    return Finding(subject, State.OK, "its server answers, and lets this node in")
