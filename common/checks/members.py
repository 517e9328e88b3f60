"""The replicas as this member reaches them: address, key, cluster, version, clock."""

import asyncio
import email.utils
import statistics
import time
from collections.abc import Mapping

import aiohttp
import msgspec

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
# Certificates and the dates of builds bear this; people who compare logs do not bear more.
CLOCK_SECONDS_MAX = 10.0


class _Status(msgspec.Struct, frozen=True):
    """What is read of GET /pbft/status. A peer wrote it."""

    node_id: str
    version: str
    # 64 hexadecimal digits
    cluster: str


class _Answer(msgspec.Struct, frozen=True):
    """A peer's status, and how far its clock is ahead of this machine's, in seconds."""

    status: _Status
    ahead_seconds: float | None


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
    for name, (_, answer) in zip(sorted(peers), found, strict=True):
        if answer is not None and answer.ahead_seconds is not None:
            ahead[name] = answer.ahead_seconds
    return [*(finding for finding, _ in found), check_clock(ahead)]


def check_clock(ahead_seconds: Mapping[str, float]) -> Finding:
    """This machine's clock against those of the replicas that answered.

    ahead_seconds: by replica, how far its clock is ahead of this machine's. The middle one counts:
    fewer than half of them, whatever they say, move it beyond what another one says.
    """
    if not ahead_seconds:
        return Finding("clock", State.WARNING, "no replica answers that it could be compared with")
    middle = statistics.median_low(sorted(ahead_seconds.values()))
    compared = f"compared with {', '.join(sorted(ahead_seconds))}"
    if abs(middle) <= CLOCK_SECONDS_MAX:
        return Finding("clock", State.OK, f"right to {CLOCK_SECONDS_MAX:.0f} s, {compared}")
    way = "behind" if middle > 0 else "ahead"
    text = f"{abs(middle):.0f} s {way}, {compared}: set it by NTP"
    return Finding("clock", State.WARNING, text)


async def _check(
    identity: Identity, peers: Peers, name: str, *, session: aiohttp.ClientSession
) -> tuple[Finding, _Answer | None]:
    """What this member sees of one replica."""
    subject, place = f"replica {name}", str(peers[name])
    try:
        answer = await _status(peers, name, session)
    except (NotReached, NotInTime) as error:
        text = f"{place} does not answer ({error}): it may not run yet, or a firewall is between"
        return Finding(subject, State.WARNING, text), None
    except NoAnswer as error:
        return Finding(subject, State.WRONG, f"{place}: {error}"), None
    status = answer.status
    own = identity.cluster.id.hex()
    if status.cluster != own:
        text = (
            f"{place} is of the cluster {status.cluster[:16]}..., and this member of {own[:16]}...:"
            " compare the two cluster files, and confirm anew"
        )
        return Finding(subject, State.WRONG, text), answer
    links = Links(identity, dial=peers, inbox=Inbox(lambda _, envelopes: None))
    try:
        await links.try_out(name)
    except LinkRefused as error:
        return Finding(subject, State.WRONG, f"{place}: no link: {error}"), answer
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Finding(subject, State.WRONG, f"{place}: the link broke off: {error!r}"), answer
    text = f"{place} proved its key; version {status.version}"
    if status.version != VERSION:
        return Finding(subject, State.WARNING, f"{text}, and this is {VERSION}"), answer
    return Finding(subject, State.OK, text), answer


async def _status(peers: Peers, name: str, session: aiohttp.ClientSession) -> _Answer:
    """Raises NoAnswer."""
    request = peers.request(name, HttpRequest(url="/pbft/status"))
    began = time.time()
    answer = await ask(session, request, STATUS_BOUNDS)
    middle = (began + time.time()) / 2
    if answer.status != 200:
        raise NoAnswer(f"status {answer.status}")
    try:
        status = msgspec.json.decode(answer.data, type=_Status)
    except msgspec.MsgspecError as error:
        raise NoAnswer("what answers there is no node of PBFT/CI") from error
    return _Answer(status, _ahead_seconds(answer.headers.get("Date", ""), middle))


def _ahead_seconds(date: str, now: float) -> float | None:
    """How far the clock of who wrote that header (RFC 9110, 6.6.1) is ahead; None: it says none."""
    try:
        # whole seconds, cut off
        return email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - now
    except ValueError:
        return None
