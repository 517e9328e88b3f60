"""evidence: fetch the nodes' proof of misbehaviour, and check it offline."""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_replicas, nodes_flags, read_cluster
from client.network.nodes import (
    NodeFailed,
    Nodes,
    ServedEvidence,
    ServedPair,
    decode_answer,
    evidence_bytes_max,
)
from client.network.proofs import check_pair
from common.safe_text import log_text
from pbft.genesis import Cluster
from pbft.ports import Refusal

# Of one node: it keeps 100 pairs or 32 MiB of each replica.
PAGES_MAX = 200
PAGE_PAIRS = 50
NODE_BYTES_MAX = 512 * 1024 * 1024
# What `--json` prints of all nodes together, in base64.
FILE_BYTES_MAX = 2**30


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "evidence",
        parents=[common],
        description="Print and check proofs. A proof is two messages of which a correct replica "
        "never signs both. The check needs only the cluster file and its public keys. Exit code 0: "
        "all hold; 1: some do not; 2: the file cannot be read; 3: no node answers.",
    )
    parser.add_argument(
        "--verify", metavar="FILE", help="check this file, the output of --json; - reads stdin"
    )
    parser.add_argument("--node", metavar="NAME", help="fetch from this node (default: from all)")
    parser.add_argument("--json", action="store_true", help="print JSON for --verify")
    nodes_flags(parser)
    parser.set_defaults(run=_evidence)


def _evidence(options: argparse.Namespace) -> int:
    cluster = read_cluster(options)
    if options.verify is None:
        pairs = run(_fetch(options))
    else:
        pairs = list(_read(options.verify, cluster).evidence)
    if options.json:
        print(json.dumps(_as_served(cluster, pairs), indent=1))
        return EXIT_DONE
    return report(cluster, pairs)


def report(cluster: Cluster, pairs: Iterable[ServedPair]) -> int:
    """Check each pair and print a line about it; the exit code."""
    checked = [check_pair(pair, cluster) for pair in pairs]
    for proved in checked:
        if isinstance(proved, Refusal):
            print(f"proves nothing  {log_text(proved.reason)}")
        else:
            print(f"holds           {proved}")
    if not checked:
        print("no evidence of misbehaviour")
    return EXIT_NOT_PASSED if any(isinstance(p, Refusal) for p in checked) else EXIT_DONE


async def _fetch(options: argparse.Namespace) -> list[ServedPair]:
    """What the nodes have, each pair once. Raises CommandFailed where none answers."""
    cluster, replicas = cluster_and_replicas(options)
    if options.node is not None and options.node not in replicas:
        names = ", ".join(replicas)
        raise CommandFailed(
            f"--node: no {options.node!r} in the cluster; there are {names}", EXIT_WRONG
        )
    async with Nodes(replicas) as nodes:
        wanted = (str(options.node),) if options.node else nodes.names
        answers = await asyncio.gather(*(_of_node(nodes, name, cluster) for name in wanted))
    pairs: dict[frozenset[bytes], ServedPair] = {}
    for found, _ in answers:
        for pair in found:
            pairs.setdefault(frozenset((pair.first, pair.second)), pair)
    failures = [failure for _, failure in answers if failure is not None]
    if len(failures) == len(answers) and not pairs:
        raise CommandFailed("no node sent its evidence: " + "; ".join(failures))
    for failure in failures:
        print(failure, file=sys.stderr)
    return list(pairs.values())


async def _of_node(
    nodes: Nodes, name: str, cluster: Cluster
) -> tuple[list[ServedPair], str | None]:
    """What a node gives, and why there may be more."""
    pairs: list[ServedPair] = []
    taken_bytes = 0
    try:
        async for page in nodes.evidence_pages(
            name, pages_max=PAGES_MAX, pairs_max=PAGE_PAIRS, bytes_max=evidence_bytes_max(cluster)
        ):
            taken_bytes += sum(len(pair.first) + len(pair.second) for pair in page)
            if taken_bytes > NODE_BYTES_MAX:
                return pairs, f"{name}: more than {NODE_BYTES_MAX // 2**20} MiB of evidence"
            pairs.extend(page)
    except NodeFailed as error:
        return pairs, str(error)
    return pairs, None


def _read(file: str, cluster: Cluster) -> ServedEvidence:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error
    if len(data) > FILE_BYTES_MAX:
        raise CommandFailed(f"{file}: more than {FILE_BYTES_MAX} bytes", EXIT_WRONG)
    try:
        evidence = decode_answer(data, ServedEvidence, file)
    except NodeFailed as error:
        raise CommandFailed(str(error), EXIT_WRONG) from error
    if evidence.cluster != cluster.id.hex():
        print(
            f"{file} is about the cluster {log_text(evidence.cluster)[:12]},"
            f" this is {cluster.id.hex()[:12]}",
            file=sys.stderr,
        )
    return evidence


def _as_served(cluster: Cluster, pairs: Iterable[ServedPair]) -> dict[str, object]:
    return {
        "cluster": cluster.id.hex(),
        "evidence": [
            {
                "number": number,
                "replica": pair.replica,
                "proves": pair.proves,
                "first": base64.b64encode(pair.first).decode(),
                "second": base64.b64encode(pair.second).decode(),
            }
            for number, pair in enumerate(pairs, 1)
        ],
        "next": None,
    }
