"""cancel, rebuild, approve: what people change about a build that is under way, or was."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ci.operations import ApproveBuild, CancelBuild, Event, Operation
from ci.references import full_ref
from client.commands.builds import (
    build_argument,
    follow_accepted,
    show_build,
    timeout_flag,
)
from client.commands.gateway_client import BUILD_ID_CHARACTERS, run
from client.commands.outcome import (
    EXIT_DONE,
    EXIT_NO_ANSWER,
    EXIT_NOT_PASSED,
    EXIT_WRONG,
    CommandFailed,
)
from client.commands.targets import (
    Commands,
    cluster_and_replicas,
    cluster_flag,
    gateway_flags,
    gateway_to_change,
    gateway_to_read,
    json_flag,
)
from common.configuration.config import OPERATOR_ROLE, ConfigError
from common.configuration.passphrase import passphrase_flag, unlock_key
from common.safe_text import escape_controls
from pbft.genesis import Cluster

# Only an operator's command speaks with nodes.
if TYPE_CHECKING:
    from client.network.nodes import AskedBuild
    from common.configuration.keys import SigningKey
    from common.web.peers import Peers


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module."""
    cancel = commands.add_parser("cancel", parents=[common])
    cancel.add_argument("--reason", metavar="TEXT", help="the reason to show with the build")
    rebuild = commands.add_parser("rebuild", parents=[common])
    rebuild.add_argument(
        "--cold", action="store_true", help="have all replicas build it without caches"
    )
    rebuild.add_argument("--wait", action="store_true", help="wait for the verdict")
    timeout_flag(rebuild)
    approve = commands.add_parser("approve", parents=[common])
    approve.add_argument(
        "--yes", action="store_true", help="approve without asking for confirmation"
    )
    actions = ((cancel, _cancel), (rebuild, _rebuild), (approve, _approve))
    for parser, action in actions:
        build_argument(parser)
        json_flag(parser)
        gateway_flags(parser)
        parser.set_defaults(run=lambda options, action=action: run(action(options)))
    for parser in (cancel, approve):
        parser.add_argument(
            "--operator-key",
            type=Path,
            metavar="FILE",
            help="sign with this operator's private key, and ask the replicas without a gateway",
        )
        passphrase_flag(parser)
        cluster_flag(parser)


class _Operator(NamedTuple):
    """Whoever asks with a key of their own, and whom."""

    signing_key: "SigningKey"
    cluster: Cluster
    replicas: "Peers"


def _operator(options: argparse.Namespace) -> _Operator:
    """Who has the key of --operator-key. Raises ConfigError."""
    key = unlock_key(options.operator_key, options.passphrase_file)
    return _Operator(key, *cluster_and_replicas(options, key))


async def _cancel(options: argparse.Namespace) -> int:
    if options.operator_key is not None:
        return await order_about_build(options, CancelBuild)
    async with gateway_to_change(options) as gateway:
        build = await gateway.cancel(await gateway.full_id(options.build), options.reason)
    show_build(build, options)
    return EXIT_DONE


async def _rebuild(options: argparse.Namespace) -> int:
    async with gateway_to_change(options) as gateway:
        build = await gateway.full_id(options.build)
        accepted = await gateway.rebuild(build, is_cold=options.cold)
        return await follow_accepted(gateway, accepted, options)


async def _approve(options: argparse.Namespace) -> int:
    """Whoever approves lets a stranger's code run: they see whose and which before they sign."""
    if options.operator_key is not None:
        operator = _operator(options)
        await _show_ordered(options, operator)
        _ask_whether(options)
        return await order_about_build(options, ApproveBuild, operator)
    from client.network.nodes import AskedBuild

    async with gateway_to_change(options) as gateway:
        build = await gateway.build(options.build)
        asked = AskedBuild(
            build["repository"],
            build["commit"],
            build["event"],
            full_ref(build["branch"], build["ref"]),
            build["branch"],
        )
        _show(build["id"], asked, build["author"], whose_word="according to the gateway")
        _ask_whether(options)
        build = await gateway.approve(build["id"])
    show_build(build, options)
    return EXIT_DONE


async def _show_ordered(options: argparse.Namespace, operator: _Operator) -> None:
    """What f + 1 replicas say that they will build; the author is the gateway's word, if any."""
    from client.network.nodes import Nodes, ServedBuild

    quorums = operator.cluster.quorums
    build = await _whole_id(options)
    async with Nodes(operator.replicas) as nodes:
        answers = await asyncio.gather(
            *(nodes.build(name, bytes.fromhex(build)) for name in nodes.names),
            return_exceptions=True,
        )
    said = Counter(
        answer.asked
        for answer in answers
        if isinstance(answer, ServedBuild) and answer.build == build and answer.asked is not None
    )
    agreed = [asked for asked, count in said.items() if count >= quorums.weak]
    if not agreed:
        raise CommandFailed(
            f"fewer than {quorums.weak} replicas report the same about that build;"
            " check that it is open: client status BUILD",
            EXIT_NO_ANSWER,
        )
    author = None
    with suppress(CommandFailed, ConfigError):
        async with gateway_to_read(options) as gateway:
            author = (await gateway.build(build))["author"]
    _show(build, agreed[0], author, whose_word=f"according to {quorums.weak} replicas")


def _show(build: str, asked: "AskedBuild", author: str | None, *, whose_word: str) -> None:
    is_for_branch = asked.event in (Event.PULL_REQUEST, Event.MERGE_GROUP)
    target = f" for {escape_controls(asked.branch)}" if is_for_branch else ""
    print(f"build       {build} ({whose_word})")
    print(f"repository  {escape_controls(asked.repository)}")
    print(f"commit      {asked.commit or '-'}")
    print(f"request     {escape_controls(asked.ref)}{target} ({asked.event})")
    print(f"author      {escape_controls(author or 'not known')} (according to the forge)")
    sys.stdout.flush()


def _ask_whether(options: argparse.Namespace) -> None:
    """Raises CommandFailed where it is not to be, or nobody can be asked."""
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            "no terminal to ask for confirmation; add --yes to approve this build", EXIT_WRONG
        )
    if input("approve it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandFailed("not approved", EXIT_NOT_PASSED)


async def order_about_build(
    options: argparse.Namespace,
    make: Callable[[bytes], Operation],
    operator: _Operator | None = None,
) -> int:
    """Order an operation about a build with the key of --operator-key, and print that it was done.

    make: gives the operation of a build's id. Raises CommandFailed, ConfigError.
    """
    from client.commands.operator_request import operator_name, order_as_operator

    signing_key, cluster, replicas = operator or _operator(options)
    build = await _whole_id(options)
    answer = await order_as_operator(
        cluster, signing_key, replicas, operation=make(bytes.fromhex(build))
    )
    if answer.reason is not None:
        raise CommandFailed(
            f"the network refused: {escape_controls(answer.reason)}", EXIT_NO_ANSWER
        )
    name = operator_name(cluster, signing_key, OPERATOR_ROLE)
    print(f"{build}: {options.command} ordered by {name}")
    return EXIT_DONE


async def _whole_id(options: argparse.Namespace) -> str:
    """The id that is meant; only the beginning of one takes a gateway that knows it."""
    text = str(options.build).lower()
    if len(text) != BUILD_ID_CHARACTERS:
        async with gateway_to_read(options) as gateway:
            return await gateway.full_id(text)
    try:
        bytes.fromhex(text)
    except ValueError as error:
        raise CommandFailed(f"{text!r} is not a build id", EXIT_WRONG) from error
    return text
