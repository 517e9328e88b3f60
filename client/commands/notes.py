"""note: what people have to say about a build. audit: who changed what through the gateway."""

import argparse
from pathlib import Path

import msgspec

from ci.operations import NOTE_CHARACTERS_MAX, AddNote, NoteText
from client.commands.changes import order_about_build
from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_WRONG, CommandFailed
from client.commands.targets import (
    Commands,
    cluster_flag,
    gateway_flags,
    gateway_to_change,
    gateway_to_read,
)
from common.configuration.passphrase import passphrase_flag
from common.safe_text import escape_controls

EVENTS = 50
EVENTS_MAX = 20_000


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this module."""
    note = commands.add_parser(
        "note", parents=[common], help="write a signed note on a build, or print its notes"
    )
    note.add_argument("build", metavar="BUILD", help="the build's id, or the beginning of it")
    note.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help=f"up to {NOTE_CHARACTERS_MAX} characters (default: print notes and changes)",
    )
    gateway_flags(note)
    note.add_argument(
        "--operator-key",
        type=Path,
        metavar="FILE",
        help="sign with this operator's private key, and ask the replicas without a gateway",
    )
    passphrase_flag(note)
    cluster_flag(note)
    note.set_defaults(run=lambda options: run(_note(options)))
    audit = commands.add_parser(
        "audit", parents=[common], help="print who changed what through the gateway"
    )
    audit.add_argument(
        "--limit", type=int, default=EVENTS, metavar="N", help=f"default: the newest {EVENTS}"
    )
    gateway_flags(audit)
    audit.set_defaults(run=lambda options: run(_audit(options)))


async def _note(options: argparse.Namespace) -> int:
    if options.text is None:
        return await _print_notes(options)
    try:
        text = msgspec.convert(options.text, NoteText)
    except msgspec.ValidationError as error:
        raise CommandFailed(
            f"a note is plain text of 1 to {NOTE_CHARACTERS_MAX} characters, without controls",
            EXIT_WRONG,
        ) from error
    if options.operator_key is not None:
        return await order_about_build(options, lambda build: AddNote(build, text))
    async with gateway_to_change(options) as gateway:
        answer = await gateway.note(await gateway.full_id(options.build), text)
    print(answer["detail"])
    return EXIT_DONE


async def _print_notes(options: argparse.Namespace) -> int:
    async with gateway_to_read(options) as gateway:
        found = await gateway.notes(await gateway.full_id(options.build))
    for told in found["changes"]:
        said = f"{told['person']}, says {told['client']}" if told["person"] else told["client"]
        text = f": {escape_controls(told['text'])}" if told["text"] else ""
        index = told["ledger_index"]
        print(f"{index:6}  {told['kind']:8} by {escape_controls(said)}{text}")
    for waiting in found["waiting"]:
        who = waiting["person"] or "the gateway"
        print(f"     -  note     by {escape_controls(who)}: {escape_controls(waiting['text'])}")
    return EXIT_DONE


async def _audit(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= EVENTS_MAX:
        raise CommandFailed(f"--limit is a number from 1 to {EVENTS_MAX}", EXIT_WRONG)
    async with gateway_to_read(options) as gateway:
        events = await gateway.audit(options.limit)
    for event in events:
        build = (event["build"] or "-")[:12]
        who = f"{event['who']} ({event['vouched']})"
        text = f"  {escape_controls(event['text'])}" if event["text"] else ""
        print(f"{event['at']}  {event['what']:12}  {build:12}  {escape_controls(who)}{text}")
    return EXIT_DONE
