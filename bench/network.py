"""The harness's network for a bench: in a folder of its own, with clients that ask for `noop`."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.context import Context
from ci.limits import Limits, encode_limits
from pbft.genesis import Cluster
from scripts.harness import CLIENT, Network, pipeline

LINKED_SECONDS = 120.0
_BUILDS_HERE = "pbftci_builds_here{"


class BenchFailed(Exception):
    """A bench that could not be run to its end; the text says why."""


@contextlib.contextmanager
def open_network(
    context: Context,
    name: str,
    *,
    branches: Mapping[str, Mapping[str, str]] | Path | None = None,
    clients: Sequence[str] = (),
    operates: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, object]] | None = None,
    **settings: Any,
) -> Iterator[Network]:
    """A network that is not started yet; at the end all of it is stopped and removed.

    branches: by default `master` with a trivial build. clients: further members that may ask for
    `noop`, with keys. operates: the replicas that `operator` stands for beside such clients.
    branches, overrides, settings: as `Network` takes them.
    """
    with context.folder(name) as folder:
        changes = {file: dict(value) for file, value in (overrides or {}).items()}
        if clients:
            keys = folder / "run" / "keys"
            roles = {CLIENT: ["gateway"], "operator": ["operator"]}
            changes.setdefault("cluster", {})["clients"] = [
                {
                    "name": member,
                    "public_key_file": str(keys / f"{member}.public.pem"),
                    "roles": roles.get(member, []),
                    **({"operates": list(operates)} if member == "operator" and operates else {}),
                }
                for member in (*roles, *clients)
            ]
        if branches is None:
            branches = {"master": pipeline("true")}
        with Network(folder, branches, overrides=changes, **settings) as network:
            yield network


def cluster_of(network: Network) -> Cluster:
    """The genesis and what follows from it."""
    config = network.configuration.cluster
    return config.cluster(encode_limits(config.limits_as(Limits)))


def wait_until_linked(network: Network) -> None:
    """Return when every node is linked with all its peers. Raises NetworkFailed."""

    def are_linked() -> bool:
        peers = [network.status(name)["peers"].values() for name in network.node_names]
        return all(peer["connected"] for of_one in peers for peer in of_one)

    network.wait_until(are_linked, "links between all nodes", LINKED_SECONDS)


def builds_at_hand(metrics: str) -> int:
    """How many builds a node has at hand by its metrics, those included that it removes."""
    lines = metrics.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(_BUILDS_HERE))


class Traffic(msgspec.Struct, frozen=True):
    """What the links of some nodes carried, counted once: where it was sent."""

    messages: float
    bytes: float


def traffic_sent(network: Network) -> Traffic:
    """What all nodes sent since their starts, to each other and to clients. Raises NoAnswer."""
    texts = [network.node(name, "/metrics").body.decode() for name in network.node_names]
    return Traffic(
        *(
            sum(_metric(text, f'{name}{{direction="sent"}}') for text in texts)
            for name in ("pbftci_link_messages", "pbftci_link_bytes")
        )
    )


def _metric(text: str, name: str) -> float:
    for line in text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise BenchFailed(f"a node has no metric {name}")
