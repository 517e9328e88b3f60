"""trust: print the keys that scripts/verify_build.py trusts, or renew a file of them by links."""

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from client.commands.gateway_client import run
from client.commands.outcome import EXIT_DONE, EXIT_NO_ANSWER, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_replicas, nodes_flags, read_cluster
from client.commands.trust_file import (
    TRUST_BYTES_MAX,
    TRUST_DAYS,
    InvalidTrust,
    TrustFile,
    read_trust,
    trust_of,
)
from client.network.nodes import Gone, NodeFailed, Nodes, NotThere
from common.english import counted
from common.fingerprint import fingerprint_words
from common.membership.epochs import followed_by
from common.new_file import replace_file
from pbft.epoch_link import LINK_BYTES_MAX
from pbft.genesis import Cluster
from pbft.ports import Refusal

# Changes of members that one run follows: more than a file that is renewed every month meets.
EPOCHS_MAX = 100


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    trust = commands.add_parser(
        "trust",
        parents=[common],
        description="Print the replicas' public keys, for scripts/verify_build.py. With --refresh,"
        " ask all replicas what leads on from a file's epoch, check it, and renew the file.",
    )
    way = trust.add_mutually_exclusive_group()
    way.add_argument(
        "--follow",
        action="append",
        default=[],
        type=Path,
        metavar="LINK",
        help="a file epoch-link, of each epoch after that of the cluster file, in their order: the"
        " keys are those of the last",
    )
    way.add_argument(
        "--refresh",
        type=Path,
        metavar="FILE",
        help="renew this file; the cluster file only says where the replicas are",
    )
    trust.add_argument(
        "--trust-days",
        type=int,
        default=TRUST_DAYS,
        metavar="N",
        help="do not renew a FILE whose date is longer ago (default: %(default)s)",
    )
    nodes_flags(trust)
    trust.set_defaults(run=_trust)


def _trust(options: argparse.Namespace) -> int:
    if options.refresh is not None:
        return run(_refresh(options))
    cluster = read_cluster(options)
    for file in options.follow:
        following = followed_by(cluster, _read(file, LINK_BYTES_MAX))
        if isinstance(following, Refusal):
            raise CommandFailed(
                f"{file}: it does not lead on from epoch {cluster.epoch}: {following.reason}",
                EXIT_WRONG,
            )
        cluster = following
        words = " ".join(fingerprint_words(cluster.id))
        print(f"epoch {cluster.epoch}: {words}", file=sys.stderr)
    print(json.dumps(trust_of(cluster), indent=1))
    return EXIT_DONE


async def _refresh(options: argparse.Namespace) -> int:
    file: Path = options.refresh
    before = _read_trust(file)
    today = datetime.now(UTC).date()
    if before.confirmed is not None and (today - before.confirmed).days > options.trust_days:
        raise CommandFailed(
            f"{file}: its date is more than {options.trust_days} days ago, in which old keys may"
            " have been stolen: compare the newest fingerprint with the operators and make the file"
            " again (trust --cluster FILE), or allow more (--trust-days N)",
            EXIT_WRONG,
        )
    place, replicas = cluster_and_replicas(options)
    clusters: list[Cluster] = []
    async with Nodes(replicas) as nodes:
        present: Cluster | None = before.cluster
        while present is not None:
            present = await _next(nodes, present, answers_needed=place.quorums.weak)
            if present is not None:
                clusters.append(present)
            if len(clusters) > EPOCHS_MAX:
                raise CommandFailed(
                    f"members changed more than {EPOCHS_MAX} times since epoch"
                    f" {before.cluster.epoch}; the file stays: make it again, and compare the"
                    " fingerprint with the operators",
                    EXIT_WRONG,
                )
    after = before.followed_by(tuple(clusters), today)
    replace_file(file, json.dumps(after.encode(), indent=1))
    for what, cluster in (("was", before.cluster), ("is", after.cluster)):
        print(f"{what:4} epoch {cluster.epoch}  {cluster.id.hex()}")
        print(f"     {' '.join(fingerprint_words(cluster.id))}")
    print(f"{file}: renewed on {today}; it goes back to {after.root}")
    return EXIT_DONE


def _read_trust(file: Path) -> TrustFile:
    try:
        return read_trust(_read(file, TRUST_BYTES_MAX))
    except InvalidTrust as error:
        raise CommandFailed(f"{file}: {error}", EXIT_WRONG) from error


def _read(file: Path, bytes_max: int) -> bytes:
    """At most as many bytes as the file may have, and one more, which makes it invalid."""
    try:
        with file.open("rb") as stream:
            return stream.read(bytes_max + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error


async def _next(nodes: Nodes, cluster: Cluster, *, answers_needed: int) -> Cluster | None:
    """The cluster of the next epoch, if a replica proves one; all are asked.

    Raises CommandFailed if two are proved, for then 2f+1 keys of the epoch are in wrong hands, and
    nobody can tell which one is right; or if so few answer that all may be liars; or if none is
    proved and so many are past this epoch that not all may be liars.
    """
    answers = await asyncio.gather(
        *(nodes.link(name, cluster.epoch) for name in nodes.names), return_exceptions=True
    )
    proved: dict[bytes, Cluster] = {}
    answered = lacking = 0
    for name, answer in zip(nodes.names, answers, strict=True):
        if isinstance(answer, NotThere):
            answered += 1
        elif isinstance(answer, Gone):
            lacking += 1
        elif isinstance(answer, NodeFailed):
            print(f"warning: {answer}", file=sys.stderr)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found = followed_by(cluster, answer)
            if isinstance(found, Refusal):
                print(f"warning: {name}: its link is refused: {found.reason}", file=sys.stderr)
            else:
                answered += 1
                proved[found.id] = found
    if len(proved) > 1:
        ids = " and ".join(sorted(fingerprint.hex() for fingerprint in proved))
        raise CommandFailed(
            f"epoch {cluster.epoch + 1} is proved twice, as {ids}: neither is followed, and the"
            " file stays; ask the operators which one they confirmed",
            EXIT_WRONG,
        )
    if proved:
        answered += lacking
    elif lacking >= answers_needed:
        raise CommandFailed(
            f"{counted(lacking, 'replica')} of {len(answers)} are past epoch {cluster.epoch} and"
            " lack the link from it, and none has it; the file stays. If somebody kept the files"
            " epoch-link: trust --cluster OLD.yml --follow LINK",
            EXIT_NO_ANSWER,
        )
    if answered < answers_needed:
        raise CommandFailed(
            f"{counted(answered, 'replica')} of {len(answers)} say what follows epoch"
            f" {cluster.epoch}, and {answers_needed} are needed; the file stays",
            EXIT_NO_ANSWER,
        )
    return next(iter(proved.values()), None)
