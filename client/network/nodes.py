"""What the gateway and the command line ask the nodes over HTTP: ballots, logs, ledger, status.

Nothing of it is believed for having been said: ballots carry signatures, logs a SHA-256, and a
ledger is a hash chain. Every answer is bounded in time and size; a node that gives none, or
nonsense, is a NodeFailed.
"""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Annotated, BinaryIO, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from ci.ledger import RecordedArtifact
from ci.provenance import LINE_BYTES_MAX
from ci.statement import ENVELOPE_BYTES_MAX
from client.network.node_status import NodeStatus
from client.network.served_limits import ServedLimits
from client.network.served_members import ServedMembers
from common.english import counted
from common.git_commits import COMMITS_BYTES_MAX, CommitFacts, WrongCommits, read_commits
from common.log_pieces import ServedPiece, read_piece
from common.log_times import TIMES_BYTES_MAX
from common.safe_text import log_text
from common.web.bounded_http import (
    Answer,
    AnswerBounds,
    HttpRequest,
    NoAnswer,
    NotInTime,
    ask,
    bounded_session,
    decode_json,
    save,
)
from common.web.peers import Peers
from pbft.epoch_link import LINK_BYTES_MAX
from pbft.genesis import Cluster
from pbft.ports import Entry

ANSWER_TIMEOUT_SECONDS = 10.0
STATUS_TIMEOUT_SECONDS = 2.0
LOG_TIMEOUT_SECONDS = 60.0
# A node that gives an artifact more slowly is not waited for.
ARTIFACT_BYTES_PER_SECOND_MIN = 1024 * 1024
# A node gives 256 KiB at a time.
LOG_PIECE_BYTES_MAX = 1024 * 1024
STATUS_BYTES_MAX = 1024 * 1024
# a proposal of each of some hundred operators
MEMBERS_BYTES_MAX = 16 * 1024 * 1024
BUILD_BYTES_MAX = 4 * 1024 * 1024
# A node keeps at most 20 MiB of the details of test cases.
CASES_BYTES_MAX = 21 * 1024 * 1024
# A page has at most 500 entries; an entry is at most as large as a request, and mostly far less.
LEDGER_BYTES_MAX = 256 * 1024 * 1024
LEDGER_BOUNDS = AnswerBounds(LEDGER_BYTES_MAX, LOG_TIMEOUT_SECONDS)
LEDGER_PAGE_ENTRIES = 200
HEAD_BYTES = 32
# A node's page of evidence has so many bytes of messages, or one pair whatever its size.
EVIDENCE_PAGE_MESSAGE_BYTES = 8 * 1024 * 1024
MESSAGES_BYTES_MAX = 16 * 1024 * 1024
# A node keeps half as many messages, and half as many moments; a text is some hundred long.
TRACE_ROWS_MAX = 8192
TRACE_CHARACTERS_MAX = 4096
LEDGER_PROOF_BYTES_MAX = 16 * 1024 * 1024

_Answer = TypeVar("_Answer")


def evidence_bytes_max(cluster: Cluster) -> int:
    """The most bytes that an honest node's page of evidence has.

    Nothing signed is larger than a NEW-VIEW, and none of these than the cluster's window allows.
    """
    messages = max(EVIDENCE_PAGE_MESSAGE_BYTES, 2 * cluster.new_view_bytes_max)
    return messages * 4 // 3 + 1024 * 1024  # in base64, and what stands beside it


class NodeFailed(Exception):
    """A node did not answer, or not with what was asked for; one line why."""


class NotThere(NodeFailed):
    """The node answered that it has no such thing (404)."""


class Gone(NodeFailed):
    """The node answered that it lacks what was there once (410)."""


class Unreadable(NodeFailed):
    """The node answered, and not in the form of what was asked for."""


class ServedBallot(msgspec.Struct, frozen=True):
    """A replica's name and its encoded Signed Request, in base64 on the wire."""

    replica: str
    signed: bytes


class AskedBuild(msgspec.Struct, frozen=True):
    """What a build is of, as the replicas ordered it; `ref`: the full name."""

    repository: str
    commit: str | None
    event: str
    ref: str
    branch: str


