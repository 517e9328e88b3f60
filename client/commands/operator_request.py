"""One operation asked of the network with an operator's key, without a gateway.

An operator keeps no record of the numbers it has used: it asks the replicas. The (f+1)-th
greatest of the low timestamps that `strong` replicas name is one that a correct replica has
reached, so all up to it is used; from there numbers are tried one after the other.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ci.operations import Operation, encode_operation
from ci.seats import seats_of
from client.commands.outcome import (
    EXIT_NO_ANSWER,
    EXIT_NOT_PASSED,
    EXIT_TOO_LATE,
    EXIT_WRONG,
    CommandFailed,
)
from client.commands.targets import cluster_and_replicas, cluster_flag
from client.gateway.answers import used_up_to
from client.network.nodes import NodeFailed, Nodes
from common.configuration.config import OPERATOR_ROLE
from common.configuration.keys import SigningKey, verify
from common.configuration.passphrase import passphrase_flag, unlock_key
from common.english import counted, plural
from common.links.link import Inbox, Links
from common.safe_text import escape_controls
from common.web.peers import Peers
from pbft.authentication import Identity, without_relayed
from pbft.client import Accepted, Client, ClientOutput, make_request
from pbft.codec import digest_of
from pbft.genesis import Cluster
from pbft.messages import Envelope, Signed

# Numbers that others used meanwhile, or that the low timestamp lay below: at most a window of them.
TRIES_MAX = 1024
OPERATOR_TIMEOUT_SECONDS = 60.0


class NotAsked(Exception):
    """The network cannot be asked in this way; the text says why."""


class OperatorAnswer(msgspec.Struct, frozen=True):
    """What f+1 replicas answered."""

    kind: str
    subject: bytes
    result: bytes

    @property
    def reason(self) -> str | None:
        """Why they refused; None: they did not."""
        return self.result.decode("utf-8", "replace") if self.kind == "refused" else None


async def ask_as_operator(operator: Identity, peers: Peers, operation: Operation) -> OperatorAnswer:
    """Ask until f+1 replicas answer; whoever waits no longer cancels this. Raises NotAsked."""
    async with Nodes(peers) as nodes:
        used = await used_numbers(operator.cluster, nodes, operator.name)
    async with _OperatorRequest(operator, peers) as request:
        return await request.ask(encode_operation(operation), used + 1)


async def order_as_operator(
    cluster: Cluster, signing_key: SigningKey, peers: Peers, *, operation: Operation
) -> OperatorAnswer:
    """The same by whose key this is, for as long as a person waits. Raises CommandFailed."""
    try:
        async with asyncio.timeout(OPERATOR_TIMEOUT_SECONDS):
            name = operator_name(cluster, signing_key, OPERATOR_ROLE)
            identity = Identity(cluster, name, signing_key.sign)
            return await ask_as_operator(identity, peers, operation)
    except NotAsked as error:
        raise CommandFailed(str(error)) from error
    except TimeoutError as error:
        raise CommandFailed(
            f"the replicas did not agree within {OPERATOR_TIMEOUT_SECONDS:g} s", EXIT_TOO_LATE
        ) from error


class Operator(NamedTuple):
    """An operator who stands for replicas, with its key, and whom it asks."""

    name: str
    key: SigningKey
    cluster: Cluster
    replicas: Peers


def operator_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `operator_of` reads."""
    parser.add_argument(
        "--operator-key",
        type=Path,
        required=True,
        metavar="FILE",
        help="sign with this operator's private key",
    )
    passphrase_flag(parser)
    cluster_flag(parser)


def operator_of(options: argparse.Namespace) -> Operator:
    """Who has the key of --operator-key. Raises ConfigError, CommandFailed."""
    key = unlock_key(options.operator_key, options.passphrase_file)
    cluster, replicas = cluster_and_replicas(options, key)
    try:
        name = operator_name(cluster, key, OPERATOR_ROLE)
    except NotAsked as error:
        raise CommandFailed(str(error), EXIT_WRONG) from error
    if not seats_of(cluster, [name]):
        raise CommandFailed(
            f"{name} stands for no replica in the cluster file (operates), so it has no say",
            EXIT_WRONG,
        )
    return Operator(name, key, cluster, replicas)


