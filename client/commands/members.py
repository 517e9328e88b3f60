"""members: how operators change who the members are: propose, approve, pending, withdraw."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci.limits import Limits
from ci.member_changes import (
    MembersProposal,
    configuration_of,
    ready_refusal,
    successor_refusal,
    who_keeps_ledger,
)
from ci.operations import (
    CONFIGURATION_BYTES_MAX,
    ApproveMembers,
    ProposeMembers,
    WithdrawMembers,
)
from ci.seats import seats_of, seats_with_operators
from client.commands.gateway_client import run
from client.commands.limits import UNTIL_AFTER
from client.commands.operator_request import (
    Operator,
    OperatorAnswer,
    ask_whether,
    operator_flags,
    operator_of,
    order,
)
from client.commands.outcome import EXIT_DONE, EXIT_NO_ANSWER, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_replicas, nodes_flags
from client.network.nodes import NodeFailed, Nodes, NotThere
from client.network.served_members import (
    ServedMembers,
    ServedMembersProposal,
    pending_proposals,
)
from common.configuration.config import load_cluster_config
from common.configuration.keys import public_key_text, verify
from common.english import counted
from common.membership.confirmation import read_cluster
from common.membership.ready import read_ready
from common.safe_text import escape_controls
from common.web.peers import Peers
from pbft.genesis import Cluster, InvalidGenesis, Member, is_vacant
from pbft.quorums import UnsupportedSize

# What a configuration has beside members and limits.
_RULES = ("protocol", "checkpoint_interval", "window", "client_window")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    members = commands.add_parser("members", parents=[common])
    actions = members.add_subparsers(dest="action", required=True, metavar="ACTION")
    pending = actions.add_parser(
        "pending", parents=[common], help="show the changes that operators proposed"
    )
    propose = actions.add_parser(
        "propose",
        parents=[common],
        help="propose the next members, which approves them for the own replicas",
        description="Propose the members of the next epoch. Once operators of 2f+1 replicas have"
        " approved, this epoch ends, and each node begins the next one with the next members.",
    )
    propose.add_argument("next", type=Path, metavar="NEXT.yml", help="the next members")
    propose.add_argument(
        "--ready",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="what `pbft-ci-node ready` wrote: of each new key, and of 2f+1 replicas in all",
    )
    propose.add_argument(
        "--until",
        type=int,
        metavar="SEQUENCE",
        help="the last sequence number at which it can be approved"
        f" (default: {UNTIL_AFTER} after the one of now)",
    )
    approve = actions.add_parser(
        "approve", parents=[common], help="approve proposed members for the own replicas"
    )
    approve.add_argument(
        "next", type=Path, metavar="NEXT.yml", help="the next members, from somebody you trust"
    )
    withdraw = actions.add_parser(
        "withdraw", parents=[common], help="withdraw the own proposal, or the own approval"
    )
    for parser in (approve, withdraw):
        parser.add_argument(
            "proposal",
            nargs="?",
            metavar="DIGEST",
            help="the proposal's digest, or the beginning of it (default: the only one)",
        )
    for parser in (propose, approve):
        parser.add_argument("--yes", action="store_true", help="do it without asking")
    for parser in (propose, approve, withdraw):
        operator_flags(parser)
    nodes_flags(pending)
    actions_run = (
        (pending, _pending),
        (propose, _propose),
        (approve, _approve),
        (withdraw, _withdraw),
    )
    for parser, action in actions_run:
        parser.set_defaults(run=lambda options, action=action: run(action(options)))


async def _pending(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    answers = _answers(await _ask_all(replicas))
    if not answers:
        raise CommandFailed("no replica answers", EXIT_NO_ANSWER)
    for name, answer in answers.items():
        if answer.last is not None:
            state = "has ended" if answer.is_sealed else "ends"
            print(
                f"{name}: epoch {answer.epoch} {state} at {answer.last}"
                f" (now {answer.sequence}); next: {answer.configuration}"
            )
    proposals = pending_proposals(cluster, answers)
    for proposal, known in proposals:
        _print_proposal(cluster, proposal, known)
        following = _configuration(proposal)
        if following is not None:
            _print_changes(cluster, following)
    if not proposals and all(answer.last is None for answer in answers.values()):
        print("no change of members is proposed")
    return EXIT_DONE


async def _propose(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    cluster = operator.cluster
    following = _next(cluster, options.next)
    readies = tuple(read_ready(file) for file in options.ready)
    if reason := ready_refusal(cluster, following, readies, verify=verify):
        raise CommandFailed(reason, EXIT_WRONG)
    strong = cluster.quorums.strong
    if len(seats_with_operators(cluster)) < strong:
        raise CommandFailed(
            f"fewer than {strong} replicas have an operator in the cluster file, so its members"
            " cannot change",
            EXIT_WRONG,
        )
    answers = await _ask_before_signing(operator)
    now = max(answer.sequence for answer in answers.values())
    until = now + UNTIL_AFTER if options.until is None else options.until
    if until <= now:
        raise CommandFailed(f"--until {until}: the sequence number is {now} already", EXIT_WRONG)
    _print_changes(cluster, following)
    print(f"it can be approved up to sequence number {until}")
    ask_whether(options, "propose it?", "not proposed")
    answer = await order(operator, ProposeMembers(until, following.encoded, readies))
    print(f"proposed by {operator.name}: {answer.subject.hex()}")
    _print_progress(answer)
    return EXIT_DONE


async def _approve(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    following = _next(operator.cluster, options.next)
    answers = await _ask_before_signing(operator)
    found = [
        (proposal, known)
        for proposal, known in pending_proposals(operator.cluster, answers)
        if proposal.encoded == following.encoded
    ]
    proposal, known = _one_of(found, options.proposal, "has these members")
    _print_proposal(operator.cluster, proposal, known)
    _print_changes(operator.cluster, following)
    ask_whether(options, "approve it?", "not approved")
    # computed from the own file: a node that shows something else gets no approval of it
    own = MembersProposal(proposal.proposer, proposal.until, following.encoded, ())
    answer = await order(operator, ApproveMembers(own.digest(operator.cluster.id)))
    print(f"approved by {operator.name}: {proposal.digest}")
    _print_progress(answer)
    return EXIT_DONE


async def _withdraw(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    answers = _answers(await _ask_all(operator.replicas))
    found = [
        (proposal, known)
        for proposal, known in pending_proposals(operator.cluster, answers)
        if operator.name in (proposal.proposer, *proposal.approvals)
    ]
    proposal, _ = _one_of(found, options.proposal, f"is one that {operator.name} approved")
    await order(operator, WithdrawMembers(bytes.fromhex(proposal.digest)))
    what = "the proposal" if proposal.proposer == operator.name else "its approval of"
    print(f"{operator.name} withdrew {what} {proposal.digest}")
    return EXIT_DONE


def _next(cluster: Cluster, file: Path) -> Cluster:
    """The next members in a file, held against the rules. Raises ConfigError, CommandFailed."""
    if load_cluster_config(file).ancestry is not None:
        raise CommandFailed(
            f"{file}: it has an ancestry, which `succeed` writes; leave it out", EXIT_WRONG
        )
    config, following = read_cluster(file)
    if len(following.encoded) > CONFIGURATION_BYTES_MAX:
        raise CommandFailed(
            f"{file}: {len(following.encoded)} bytes encoded; at most {CONFIGURATION_BYTES_MAX}",
            EXIT_WRONG,
        )
    limits = config.limits_as(Limits)
    if reason := successor_refusal(cluster, limits, following):
        raise CommandFailed(f"{file}: {reason}", EXIT_WRONG)
    return following


async def _ask_all(replicas: Peers) -> dict[str, ServedMembers | NodeFailed]:
    async with Nodes(replicas) as nodes:
        answers = await asyncio.gather(
            *(nodes.members(name) for name in nodes.names), return_exceptions=True
        )
    said: dict[str, ServedMembers | NodeFailed] = {}
    for name, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, BaseException) and not isinstance(answer, NodeFailed):
            raise answer
        said[name] = answer
    return said


async def _ask_before_signing(operator: Operator) -> dict[str, ServedMembers]:
    """What each replica says. Raises CommandFailed if one does not know the operation, or too few
    answer.

    One that does not know it would refuse what the others execute, and come to another state.
    """
    said = await _ask_all(operator.replicas)
    older = [name for name, answer in said.items() if isinstance(answer, NotThere)]
    if older:
        raise CommandFailed(
            f"{', '.join(older)}: runs a version that knows no changes of members, and would come"
            " to another state; upgrade it first",
            EXIT_NO_ANSWER,
        )
    for answer in said.values():
        if isinstance(answer, NodeFailed):
            print(f"warning: {answer}", file=sys.stderr)
    answers = _answers(said)
    strong = operator.cluster.quorums.strong
    if len(answers) < strong:
        raise CommandFailed(
            f"{len(answers)} of {counted(len(said), 'replica')} answer, {strong} are needed",
            EXIT_NO_ANSWER,
        )
    return answers


def _answers(said: Mapping[str, ServedMembers | NodeFailed]) -> dict[str, ServedMembers]:
    return {name: answer for name, answer in said.items() if isinstance(answer, ServedMembers)}


def _one_of(
    found: Sequence[tuple[ServedMembersProposal, tuple[str, ...]]],
    beginning: str | None,
    what: str,
) -> tuple[ServedMembersProposal, tuple[str, ...]]:
    """The pending proposal that is meant. Raises CommandFailed."""
    begins = (beginning or "").lower()
    meant = [(proposal, known) for proposal, known in found if proposal.digest.startswith(begins)]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise CommandFailed(f"no pending proposal {what}: members pending shows all", EXIT_WRONG)
    raise CommandFailed(
        f"{counted(len(meant), 'proposal')} {what}: name more of its digest", EXIT_WRONG
    )


def _configuration(proposal: ServedMembersProposal) -> Cluster | None:
    try:
        return configuration_of(proposal.encoded)
    except (InvalidGenesis, UnsupportedSize):
        return None


def _print_proposal(
    cluster: Cluster, proposal: ServedMembersProposal, known: Sequence[str]
) -> None:
    approved = seats_of(cluster, proposal.approvals)
    print(f"members proposed by {escape_controls(proposal.proposer)}")
    print(f"  digest    {proposal.digest}")
    print(f"  until     sequence number {proposal.until}")
    print(
        f"  approved  by {', '.join(map(escape_controls, proposal.approvals)) or 'nobody'}, for"
        f" {len(approved)} of the {counted(cluster.quorums.strong, 'replica')} needed"
    )
    print(f"  known to  {', '.join(known)}")


def _print_changes(cluster: Cluster, following: Cluster) -> None:
    """Who comes, goes, or has another key or other roles; how many may fail; other rules."""
    before = {m.name: m for m in (*cluster.genesis.replicas, *cluster.genesis.clients)}
    after = {m.name: m for m in (*following.genesis.replicas, *following.genesis.clients)}
    rows = [
        (what, name, _shown(after.get(name) or before[name]))
        for name in dict.fromkeys((*before, *after))
        if (what := _what(before.get(name), after.get(name))) is not None
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    for what, name, shown in rows:
        print(f"  {what:{widths[0]}}  {escape_controls(name):{widths[1]}}  {shown}")
    stay = len(set(before) & set(after)) - sum(
        name in before and name in after for _, name, _ in rows
    )
    print(f"  ({counted(stay, 'other member')} as before)")
    old, new = cluster.quorums, following.quorums
    print(
        f"  {counted(old.replicas, 'replica')} of which {old.faults_max} may fail ->"
        f" {counted(new.replicas, 'replica')} of which {new.faults_max} may fail"
    )
    for rule in _RULES:
        was, becomes = getattr(cluster.genesis, rule), getattr(following.genesis, rule)
        if was != becomes:
            print(f"  {rule} {was} -> {becomes}")
    if not who_keeps_ledger(cluster, following):
        print(
            "  warning: no replica stays, so nobody in the next epoch has the ledger, and none can"
            " be given it later: keep one replica for one more change, or save what `pbft-ci"
            " ledger` and `attest` print first"
        )
    if len(seats_with_operators(following)) < new.strong:
        print(
            f"  warning: fewer than {new.strong} of the next replicas have an operator: members"
            " and limits could never be changed again",
        )
    sys.stdout.flush()


def _what(before: Member | None, after: Member | None) -> str | None:
    if before is None:
        return "comes"
    if after is None:
        return "goes"
    if before.public_key != after.public_key:
        return "becomes vacant" if is_vacant(after) else "has another key"
    return None if before.roles == after.roles else "has other roles"


def _shown(member: Member) -> str:
    key = "vacant" if is_vacant(member) else public_key_text(member.public_key)
    return f"{', '.join(member.roles)}  {key}"


def _print_progress(answer: OperatorAnswer) -> None:
    progress = json.loads(answer.result)
    if progress["changed"]:
        print(
            "the change is made: this epoch ends within a window of sequence numbers; `members"
            " pending` shows when. Who approved puts NEXT.yml on the node as cluster.next.yml,"
            " and the node goes over by itself"
        )
        return
    print(
        f"approved for {progress['approved']} of the {counted(progress['needed'], 'replica')}"
        " needed; other operators approve it with: members approve NEXT.yml"
    )