class ServedBuild(msgspec.Struct, frozen=True):
    """GET /builds/<id>. `opened`: the sequence number that opened it. `state`: the node's own.

    `approved`: it waits for no operator (any more); an older node does not say so. `asked`: what
    for, of a build that is open.
    """

    build: str
    opened: int
    state: str
    ballots: tuple[ServedBallot, ...]
    decided: bool
    approved: bool = False
    asked: AskedBuild | None = None


class ServedLedger(msgspec.Struct, frozen=True):
    """GET /ledger: some entries, and where the node's chain stands as a whole."""

    entries: tuple["ServedEntry", ...]
    index: int
    head: str


class ServedEntry(msgspec.Struct, frozen=True):
    """One entry; `body` in base64 on the wire, `head` in hexadecimal."""

    index: int
    body: bytes
    head: str


class ServedPair(msgspec.Struct, frozen=True):
    """Two encoded Signed messages, in base64 on the wire, and whom the node says they convict."""

    number: int
    replica: str
    proves: str
    first: bytes
    second: bytes


class ServedClient(msgspec.Struct, frozen=True):
    """GET /pbft/clients/<name>."""

    low_timestamp: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = msgspec.field(name="floor")


class ServedError(msgspec.Struct, frozen=True):
    """Why a node refused."""

    error: str


class ServedEvidence(msgspec.Struct, frozen=True):
    """GET /pbft/evidence; `next` is the `?after=` of the next page, None at the end."""

    cluster: str
    evidence: tuple[ServedPair, ...]
    next: int | None = None


class ServedLedgerProof(msgspec.Struct, frozen=True):
    """GET /ledger/proof: CHECKPOINTs, the state's leaves (name, SHA-256), the ledger's part.

    All but the names and the number in base64 on the wire.
    """

    sequence: int
    checkpoints: tuple[bytes, ...]
    leaves: tuple[tuple[str, bytes], ...]
    ledger_part: bytes


class ServedMessage(msgspec.Struct, frozen=True):
    """One message, as one end saw it; `key` stands for its bytes."""

    at: float
    direction: str
    peer: str
    kind: str
    key: str
    text: Annotated[str, msgspec.Meta(max_length=TRACE_CHARACTERS_MAX)]
    refused: Annotated[str, msgspec.Meta(max_length=TRACE_CHARACTERS_MAX)] | None


class ServedMoment(msgspec.Struct, frozen=True):
    """Something that a replica told, and when."""

    at: float
    event: str
    details: dict[str, str | int | None]


class ServedTrace(msgspec.Struct, frozen=True):
    """GET /builds/<id>/messages. built: when this node's build began and ended."""

    messages: Annotated[tuple[ServedMessage, ...], msgspec.Meta(max_length=TRACE_ROWS_MAX)]
    moments: Annotated[tuple[ServedMoment, ...], msgspec.Meta(max_length=TRACE_ROWS_MAX)]
    built: tuple[float, float] | None