async def order(operator: Operator, operation: Operation) -> OperatorAnswer:
    """What the network answered. Raises CommandFailed, also where it refused."""
    answer = await order_as_operator(
        operator.cluster, operator.key, operator.replicas, operation=operation
    )
    if answer.reason is not None:
        raise CommandFailed(
            f"the network refused: {escape_controls(answer.reason)}", EXIT_NO_ANSWER
        )
    return answer


def ask_whether(options: argparse.Namespace, question: str, refused: str) -> None:
    """Raises CommandFailed where it is not to be, or nobody can be asked."""
    sys.stdout.flush()
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed("no terminal to ask for confirmation; add --yes", EXIT_WRONG)
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandFailed(refused, EXIT_NOT_PASSED)


async def used_numbers(cluster: Cluster, nodes: Nodes, name: str) -> int:
    """Up to which number all of that client's numbers are used. Raises NotAsked."""
    answers = await asyncio.gather(
        *(nodes.client_floor(replica, name) for replica in nodes.names), return_exceptions=True
    )
    reached = sorted(
        (timestamp for timestamp in answers if isinstance(timestamp, int)), reverse=True
    )
    quorums = cluster.quorums
    if len(reached) < quorums.strong:
        failed = [str(error) for error in answers if isinstance(error, NodeFailed)]
        raise NotAsked(
            f"{len(reached)} of {counted(quorums.replicas, 'replica')} answer,"
            f" {quorums.strong} {plural(quorums.strong, 'is', 'are')} needed: " + "; ".join(failed)
        )
    return reached[quorums.weak - 1]


def operator_name(cluster: Cluster, signing_key: SigningKey, role: str) -> str:
    """Which client of the cluster has this key. Raises NotAsked where none has, or not the role."""
    for member in cluster.genesis.clients:
        if member.public_key == signing_key.public_key:
            if role not in member.roles:
                raise NotAsked(f"{member.name} has not the role {role} in the cluster file")
            return member.name
    raise NotAsked("no client of the cluster file has this key")


class _OperatorRequest:
    """Links to all replicas for as long as one operation takes. An async context manager."""

    def __init__(self, operator: Identity, peers: Peers) -> None:
        self._operator = operator
        self._client = Client(operator.cluster, operator.name, verify)
        self._links = Links(
            operator,
            dial=peers,
            inbox=Inbox(self._receive, self._on_connected),
        )
        self._asked: Signed | None = None
        self._answers: asyncio.Queue[Accepted] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "_OperatorRequest":
        await self._links.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._links.close()

    async def ask(self, operation: bytes, number: int) -> OperatorAnswer:
        """Ask with this number, or with the first above it that is free. Raises NotAsked."""
        for _ in range(TRIES_MAX):
            signed = make_request(self._operator, number, operation)
            self._asked = signed
            last_kinds = frozenset({"done", "refused"})
            self._handle(self._client.ask(signed, last_kinds, self._now()))
            answer = await self._answers.get()
            while answer.timestamp != number:
                answer = await self._answers.get()
            if answer.request_digest == digest_of(signed.payload):
                return OperatorAnswer(answer.kind, answer.subject, answer.result)
            number = max(number, used_up_to(answer) or 0) + 1
        raise NotAsked(f"{TRIES_MAX} numbers were used already; somebody else uses this key")

    def _receive(self, replica: str, envelopes: Sequence[Envelope]) -> None:
        own = without_relayed(replica, envelopes)
        self._handle(self._client.receive(own, self._now()))

    def _on_connected(self, replica: str) -> None:
        if self._asked is not None:
            self._links.send(replica, [Envelope(self._asked)])

    def _handle(self, output: ClientOutput) -> None:
        for message in output.messages:
            for name in self._operator.cluster.replica_names:
                if message.to in (None, name):
                    self._links.send(name, [message.envelope])
        for accepted in output.accepted:
            self._answers.put_nowait(accepted)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if output.deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(output.deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        with contextlib.suppress(asyncio.CancelledError):
            self._handle(self._client.handle_timer(self._now()))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
