"""Clients of the network that ask for `noop`, each with a key and links of its own.

Each is the protocol's own client (pbft.client) over the product's links (common.links.link): its
requests are signed and go to all replicas, and an answer counts once f+1 signed replies agree.
What a gateway does beside that, its database, is not part of it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from bench.closed_loop import ClosedLoop
from bench.network import BenchFailed, cluster_of
from ci.operations import Noop, encode_operation
from common.configuration.keys import load_signing_key, verify
from common.links.link import Inbox, Links
from common.links.members import replicas_for
from pbft.authentication import Identity
from pbft.client import Client, ClientOutput, ClientSettings, make_request
from pbft.genesis import Cluster
from pbft.messages import Envelope
from scripts.harness import Network

LINKED_SECONDS = 60.0
TIMER_SECONDS = 0.25
LAST_KINDS = frozenset({"done", "refused"})


class NoopClient(ClosedLoop):
    """One client of the network."""

    def __init__(self, network: Network, cluster: Cluster, name: str, *, in_flight: int) -> None:
        """name: a client of the genesis that nobody else uses."""
        super().__init__(name, in_flight)
        self._cluster = cluster
        key = load_signing_key(network.key_file(name))
        self._sign = key.sign
        self._client = Client(cluster, name, verify, settings=ClientSettings())
        self.links = Links(
            Identity(cluster, name, key.sign),
            dial=replicas_for(network.configuration.cluster, cluster, name, signing_key=key),
            inbox=Inbox(self._receive),
        )

    def send_request(self, number: int) -> None:
        """A noop."""
        operation = encode_operation(Noop())
        signed = make_request(Identity(self._cluster, self.name, self._sign), number, operation)
        self._do(self._client.ask(signed, LAST_KINDS, asyncio.get_running_loop().time()))

    def handle_timer(self, now: float) -> None:
        """Ask again for what was not answered in time."""
        self._do(self._client.handle_timer(now))

    def _receive(self, replica: str, envelopes: Sequence[Envelope]) -> None:
        self._do(self._client.receive(envelopes, asyncio.get_running_loop().time()))

    def _do(self, output: ClientOutput) -> None:
        by_replica: dict[str, list[Envelope]] = {}
        for message in output.messages:
            names = self._cluster.replica_names if message.to is None else (message.to,)
            for name in names:
                by_replica.setdefault(name, []).append(message.envelope)
        for name, envelopes in by_replica.items():
            self.links.send(name, envelopes)
        for accepted in output.accepted:
            if accepted.kind != "done":
                raise BenchFailed(f"a noop was answered with {accepted.kind}")
            self.note_answer(accepted.timestamp)


@contextlib.asynccontextmanager
async def noop_clients(
    network: Network,
    names: Sequence[str],
    in_flight: int = 1,
    *,
    cluster: Cluster | None = None,
) -> AsyncIterator[list[NoopClient]]:
    """These clients of the genesis, linked with all replicas. in_flight: of each. cluster: of the
    epoch that the network is in; None: the first.

    Raises BenchFailed.
    """
    cluster = cluster or cluster_of(network)
    made = [NoopClient(network, cluster, name, in_flight=in_flight) for name in names]

    async def handle_timers() -> None:
        while True:
            await asyncio.sleep(TIMER_SECONDS)
            for client in made:
                client.handle_timer(asyncio.get_running_loop().time())

    handling_timers = asyncio.create_task(handle_timers())
    try:
        for client in made:
            await client.links.start()
        try:
            async with asyncio.timeout(LINKED_SECONDS):
                # links tell the replicas' side alone when they are made, so they are asked
                while any(  # noqa: ASYNC110
                    len(a.links.connected()) < len(network.node_names) for a in made
                ):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise BenchFailed(f"no links within {LINKED_SECONDS:g} s") from None
        yield made
    finally:
        handling_timers.cancel()
        await asyncio.gather(handling_timers, return_exceptions=True)
        await asyncio.gather(*(client.links.close() for client in made))


def client_names(count: int) -> list[str]:
    """Names for so many clients."""
    return [f"load{number}" for number in range(count)]
