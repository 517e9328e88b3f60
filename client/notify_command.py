"""notify: send a test message to whom client.yml names, and say what the receiver answered."""

import argparse
import asyncio
import datetime
import os
import time

from client.notifications.message import Message, Turn
from client.notifications.messenger import public_session, send
from common.config_error import ConfigError
from common.configuration.config import ClientConfig, load_client_config
from common.configuration.notify_config import NotifyTarget
from common.forges.shared.status import Later, Meaning, Posted
from common.installation import CLIENT_CONFIG
from common.membership.commands import Commands
from common.web.bounded_http import NoAnswer, bounded_session

EXIT_DONE = 0
EXIT_NOT_SENT = 1


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "notify",
        parents=[common],
        description="Send one test message to each named target of `notify:` in the configuration,"
        " and print the answer.",
        epilog="exit codes: 0 all were taken; 1 one was not; 2 wrong arguments or configuration",
    )
    parser.add_argument(
        "--test", action="append", required=True, metavar="NAME", help="a target; may be repeated"
    )
    parser.set_defaults(run=_notify)


def _notify(options: argparse.Namespace) -> int:
    config = load_client_config(options.config or CLIENT_CONFIG)
    targets = {target.name: target for target in config.notify}
    for name in options.test:
        if name not in targets:
            raise ConfigError.at(
                config.file,
                "notify",
                f"has no target {name!a}",
                f"there are: {', '.join(targets) or 'none'}",
            )
    answers = asyncio.run(_send_all(config, [targets[name] for name in options.test]))
    for name, meaning in zip(options.test, answers, strict=True):
        said = "taken" if isinstance(meaning, Posted) else f"not taken: {meaning.reason}"
        print(f"{name}: {said}")
    return EXIT_DONE if all(isinstance(m, Posted) for m in answers) else EXIT_NOT_SENT


async def _send_all(config: ClientConfig, targets: list[NotifyTarget]) -> list[Meaning]:
    return [await _send(config, target) for target in targets]


async def _send(config: ClientConfig, target: NotifyTarget) -> Meaning:
    now = time.time()
    public_url = (config.public_url or config.listen.url).rstrip("/")
    message = Message(
        turn=Turn.TEST,
        build="0" * 64,
        repository=config.repositories[0].url,
        branch="test",
        ref=None,
        event="push",
        commit=None,
        author=None,
        outcome="passed",
        exit_code=None,
        decided=datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(),
        url=public_url,
        envelope_url=public_url,
    )
    session = bounded_session() if target.private_allowed else public_session()
    async with session:
        try:
            return await send(
                session,
                target,
                message,
                identity=os.urandom(16).hex(),
                now=now,
                file=config.file,
            )
        except NoAnswer as error:
            return Later(str(error))