class Nodes:
    """The nodes of one cluster by replica name. Use it as an async context manager."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._session: aiohttp.ClientSession | None = None
        self._waiting_session: aiohttp.ClientSession | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The replicas, in the order of the cluster file."""
        return tuple(self._peers)

    async def __aenter__(self) -> Self:
        self._session = bounded_session()
        # apart, so that followers who wait do not hold up anything else
        self._waiting_session = bounded_session()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for session in (self._session, self._waiting_session):
            if session is not None:
                await session.close()
        self._session = self._waiting_session = None

    async def build(self, replica: str, build: bytes) -> ServedBuild:
        """What a node knows of a build. Raises NodeFailed."""
        bounds = AnswerBounds(BUILD_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        data = await self._get(replica, f"/builds/{build.hex()}", bounds)
        return decode_answer(data, ServedBuild, replica)

    async def log(self, replica: str, build: bytes, opened: int, *, bytes_max: int) -> bytes:
        """A node's own log of a build. Raises NodeFailed, also if it is too long."""
        path, query = f"/builds/{build.hex()}/log", {"opened": str(opened)}
        return await self._get(
            replica, path, AnswerBounds(bytes_max, LOG_TIMEOUT_SECONDS), query=query
        )

    async def cases(self, replica: str, build: bytes, opened: int) -> bytes:
        """A node's details of a build's test cases (`client.network.case_details` checks them).

        Raises NodeFailed; NotThere if it has none.
        """
        path, query = f"/builds/{build.hex()}/tests", {"opened": str(opened)}
        bounds = AnswerBounds(CASES_BYTES_MAX, LOG_TIMEOUT_SECONDS)
        return await self._get(replica, path, bounds, query=query)

    async def log_times(self, replica: str, build: bytes, opened: int) -> bytes:
        """When each part of a node's own log came (common.log_times). Raises NodeFailed."""
        path, query = f"/builds/{build.hex()}/log/times", {"opened": str(opened)}
        bounds = AnswerBounds(TIMES_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        return await self._get(replica, path, bounds, query=query)

    async def commits(
        self, replica: str, build: bytes, opened: int, *, commit: str
    ) -> list[CommitFacts]:
        """What a build's commit and those before it say, proved by their hashes.

        Raises NodeFailed; NotThere if it has none.
        """
        path, query = f"/builds/{build.hex()}/commits", {"opened": str(opened)}
        bounds = AnswerBounds(COMMITS_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        data = await self._get(replica, path, bounds, query=query)
        try:
            return read_commits(data, commit)
        except WrongCommits as error:
            raise Unreadable(f"{replica}: commits that prove nothing: {error}") from error

    async def artifact(
        self,
        replica: str,
        build: bytes,
        opened: int,
        *,
        artifact: RecordedArtifact,
        file: BinaryIO,
    ) -> str:
        """Write a node's copy of an artifact to a file: its SHA-256 (hex), whatever that is.

        Raises NodeFailed, also where the length is not the agreed one, and CannotWrite.
        """
        assert self._session is not None, "used outside its context"
        path = f"/builds/{build.hex()}/artifacts/{quote(artifact.path)}"
        seconds = ANSWER_TIMEOUT_SECONDS + artifact.length / ARTIFACT_BYTES_PER_SECOND_MIN
        try:
            status, digest = await save(
                self._session,
                self._peers.request(replica, HttpRequest(url=path, query={"opened": str(opened)})),
                file,
                length=artifact.length,
                timeout_seconds=seconds,
            )
        except NoAnswer as error:
            raise NodeFailed(f"{replica}: {error}") from error
        if status == 404:
            raise NotThere(f"{replica}: has no copy of it (any more)")
        if status != 200:
            raise NodeFailed(f"{replica}: answered with status {status}")
        return digest

    async def provenance(self, replica: str, build: bytes, opened: int) -> bytes:
        """A node's own signed provenance of a build: an envelope, unchecked. Raises NodeFailed."""
        path, query = f"/builds/{build.hex()}/provenance", {"opened": str(opened)}
        bounds = AnswerBounds(LINE_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        return await self._get(replica, path, bounds, query=query)

    async def supplement(self, replica: str, build: bytes, opened: int, *, at: int) -> bytes:
        """A node's signed word on the ballots after a verdict, up to the ledger's entry `at`.

        An envelope, unchecked. Raises NodeFailed.
        """
        path = f"/builds/{build.hex()}/supplement"
        query = {"opened": str(opened), "at": str(at)}
        bounds = AnswerBounds(ENVELOPE_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        return await self._get(replica, path, bounds, query=query)

    async def messages(self, replica: str, build: bytes) -> ServedTrace:
        """What a node still knows of a build's messages; its own word. Raises NodeFailed."""
        bounds = AnswerBounds(MESSAGES_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        data = await self._get(replica, f"/builds/{build.hex()}/messages", bounds)
        return decode_answer(data, ServedTrace, replica)

    async def ledger_proof(self, replica: str) -> ServedLedgerProof:
        """The certificate over a node's stable checkpoint, unchecked. Raises NodeFailed."""
        bounds = AnswerBounds(LEDGER_PROOF_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        data = await self._get(replica, "/ledger/proof", bounds)
        return decode_answer(data, ServedLedgerProof, replica)

    async def log_piece(
        self, replica: str, build: bytes, opened: int, *, offset: int, wait_seconds: int
    ) -> ServedPiece:
        """What a node has of its log from that byte on; it waits so long for more.

        Raises NodeFailed.
        """
        query = {"opened": str(opened), "from": str(offset), "wait": str(wait_seconds)}
        answer = await self._ask(
            replica,
            f"/builds/{build.hex()}/log",
            AnswerBounds(LOG_PIECE_BYTES_MAX, wait_seconds + ANSWER_TIMEOUT_SECONDS),
            query=query,
            is_waiting=True,
        )
        try:
            served = read_piece(answer.headers, answer.data)
        except ValueError as error:
            raise NodeFailed(f"{replica}: an answer that cannot be read: {error}") from error
        if served.piece.data and served.piece.offset < offset:
            raise NodeFailed(f"{replica}: its answer begins before what was asked for")
        return served

    async def status(self, replica: str) -> NodeStatus:
        """GET /pbft/status. Raises NodeFailed."""
        return (await self.status_and_clock(replica))[0]

    async def status_and_clock(self, replica: str) -> tuple[NodeStatus, float | None]:
        """GET /pbft/status, and how many seconds its clock is ahead of this machine's.

        None: it does not say. Raises NodeFailed.
        """
        bounds = AnswerBounds(STATUS_BYTES_MAX, STATUS_TIMEOUT_SECONDS)
        answer = await self._ask(replica, "/pbft/status", bounds, query={})
        return decode_answer(answer.data, NodeStatus, replica), answer.ahead_seconds

    async def limits(self, replica: str) -> ServedLimits:
        """GET /pbft/limits. Raises NodeFailed; NotThere: its version knows no changes of limits."""
        bounds = AnswerBounds(STATUS_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        return decode_answer(
            await self._get(replica, "/pbft/limits", bounds), ServedLimits, replica
        )

    async def members(self, replica: str) -> ServedMembers:
        """GET /pbft/members. Raises NodeFailed; NotThere: its version knows no such changes."""
        bounds = AnswerBounds(MEMBERS_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        return decode_answer(
            await self._get(replica, "/pbft/members", bounds), ServedMembers, replica
        )

    async def link(self, replica: str, epoch: int) -> bytes:
        """What leads from that epoch to the next, unread.

        Raises NodeFailed; NotThere: nothing does; Gone: the node is past it, and lacks it.
        """
        bounds = AnswerBounds(LINK_BYTES_MAX, LOG_TIMEOUT_SECONDS)
        return await self._get(replica, "/pbft/links", bounds, query={"after": str(epoch)})

    async def misbehave(self, replica: str, fault: str | None) -> None:
        """Tell a node to have that fault from now on, None: none. Raises NodeFailed.

        A node that does not allow it refuses; its own words are then in the error.
        """
        request = HttpRequest(
            method="POST",
            url="/pbft/simulate-byzantine",
            body={"node_id": replica, "fault": fault},
        )
        bounds = AnswerBounds(STATUS_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        answer = await self._answer(replica, request, bounds)
        if answer.status != 200:
            try:
                reason = decode_answer(answer.data, ServedError, replica).error
            except NodeFailed:
                reason = f"it answered with {answer.status}"
            raise NodeFailed(f"{replica}: {log_text(reason)}")

    async def client_floor(self, replica: str, client: str) -> int:
        """Up to which number all of a client's numbers are used, as a node says. NodeFailed."""
        bounds = AnswerBounds(STATUS_BYTES_MAX, ANSWER_TIMEOUT_SECONDS)
        data = await self._get(replica, f"/pbft/clients/{client}", bounds)
        return decode_answer(data, ServedClient, replica).low_timestamp

    async def evidence_pages(
        self, replica: str, *, pages_max: int, pairs_max: int, bytes_max: int
    ) -> AsyncIterator[tuple[ServedPair, ...]]:
        """A node's proof of misbehaviour, oldest first, in pages. Nothing of it is checked.

        pairs_max, bytes_max: asked for in a page, and taken of it; see `evidence_bytes_max`.
        Raises NodeFailed, perhaps after some pages.
        """
        bounds = AnswerBounds(bytes_max, LOG_TIMEOUT_SECONDS)
        after = 0
        for _ in range(pages_max):
            query = {"after": str(after), "limit": str(pairs_max)}
            data = await self._get(replica, "/pbft/evidence", bounds, query=query)
            page = decode_answer(data, ServedEvidence, replica)
            yield page.evidence
            if page.next is None or page.next <= after:
                return
            after = page.next

    async def ledger(self, replica: str) -> list[Entry]:
        """A node's whole ledger as it was when the first page came. Raises NodeFailed.

        The chain is not checked here. A sound node that took over a state lacks entries until it
        has fetched them; the error says so then.
        """
        entries: list[Entry] = []
        end: int | None = None
        while end is None or len(entries) < end:
            page, index = await self.ledger_page(replica, len(entries) + 1, LEDGER_PAGE_ENTRIES)
            end = index if end is None else end
            if not page and len(entries) < end:
                raise NodeFailed(await self._why_absent(replica, len(entries) + 1, end))
            entries.extend(page)
        return entries[:end]

    async def _why_absent(self, replica: str, index: int, end: int) -> str:
        """Why a node does not give that entry of its `end`, by its own word; and what to do."""
        try:
            missing = (await self.status(replica)).ledger_missing
        except NodeFailed:
            missing = None
        if missing:
            lacks = counted(missing, "ledger entry", "ledger entries")
            return (
                f"{replica}: it lacks {lacks}, the first is entry {index}, and is still fetching"
                " from its peers: ask it again in a while, or another node now"
            )
        return (
            f"{replica}: it says that its ledger has {counted(end, 'entry', 'entries')} and does"
            f" not give entry {index}: ask it again in a minute, or another node now; if that"
            " stays so, look at its log"
        )

    async def ledger_page(
        self,
        replica: str,
        first: int,
        entries_max: int,
        *,
        bounds: AnswerBounds = LEDGER_BOUNDS,
    ) -> tuple[list[Entry], int]:
        """A node's ledger from entry `first` on, and the index of its last one; unchecked.

        There may be fewer than are asked for. Raises NodeFailed.
        """
        query = {"from": str(first), "limit": str(entries_max)}
        data = await self._get(replica, "/ledger", bounds, query=query)
        page = decode_answer(data, ServedLedger, replica)
        if len(page.entries) > entries_max:
            raise NodeFailed(f"{replica}: more ledger entries than were asked for")
        try:
            heads = [bytes.fromhex(entry.head) for entry in page.entries]
        except ValueError as error:
            raise NodeFailed(f"{replica}: a ledger head is not hexadecimal") from error
        if any(len(head) != HEAD_BYTES for head in heads):
            raise NodeFailed(f"{replica}: a ledger head has not {HEAD_BYTES} bytes")
        entries = [
            Entry(entry.index, entry.body, head)
            for entry, head in zip(page.entries, heads, strict=True)
        ]
        return entries, page.index

    async def _get(
        self,
        replica: str,
        path: str,
        bounds: AnswerBounds,
        *,
        query: Mapping[str, str] = {},
    ) -> bytes:
        return (await self._ask(replica, path, bounds, query=query)).data

    async def _ask(
        self,
        replica: str,
        path: str,
        bounds: AnswerBounds,
        *,
        query: Mapping[str, str],
        is_waiting: bool = False,
    ) -> Answer:
        """The answer to a GET, with status 200."""
        request = HttpRequest(url=path, query=query)
        answer = await self._answer(replica, request, bounds, is_waiting=is_waiting)
        if answer.status == 404:
            raise NotThere(f"{replica}: has no {path}")
        if answer.status == 410:
            raise Gone(f"{replica}: has no {path} any more")
        if answer.status != 200:
            raise NodeFailed(f"{replica}: {path} was answered with {answer.status}")
        return answer

    async def _answer(
        self,
        replica: str,
        request: HttpRequest,
        bounds: AnswerBounds,
        *,
        is_waiting: bool = False,
    ) -> Answer:
        """The answer, of any status. request: its URL is a path on the node."""
        session = self._waiting_session if is_waiting else self._session
        assert session is not None, "used outside its context"
        try:
            return await ask(session, self._peers.request(replica, request), bounds)
        except NotInTime as error:
            raise NodeFailed(f"{replica}: no answer in {bounds.timeout_seconds:g} s") from error
        except NoAnswer as error:
            raise NodeFailed(f"{replica}: {request.url}: {error}") from error


def decode_answer(data: bytes, kind: type[_Answer], replica: str) -> _Answer:
    """A node's JSON. Raises Unreadable, naming the replica (or the file) that it came from."""
    try:
        return decode_json(data, kind)
    except NoAnswer as error:
        raise Unreadable(f"{replica}: {error}") from error
