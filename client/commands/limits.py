"""limits: what holds, and how operators change it: propose, approve, pending, withdraw."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ci.admission import room_refusal
from ci.limits import Limits, encode_limits, shown_limits
from ci.operations import ApproveLimits, ProposeLimits, WithdrawLimits
from ci.seats import seats_of, seats_with_operators
from client.commands.gateway_client import run
from client.commands.operator_request import (
    Operator,
    OperatorAnswer,
    ask_whether,
    operator_flags,
    operator_of,
    order,
)
from client.commands.outcome import (
    EXIT_DONE,
    EXIT_NO_ANSWER,
    EXIT_WRONG,
    CommandFailed,
)
from client.commands.targets import (
    Commands,
    cluster_and_replicas,
    json_flag,
    nodes_flags,
)
from client.network.nodes import NodeFailed, Nodes, NotThere
from client.network.served_limits import AgreedLimits, ServedLimits, ServedProposal, agree
from common.configuration.config import ConfigError
from common.configuration.config_reader import read_struct
from common.english import counted
from common.safe_text import escape_controls
from common.web.peers import Peers
from common.yaml_text import YamlError, load_yaml
from pbft.genesis import Cluster

# How many sequence numbers a proposal can be approved for, if nothing else is asked for.
UNTIL_AFTER = 100_000
FILE_BYTES_MAX = 256 * 1024
DIGEST_CHARACTERS = 64
_COMMAND_LINE = Path("the command line")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    limits = commands.add_parser("limits", parents=[common])
    actions = limits.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", parents=[common], help="show the limits that hold")
    json_flag(show)
    pending = actions.add_parser(
        "pending", parents=[common], help="show the changes that operators proposed"
    )
    propose = actions.add_parser(
        "propose",
        parents=[common],
        help="propose other limits, which approves them for the own replicas",
        description="Propose limits. They hold once operators of 2f+1 replicas have approved, for"
        " builds that open after that. A newer proposal of the same operator replaces this one.",
    )
    propose.add_argument(
        "changes",
        nargs="+",
        metavar="KEY=VALUE|FILE",
        help="a limit to change, or a YAML file of such limits; all others stay",
    )
    propose.add_argument(
        "--until",
        type=int,
        metavar="SEQUENCE",
        help="the last sequence number at which it can be approved"
        f" (default: {UNTIL_AFTER} after the one of now)",
    )
    approve = actions.add_parser(
        "approve", parents=[common], help="approve a proposal for the own replicas"
    )
    withdraw = actions.add_parser(
        "withdraw", parents=[common], help="withdraw the own proposal, or the own approval"
    )
    for parser in (approve, withdraw):
        parser.add_argument(
            "proposal",
            nargs="?",
            metavar="DIGEST",
            help="the proposal's digest, or the beginning of it (default: the only one pending)",
        )
    for parser in (propose, approve):
        parser.add_argument("--yes", action="store_true", help="do it without asking")
    for parser in (propose, approve, withdraw):
        operator_flags(parser)
    for parser in (show, pending):
        nodes_flags(parser)
    actions_run = (
        (show, _show),
        (pending, _pending),
        (propose, _propose),
        (approve, _approve),
        (withdraw, _withdraw),
    )
    for parser, action in actions_run:
        parser.set_defaults(run=lambda options, action=action: run(action(options)))


async def _show(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    agreed = _agreed(cluster, await _ask_all(replicas))
    if options.json:
        shown = {
            "serial": agreed.serial,
            "limits": msgspec.to_builtins(agreed.limits),
            "replicas": list(agreed.replicas),
            "proposals": len(agreed.pending),
        }
        print(json.dumps(shown))
        return EXIT_DONE
    said = f"according to {', '.join(agreed.replicas)}"
    if agreed.serial:
        print(f"limits of change {agreed.serial}, for builds opened after {agreed.since}, {said}:")
    else:
        print(f"limits of the genesis, {said}:")
    for name, value in msgspec.to_builtins(agreed.limits).items():
        print(f"  {name}: {json.dumps(value)}")
    if agreed.pending:
        print(f"{counted(len(agreed.pending), 'change')} proposed: limits pending")
    return EXIT_DONE


async def _pending(options: argparse.Namespace) -> int:
    cluster, replicas = cluster_and_replicas(options)
    agreed = _agreed(cluster, await _ask_all(replicas))
    if not agreed.pending:
        print("no change of limits is proposed")
    for proposal in agreed.pending:
        _print_proposal(cluster, agreed, proposal)
    return EXIT_DONE


async def _propose(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    cluster = operator.cluster
    said = await _ask_before_signing(operator)
    agreed = _agreed(cluster, said)
    limits = _changed(agreed.limits, options.changes)
    _check_known(said, limits)
    if limits == agreed.limits:
        raise CommandFailed("these are the limits that hold already", EXIT_WRONG)
    if reason := room_refusal(cluster, limits):
        raise CommandFailed(reason, EXIT_WRONG)
    strong = cluster.quorums.strong
    if len(seats_with_operators(cluster)) < strong:
        raise CommandFailed(
            f"fewer than {strong} replicas have an operator in the cluster file, so its limits"
            " cannot change: `operates` names them in a new cluster",
            EXIT_WRONG,
        )
    until = agreed.sequence + UNTIL_AFTER if options.until is None else options.until
    if until <= agreed.sequence:
        raise CommandFailed(
            f"--until {until}: the sequence number is {agreed.sequence} already", EXIT_WRONG
        )
    _print_table(agreed.limits, limits)
    print(f"change {agreed.serial + 1}; it can be approved up to sequence number {until}")
    ask_whether(options, "propose it?", "not proposed")
    operation = ProposeLimits(agreed.serial + 1, until, encode_limits(limits))
    answer = await order(operator, operation)
    print(f"proposed by {operator.name}: {answer.subject.hex()}")
    _print_progress(answer, agreed.serial + 1)
    return EXIT_DONE


async def _approve(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    said = await _ask_before_signing(operator)
    agreed = _agreed(operator.cluster, said)
    proposal = _find(agreed, options.proposal)
    _check_known(said, proposal.limits)
    _print_proposal(operator.cluster, agreed, proposal)
    ask_whether(options, "approve it?", "not approved")
    answer = await order(operator, ApproveLimits(bytes.fromhex(proposal.digest)))
    print(f"approved by {operator.name}: {proposal.digest}")
    _print_progress(answer, proposal.serial)
    return EXIT_DONE


async def _withdraw(options: argparse.Namespace) -> int:
    operator = operator_of(options)
    agreed = _agreed(operator.cluster, await _ask_all(operator.replicas))
    proposal = _find(agreed, options.proposal)
    await order(operator, WithdrawLimits(bytes.fromhex(proposal.digest)))
    what = "the proposal" if proposal.proposer == operator.name else "its approval of"
    print(f"{operator.name} withdrew {what} {proposal.digest}")
    return EXIT_DONE


async def _ask_all(replicas: Peers) -> dict[str, ServedLimits | NodeFailed]:
    async with Nodes(replicas) as nodes:
        answers = await asyncio.gather(
            *(nodes.limits(name) for name in nodes.names), return_exceptions=True
        )
    said: dict[str, ServedLimits | NodeFailed] = {}
    for name, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, BaseException) and not isinstance(answer, NodeFailed):
            raise answer
        said[name] = answer
    return said


async def _ask_before_signing(operator: Operator) -> dict[str, ServedLimits | NodeFailed]:
    """What each replica says. Raises CommandFailed if one does not know the operation.

    It would refuse what the others execute, and come to another state.
    """
    said = await _ask_all(operator.replicas)
    older = [name for name, answer in said.items() if isinstance(answer, NotThere)]
    if older:
        raise CommandFailed(
            f"{', '.join(older)}: runs a version that knows no changes of limits, and would come to"
            " another state; upgrade it first",
            EXIT_NO_ANSWER,
        )
    for answer in said.values():
        if isinstance(answer, NodeFailed):
            print(
                f"warning: {answer}; if it runs a version that knows no changes of limits, it will"
                " diverge",
                file=sys.stderr,
            )
    return said


def _check_known(said: dict[str, ServedLimits | NodeFailed], limits: Limits) -> None:
    """Raises CommandFailed if a replica does not know a limit that these have."""
    if "cells_max" not in shown_limits(limits):
        return
    older = [
        name
        for name, answer in said.items()
        if isinstance(answer, ServedLimits) and "cells_max" not in answer.known
    ]
    if older:
        raise CommandFailed(
            f"{', '.join(older)}: runs a version that does not know cells_max, and would come to"
            " another state; upgrade it first",
            EXIT_NO_ANSWER,
        )


def _agreed(cluster: Cluster, said: dict[str, ServedLimits | NodeFailed]) -> AgreedLimits:
    answers = {name: s for name, s in said.items() if isinstance(s, ServedLimits)}
    agreed = agree(cluster, answers)
    if agreed is None:
        failed = "; ".join(
            str(answer) for answer in said.values() if isinstance(answer, NodeFailed)
        )
        raise CommandFailed(
            f"fewer than {cluster.quorums.weak} replicas report the same limits"
            + (f": {failed}" if failed else "")
        )
    return agreed


def _find(agreed: AgreedLimits, beginning: str | None) -> ServedProposal:
    """The pending proposal that is meant. Raises CommandFailed."""
    begins = (beginning or "").lower()
    found = [proposal for proposal in agreed.pending if proposal.digest.startswith(begins)]
    if len(found) == 1:
        return found[0]
    what = f"begins with {escape_controls(begins)}" if begins else "is pending"
    if not found:
        raise CommandFailed(f"no proposed change {what}: limits pending shows them", EXIT_WRONG)
    raise CommandFailed(
        f"{counted(len(found), 'proposed change')} {what}: name more of its digest", EXIT_WRONG
    )


def _changed(held: Limits, changes: Sequence[str]) -> Limits:
    """These limits with the changes in them. Raises ConfigError."""
    fields: dict[str, object] = msgspec.structs.asdict(held)
    place = _COMMAND_LINE
    for change in changes:
        key, mark, value = change.partition("=")
        if mark:
            place = _COMMAND_LINE
            fields |= _read_yaml(f"{key}: {value}".encode(), place)
        else:
            place = Path(change)
            fields |= _read_yaml(_read_file(place), place)
    return read_struct(Limits, fields, place, key="limits")


def _read_yaml(data: bytes, place: Path) -> dict[str, object]:
    try:
        value, _ = load_yaml(data)
    except YamlError as error:
        raise ConfigError(f"{place}: is not YAML: {error}; KEY: VALUE is needed") from error
    if isinstance(value, dict) and isinstance(value.get("limits"), dict):
        value = value["limits"]
    if not isinstance(value, dict):
        raise ConfigError.at(place, "", "holds no limits", "a mapping from limits to values")
    return value


def _read_file(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError.at(
            file, "", f"cannot be read ({error.strerror})", "KEY=VALUE or a file is needed"
        ) from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError.at(file, "", f"has more than {FILE_BYTES_MAX} bytes", "a shorter one")
    return data


def _print_proposal(cluster: Cluster, agreed: AgreedLimits, proposal: ServedProposal) -> None:
    approved = seats_of(cluster, proposal.approvals)
    print(f"change {proposal.serial}, proposed by {escape_controls(proposal.proposer)}")
    print(f"  digest    {proposal.digest}")
    print(f"  until     sequence number {proposal.until} (now {agreed.sequence})")
    print(
        f"  approved  by {', '.join(map(escape_controls, proposal.approvals)) or 'nobody'}, for"
        f" {len(approved)} of the {counted(cluster.quorums.strong, 'replica')} needed"
    )
    _print_table(agreed.limits, proposal.limits)
    sys.stdout.flush()


def _print_table(held: Limits, proposed: Limits) -> None:
    before, after = msgspec.structs.asdict(held), msgspec.structs.asdict(proposed)
    rows = [
        (name, json.dumps(before[name]), json.dumps(after[name]))
        for name in before
        if before[name] != after[name]
    ]
    rows.insert(0, ("limit", "now", "proposed"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, now, then in rows:
        print(f"  {name:{widths[0]}}  {now:{widths[1]}}  {then}")
    print(f"  ({len(before) - len(rows) + 1} others stay as they are)")


def _print_progress(answer: OperatorAnswer, serial: int) -> None:
    progress = json.loads(answer.result)
    if progress["changed"]:
        print(f"change {serial} is made: it holds for builds that open from now on")
        return
    print(
        f"approved for {progress['approved']} of the {counted(progress['needed'], 'replica')}"
        f" needed; other operators approve it with: limits approve {answer.subject.hex()[:12]}"
    )
