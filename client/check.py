"""`check`: what keeps this gateway from its work, in one table, before it starts."""

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import msgspec

from client.gateway.resolve import Unreachable
from client.login.attempts import Attempts
from client.login.providers import CALLBACK_PATH, ProviderFailed, make_provider
from client.serve import forget_foreign_variables, make_resolver, read_member
from common.checks.machine import check_listen, check_saves, check_space
from common.checks.members import check_members
from common.configuration.config import ClientConfig, load_client_config
from common.finding import Finding, State
from common.membership.epochs import in_present_epoch
from pbft.authentication import Identity

# The archive grows with the builds; this is a year of a busy team.
ARCHIVE_BYTES = 5 * 2**30
# A gateway's timers are long; slower than this, pages and webhooks wait.
SAVE_SECONDS_MAX = 0.2
# Nobody has this branch: the server answers that it does not know it.
BRANCH = "pbft-ci-check"


async def check_gateway(file: Path) -> list[Finding]:
    """What was found, in the order of the table. file: a client.yml. Raises ConfigError."""
    config = in_present_epoch(load_client_config(file))
    member = read_member(config)
    forget_foreign_variables()
    identity = Identity(member.cluster, config.name, member.signing_key.sign)
    directory = config.data_directory
    machine = [
        check_listen(config.listen, directory),
        check_space(directory, ARCHIVE_BYTES),
        # before others use the disk
        await asyncio.to_thread(check_saves, directory, SAVE_SECONDS_MAX),
    ]
    repositories, members, login = await asyncio.gather(
        _repositories(config), check_members(identity, member.peers), _login(config)
    )
    return [*machine, *repositories, *members, *login]


async def _login(config: ClientConfig) -> list[Finding]:
    """Whether the provider of `login:` answers with what a login needs. Raises ConfigError."""
    login = config.login
    if login is None or login.is_proxy:
        return []
    attempt = Attempts(bytes(32)).begin(bytes(32), "/", time.time())
    what = f"login {login.provider}"
    try:
        await make_provider(config).login_url(attempt)
    except ProviderFailed as error:
        return [Finding(what, State.WRONG, str(error))]
    callback = f"{(config.public_url or config.listen.url).rstrip('/')}{CALLBACK_PATH}"
    return [Finding(what, State.OK, f"it has to know the redirect URI {callback}")]


async def _repositories(config: ClientConfig) -> list[Finding]:
    """Whether git reaches each repository with the login that is configured for it."""
    with tempfile.TemporaryDirectory() as folder:
        # with a folder of its own, so that a running gateway's stays as it is
        apart = msgspec.structs.replace(config, data_directory=Path(folder))
        with contextlib.closing(make_resolver(apart)) as resolver:
            found = await asyncio.gather(
                *(resolver.resolve(entry.url, BRANCH) for entry in config.repositories)
            )
    return [
        Finding(f"repository {entry.url}", State.WRONG, answer.reason)
        if isinstance(answer, Unreachable)
        else Finding(
            f"repository {entry.url}", State.OK, "its server answers, and lets this gateway in"
        )
        for entry, answer in zip(config.repositories, found, strict=True)
    ]
