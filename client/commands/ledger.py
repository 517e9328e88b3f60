"""ledger: print a node's ledger, check its hash chain, and who certified it.

The chain shows that nothing before its head was changed; a certificate over a checkpoint shows
that 2f+1 replicas had the same ledger up to there. What comes after the newest checkpoint is one
node's word until the next.
"""

import argparse

from ci.ledger import (
    AppendEntry,
    ApproveEntry,
    CancelEntry,
    LateBallotEntry,
    LimitsEntry,
    MalformedEntry,
    MembersEntry,
    NoteEntry,
    SupersededEntry,
    VerdictEntry,
    by_whom,
    decode_entry,
    genesis_head,
    verify_chain,
)
from ci.ledger_proof import LedgerProof, check_ledger_proof
from ci.statement import InvalidStatement, parse_statement
from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_replicas, nodes_flags
from client.network.ledger_check import read_ledger_proof
from client.network.nodes import NodeFailed, Nodes, NotThere
from common.configuration.keys import verify
from common.english import counted
from common.safe_text import escape_controls, log_text
from pbft.codec import MalformedMessage
from pbft.genesis import Cluster
from pbft.ports import Entry, Refusal


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser("ledger", parents=[common])
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check its chain and certificate, and print only the result",
    )
    parser.add_argument(
        "--node", metavar="NAME", help="the node to ask (default: the first that answers)"
    )
    nodes_flags(parser)
    parser.set_defaults(run=lambda options: run(_ledger(options)))


async def _ledger(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    if options.node is not None and options.node not in replicas:
        names = ", ".join(replicas)
        raise CommandFailed(
            f"--node: no {options.node!r} in the cluster; there are {names}", EXIT_WRONG
        )
    async with Nodes(replicas) as nodes:
        wanted = (str(options.node),) if options.node else nodes.names
        proof = None
        if options.verify:
            name, proof, entries = await _first_with_proof(nodes, wanted)
        else:
            name, entries = await first_ledger(nodes, wanted)
    reason = chain_break(entries, cluster)
    if not options.verify:
        for entry in entries:
            print(f"{entry.index:6}  {entry.head.hex()[:12]}  {_line(entry)}")
    head = entries[-1].head if entries else genesis_head(cluster.lineage)
    there_are = counted(len(entries), "entry", "entries")
    if reason is not None:
        print(f"{name}: the chain of {there_are} is BROKEN: {reason}")
        return EXIT_NOT_PASSED
    print(f"{name}: the chain of {there_are} holds, head {head.hex()}")
    return report_proof(name, proof, entries, cluster=cluster) if options.verify else EXIT_DONE


async def first_ledger(nodes: Nodes, names: tuple[str, ...]) -> tuple[str, list[Entry]]:
    """The ledger of the first of these nodes that gives it. Raises CommandFailed."""
    failures = []
    for name in names:
        try:
            return name, await nodes.ledger(name)
        except NodeFailed as error:
            failures.append(str(error))
    raise CommandFailed(_nobody(names, "its ledger", failures))


def chain_break(entries: list[Entry], cluster: Cluster) -> str | None:
    """Where and why a whole ledger's chain does not hold; None: it holds. Pure."""
    broken = verify_chain(entries, genesis_head(cluster.lineage))
    return None if broken is None else f"at entry {broken.index}: {broken.reason}"


async def _first_with_proof(
    nodes: Nodes, names: tuple[str, ...]
) -> tuple[str, LedgerProof | None, list[Entry]]:
    """The first node that gives its ledger and its proof; None where it has no proof yet.

    Raises CommandFailed.
    """
    failures = []
    for name in names:
        try:
            # before the entries: so they reach as far as the checkpoint
            proof = await _proof(nodes, name)
            return name, proof, await nodes.ledger(name)
        except NodeFailed as error:
            failures.append(log_text(str(error)))
        except MalformedMessage as error:
            failures.append(f"{name}: {log_text(str(error))}")
    raise CommandFailed(_nobody(names, "its ledger with its proof", failures))


async def _proof(nodes: Nodes, name: str) -> LedgerProof | None:
    """None: no checkpoint is stable there yet. Raises NodeFailed, MalformedMessage."""
    try:
        return read_ledger_proof(await nodes.ledger_proof(name))
    except NotThere:
        return None


def _nobody(names: tuple[str, ...], what: str, failures: list[str]) -> str:
    if len(names) == 1:
        return failures[0]  # it names the node; the others were not asked
    return f"no node gave {what}: {'; '.join(failures)}"


def report_proof(
    name: str, proof: LedgerProof | None, entries: list[Entry], *, cluster: Cluster
) -> int:
    """Check a proof against a whole ledger whose chain holds, and print it; the exit code."""
    if proof is None:
        print(f"{name}: not certified: no checkpoint is stable yet")
        return EXIT_DONE
    proved = check_ledger_proof(proof, cluster, verify)
    if isinstance(proved, Refusal):
        print(f"{name}: the certificate proves nothing: {log_text(proved.reason)}")
        return EXIT_NOT_PASSED
    heads = [genesis_head(cluster.lineage), *(entry.head for entry in entries)]
    if proved.index >= len(heads):
        print(f"{name}: entry {proved.index} is certified, and the last one here is {len(entries)}")
        return EXIT_NOT_PASSED
    if heads[proved.index] != proved.head:
        print(f"{name}: another head is certified for entry {proved.index}: this ledger is FALSE")
        return EXIT_NOT_PASSED
    later = counted(len(entries) - proved.index, "entry", "entries")
    print(
        f"{name}: certified up to entry {proved.index} by {', '.join(proved.replicas)}"
        f" (checkpoint {proved.sequence}); {later} came later"
    )
    return EXIT_DONE


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
            return f"cancel       {body.build[:12]}  by {_by(body.client, body.person)}"
        case ApproveEntry():
            return f"approve      {body.build[:12]}  by {_by(body.client, body.person)}"
        case NoteEntry():
            by = _by(body.client, body.person)
            return f"note         {body.build[:12]}  by {by}: {escape_controls(body.text)}"
        case LimitsEntry():
            by = ", ".join(log_text(approval.operator) for approval in body.approvals)
            return f"limits       {body.serial:12}  after sequence number {body.since}, by {by}"
        case MembersEntry():
            by = ", ".join(log_text(approval.operator) for approval in body.approvals)
            names = ", ".join(log_text(member.name) for member in body.replicas)
            return f"members      {body.epoch:12}  {names}, by {by}"
        case SupersededEntry():
            return f"superseded   {body.build[:12]}  by the next epoch"
        case AppendEntry():
            return f"append       {body.length:12}  {escape_controls(body.text)}"


def _by(client: str, person: str | None) -> str:
    return log_text(by_whom(client, person), 300)


def _verdict_line(body: VerdictEntry) -> str:
    try:
        verdict = parse_statement(bytes(body.statement)).verdict
    except InvalidStatement as error:
        return f"malformed statement: {log_text(str(error))}"
    code = "" if verdict.exit_code is None else f" {verdict.exit_code}"
    branch = log_text(verdict.branch)
    asked = "".join(
        f"  asked for by {_by(asker.client, asker.person)}" for asker in body.askers if asker.person
    )
    agreeing = ", ".join(verdict.agreeing) or "-"
    return f"{verdict.outcome}{code}  {branch}  agreeing: {agreeing}{asked}"
