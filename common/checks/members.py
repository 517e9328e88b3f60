"""The replicas as this member reaches them: address, key, cluster, version, clock."""

import asyncio
from collections.abc import Mapping

import aiohttp
import msgspec

from common.clocks import CLOCK_SECONDS_MAX, in_words, is_wrong, own_error
from common.finding import Finding, State
from common.links.handshake import LinkRefused
from common.links.link import Inbox, Links
from common.version import VERSION
from common.web.bounded_http import (
    AnswerBounds,
    HttpRequest,
    NoAnswer,
    NotInTime,
    NotReached,
    ask,
    bounded_session,
)
from common.web.peers import Peers
from pbft.authentication import Identity

STATUS_BOUNDS = AnswerBounds(bytes_max=64 * 1024, timeout_seconds=5.0)


class _Status(msgspec.Struct, frozen=True):
    """What is read of GET /pbft/status. A peer wrote it."""

    node_id: str
    version: str
    # 64 hexadecimal digits
    cluster: str


async def check_members(identity: Identity, peers: Peers) -> list[Finding]:
    """A finding for each of these replicas, by name, and one for this machine's clock.

    The member makes a link with its own key, as it does when it runs. So the peer's key is proved,
    and the peer takes this member's.
    """
    ahead: dict[str, float] = {}
    async with bounded_session() as session:
        found = await asyncio.gather(
            *(_check(identity, peers, name, session=session) for name in sorted(peers))
        )
    for name, (_, seconds) in zip(sorted(peers), found, strict=True):
        if seconds is not None:
            ahead[name] = seconds
    return [*(finding for finding, _ in found), check_clock(ahead)]


def check_clock(ahead_seconds: Mapping[str, float]) -> Finding:
    """This machine's clock against those of the replicas that answered.

    ahead_seconds: by replica, how far its clock is ahead of this machine's.
    """
    if not ahead_seconds:
        return Finding("clock", State.WARNING, "no replica answers that it could be compared with")
    error = own_error(ahead_seconds)
    compared = f"compared with {', '.join(sorted(ahead_seconds))}"
    if is_wrong(error):
        return Finding("clock", State.WARNING, f"{in_words(error)}, {compared}: set it by NTP")
    return Finding("clock", State.OK, f"right to {CLOCK_SECONDS_MAX:.0f} s, {compared}")


async def _check(
    identity: Identity, peers: Peers, name: str, *, session: aiohttp.ClientSession
) -> tuple[Finding, float | None]:
    """What this member sees of one replica, and how far its clock is ahead of this machine's."""
    subject, place = f"replica {name}", str(peers[name])
    try:
        status, ahead_seconds = await _status(peers, name, session)
    except (NotReached, NotInTime) as error:
        text = f"{place} does not answer ({error}): it may not run yet, or a firewall is between"
        return Finding(subject, State.WARNING, text), None
    except NoAnswer as error:
        return Finding(subject, State.WRONG, f"{place}: {error}"), None
    own = identity.cluster.id.hex()
    if status.cluster != own:
        text = (
            f"{place} is of the cluster {status.cluster[:16]}..., and this member of {own[:16]}...:"
            " compare the two cluster files, and confirm anew"
        )
        return Finding(subject, State.WRONG, text), ahead_seconds
    links = Links(identity, dial=peers, inbox=Inbox(lambda _, envelopes: None))
    try:
        await links.try_out(name)
    except LinkRefused as error:
        return Finding(subject, State.WRONG, f"{place}: no link: {error}"), ahead_seconds
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        text = f"{place}: the link broke off: {error!r}"
        return Finding(subject, State.WRONG, text), ahead_seconds
    text = f"{place} proved its key; version {status.version}"
    if status.version != VERSION:
        return Finding(subject, State.WARNING, f"{text}, and this is {VERSION}"), ahead_seconds
    return Finding(subject, State.OK, text), ahead_seconds


async def _status(
    peers: Peers, name: str, session: aiohttp.ClientSession
) -> tuple[_Status, float | None]:
    """A replica's status, and how far its clock is ahead. Raises NoAnswer."""
    request = peers.request(name, HttpRequest(url="/pbft/status"))
    answer = await ask(session, request, STATUS_BOUNDS)
    if answer.status != 200:
        raise NoAnswer(f"status {answer.status}")
    try:
        status = msgspec.json.decode(answer.data, type=_Status)
    except msgspec.MsgspecError as error:
        raise NoAnswer("what answers there is no node of PBFT/CI") from error
    return status, answer.ahead_seconds
