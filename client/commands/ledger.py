"""ledger: print a node's ledger, and check its hash chain."""

import argparse

from ci.ledger import (
    AppendEntry,
    ApproveEntry,
    CancelEntry,
    LateBallotEntry,
    MalformedEntry,
    VerdictEntry,
    decode_entry,
    genesis_head,
    verify_chain,
)
from ci.statement import InvalidStatement, parse_statement
from client.commands.gateway_api import run
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_addresses, cluster_flag
from client.nodes import NodeFailed, Nodes
from common.logs import escape_controls, log_text
from pbft.genesis import Cluster
from pbft.ports import Entry


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser("ledger", parents=[common], help="print a node's ledger")
    parser.add_argument("--verify", action="store_true", help="print only whether its chain holds")
    parser.add_argument("--node", metavar="NAME", help="default: the first that answers")
    cluster_flag(parser)
    parser.set_defaults(run=lambda options: run(_ledger(options)))


async def _ledger(options: argparse.Namespace) -> int:
    cluster, addresses = cluster_and_addresses(options)
    if options.node is not None and options.node not in addresses:
        names = ", ".join(addresses)
        raise CommandFailed(
            f"--node: no {options.node!r} in the cluster; there are {names}", EXIT_WRONG
        )
    async with Nodes(addresses) as nodes:
        wanted = (str(options.node),) if options.node else nodes.names
        name, entries = await first_ledger(nodes, wanted)
    reason = chain_break(entries, cluster)
    if not options.verify:
        for entry in entries:
            print(f"{entry.index:6}  {entry.head.hex()[:12]}  {_line(entry)}")
    head = entries[-1].head if entries else genesis_head(cluster.id)
    if reason is not None:
        print(f"{name}: the chain of {len(entries)} entries is BROKEN: {reason}")
        return EXIT_NOT_PASSED
    print(f"{name}: the chain of {len(entries)} entries holds, head {head.hex()}")
    return EXIT_DONE


async def first_ledger(nodes: Nodes, names: tuple[str, ...]) -> tuple[str, list[Entry]]:
    """The ledger of the first of these nodes that gives it. Raises CommandFailed."""
    failures = []
    for name in names:
        try:
            return name, await nodes.ledger(name)
        except NodeFailed as error:
            failures.append(str(error))
    raise CommandFailed("no node gave its ledger: " + "; ".join(failures))


def chain_break(entries: list[Entry], cluster: Cluster) -> str | None:
    """Where and why a whole ledger's chain does not hold; None: it holds. Pure."""
    broken = verify_chain(entries, genesis_head(cluster.id))
    return None if broken is None else f"at entry {broken.index}: {broken.reason}"


def _line(entry: Entry) -> str:
    try:
        body = decode_entry(entry.body)
    except MalformedEntry as error:
        return f"malformed: {log_text(str(error))}"
    match body:
        case VerdictEntry():
            return f"verdict      {body.build[:12]}  {_verdict_line(body)}"
        case LateBallotEntry():
            stance = {True: "agrees", False: "dissents", None: "-"}[body.agrees]
            ballot = body.ballot
            return (
                f"late ballot  {body.build[:12]}  {log_text(ballot.replica)} "
                f"{log_text(ballot.outcome)} ({stance})"
            )
        case CancelEntry():
            return f"cancel       {body.build[:12]}  by {log_text(body.client)}"
        case ApproveEntry():
            return f"approve      {body.build[:12]}  by {log_text(body.client)}"
        case AppendEntry():
            return f"append       {body.length:12}  {escape_controls(body.text)}"


def _verdict_line(body: VerdictEntry) -> str:
    try:
        verdict = parse_statement(bytes(body.statement)).verdict
    except InvalidStatement as error:
        return f"malformed statement: {log_text(str(error))}"
    code = "" if verdict.exit_code is None else f" {verdict.exit_code}"
    branch = log_text(verdict.branch)
    return f"{verdict.outcome}{code}  {branch}  agreeing: {', '.join(verdict.agreeing) or '-'}"
