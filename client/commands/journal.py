"""append and journal: the replicated string, written through the gateway, read from the nodes."""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ci.ledger import AppendEntry, MalformedEntry, decode_entry
from client.commands.gateway_client import run
from client.commands.ledger import chain_break, first_ledger
from client.commands.outcome import EXIT_DONE, EXIT_NO_ANSWER, EXIT_NOT_PASSED
from client.commands.targets import (
    Commands,
    cluster_and_replicas,
    gateway_flags,
    gateway_to_change,
    json_flag,
    nodes_flags,
)
from client.network.nodes import NodeFailed, Nodes
from common.english import counted
from common.safe_text import escape_controls
from pbft.ports import Entry

EMPTY_DIGEST = "-"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module."""
    append = commands.add_parser("append", parents=[common])
    append.add_argument(
        "texts", metavar="TEXT", nargs="*", help="the strings (default: one per line of stdin)"
    )
    gateway_flags(append)
    append.set_defaults(run=lambda options: run(_append(options)))
    journal = commands.add_parser("journal", parents=[common])
    journal.add_argument("--all", action="store_true", help="print the journal of every replica")
    json_flag(journal)
    nodes_flags(journal)
    journal.set_defaults(run=lambda options: run(_journal(options)))


async def _append(options: argparse.Namespace) -> int:
    code = EXIT_DONE
    async with gateway_to_change(options) as gateway:
        for text in _texts(options.texts):
            answer = await gateway.append(text)
            if "digest" in answer:
                print(f"{answer['length']}  {answer['digest']}", flush=True)
            else:
                print(answer["detail"], file=sys.stderr)
                code = EXIT_NO_ANSWER
    return code


def _texts(arguments: list[str]) -> Iterator[str]:
    if arguments:
        yield from arguments
    else:
        for line in sys.stdin:
            yield line.rstrip("\r\n")


async def _journal(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    ledgers: dict[str, list[Entry] | NodeFailed] = {}
    async with Nodes(replicas) as nodes:
        if options.all:
            given = await asyncio.gather(*(_ledger_or_failure(nodes, name) for name in nodes.names))
            ledgers.update(zip(nodes.names, given, strict=True))
        else:
            name, entries = await first_ledger(nodes, nodes.names)
            ledgers[name] = entries
    code = EXIT_DONE
    found: list[dict[str, object]] = []
    for name, ledger in ledgers.items():
        if isinstance(ledger, NodeFailed):
            found.append({"node": name, "problem": f"no ledger ({ledger})"})
            code = max(code, EXIT_NO_ANSWER)
            continue
        text, length, digest = journal_of(ledger)
        reason = chain_break(ledger, cluster)
        problem = None if reason is None else f"its ledger's chain is BROKEN: {reason}"
        found.append(
            {"node": name, "problem": problem, "length": length, "digest": digest, "text": text}
        )
        if reason is not None:
            code = max(code, EXIT_NOT_PASSED)
    if options.json:
        print(json.dumps(found))
    else:
        _print_journals(found)
    return code


def _print_journals(journals: list[dict[str, Any]]) -> None:
    for journal in journals:
        if "text" not in journal:
            print(f"{journal['node']}: {journal['problem']}")
            continue
        strings = counted(journal["length"], "string")
        print(f"{journal['node']}: {strings}, digest {journal['digest']}")
        print(f"  {escape_controls(journal['text'])}")
        if journal["problem"] is not None:
            print(f"  {journal['problem']}")


async def _ledger_or_failure(nodes: Nodes, name: str) -> list[Entry] | NodeFailed:
    try:
        return await nodes.ledger(name)
    except NodeFailed as error:
        return error


def journal_of(entries: Iterable[Entry]) -> tuple[str, int, str]:
    """(the string, how many were appended, the digest after the last) of a ledger. Pure.

    A malformed entry is no part of it; `chain_break` says whether the ledger is whole.
    """
    texts: list[str] = []
    digest = EMPTY_DIGEST
    for entry in entries:
        try:
            body = decode_entry(entry.body)
        except MalformedEntry:
            continue
        if isinstance(body, AppendEntry):
            texts.append(body.text)
            digest = body.digest
    return "".join(texts), len(texts), digest
