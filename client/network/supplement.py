"""Gathers a supplement: f+1 nodes' equal words on who contradicted a verdict later.

The nodes are asked up to one entry of the ledger, so that what correct ones sign is one text.
"""

import asyncio
import json
from collections.abc import Sequence

from ci.statement import InvalidEnvelope, VerifiedEnvelope, envelope, keyid_for, open_envelope
from ci.supplement import VerifiedSupplement, verify_supplement
from client.network.nodes import NodeFailed, Nodes
from common.configuration.keys import verify
from common.english import counted
from pbft.genesis import Cluster
from pbft.quorums import Quorums


class NoSupplement(Exception):
    """Fewer than f+1 nodes gave one text; one line why."""


async def gather_supplement(
    nodes: Nodes, cluster: Cluster, verdict: VerifiedEnvelope
) -> tuple[bytes, VerifiedSupplement]:
    """The supplement to that verdict as it is now: its envelope (JSON), and what it says.

    A final one goes before one that is not. Raises NoSupplement.
    """
    fields = verdict.statement.verdict
    statuses = await asyncio.gather(*map(nodes.status, nodes.names), return_exceptions=True)
    ends, failures = [], []
    for status in statuses:
        if isinstance(status, NodeFailed):
            failures.append(str(status))
        elif isinstance(status, BaseException):
            raise status
        else:
            ends.append(status.ledger_index or 0)
    at = max(fields.ledger_index, common_end(ends, cluster.quorums))
    answers = await asyncio.gather(
        *(
            nodes.supplement(name, bytes.fromhex(fields.build), fields.opened, at=at)
            for name in nodes.names
        ),
        return_exceptions=True,
    )
    signed: dict[bytes, list[tuple[str, bytes]]] = {}
    for name, answer in zip(nodes.names, answers, strict=True):
        if isinstance(answer, NodeFailed):
            failures.append(str(answer))
            continue
        if isinstance(answer, BaseException):
            raise answer
        try:
            payload, signatures = open_envelope(answer, cluster, verify)
        except InvalidEnvelope as error:
            failures.append(f"{name}: {error}")
            continue
        key = cluster.public_key(name)
        if key is None or name not in signatures:
            failures.append(f"{name}: not signed by {name}")
            continue
        signed.setdefault(payload, []).append((keyid_for(key), signatures[name]))
    found = []
    for payload, pairs in signed.items():
        if len(pairs) >= cluster.quorums.weak:
            data = json.dumps(envelope(payload, pairs)).encode()
            try:
                found.append((data, verify_supplement(data, verdict, cluster, verify=verify)))
            except InvalidEnvelope as error:
                failures.append(str(error))
    if not found:
        most = max(map(len, signed.values()), default=0)
        why = "; ".join(dict.fromkeys(failures)) or "they differ"
        raise NoSupplement(
            f"no supplement up to ledger entry {at}: {counted(most, 'replica')} signed one"
            f" text, {cluster.quorums.weak} are needed ({why}); ask again in a while"
        )
    return max(found, key=lambda gathered: gathered[1].fields.is_final)


def common_end(ends: Sequence[int], quorums: Quorums) -> int:
    """An entry that f+1 correct nodes have, by what nodes say of their ledgers' ends.

    The 2f+1st highest: f of those up to it may lie, and f lower ones hold nobody back. Where fewer
    answered it is the lowest.
    """
    if not ends:
        return 0
    return sorted(ends, reverse=True)[min(len(ends), quorums.strong) - 1]
