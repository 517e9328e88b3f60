"""A replica's log of a build, wherever it is by now: at the replica while it grows, then archived.

Until it is archived, which takes the SHA-256 that the replica's ballot names, a log is what that
replica says and nothing more. Everything here is bounded: how long a question waits, how much
one follower is given, and how often a replica may begin its log anew.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from ci.statement import parse_statement
from client.logs.build_output import BuildOutput
from client.logs.log_steps import PIECE_BYTES_MAX, LogSteps, Place
from client.network.nodes import NodeFailed, Nodes, NotThere
from client.storage.archive import Archive, BuildRecord
from client.views.build_view import is_over
from common.log_pieces import LogPiece, ServedPiece, read_log_file

# The `run` of a log that is archived: no replica can begin it anew.
ARCHIVED = "archive"
WAIT_SECONDS = 15
# Nothing tells when a replica takes up a build, or comes back: it is asked.
AGAIN_SECONDS = 1.0
SMALL_PIECE_BYTES = 4096
SMALL_PIECE_SECONDS = 0.1
FOLLOWED_BYTES_MAX = 512 * 1024 * 1024
RESTARTS_MAX = 16
OPENINGS_KEPT = 1024


class LogAbsent(Exception):
    """There is no such log, and there will be none; the text says why."""


class Position(msgspec.Struct, frozen=True):
    """Where a follower goes on: a byte of the whole output, and the run that it saw it in."""

    offset: int
    run: str = ""

    def __str__(self) -> str:
        return f"{self.run}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """The inverse of str; None for anything else."""
        run, _, offset = text.partition(":")
        if not (run.isalnum() and run.isascii() and offset.isascii() and offset.isdigit()):
            return None
        return cls(int(offset), run) if len(run) <= 32 and len(offset) <= 18 else None


class LogEvent(msgspec.Struct, frozen=True):
    """Something for a follower, as JSON.

    output: offset, next, total, spans (see client.logs.build_output). dropped: first, end (bytes
    that nobody has). restart: forget all before. state: text. end: text.
    """

    kind: str
    data: dict[str, Any]
    position: Position


class LiveLogs:
    """The logs of one gateway's builds."""

    def __init__(self, nodes: Nodes, archive: Archive) -> None:
        self._nodes = nodes
        self._archive = archive
        # which opening of a build a replica has, while no verdict says it
        self._openings: dict[tuple[bytes, str], int] = {}
        self.steps = LogSteps()

    async def piece(
        self, build: bytes, replica: str, offset: int, *, wait_seconds: int
    ) -> ServedPiece:
        """What there is from that byte on; waits so long for more where the log grows.

        Raises LogAbsent, and NodeFailed where the replica should be asked again later.
        """
        record = self._archive.get(build)
        if record is None:
            raise LogAbsent("there is no such build here any more")
        if self._is_archived(build, replica):
            return await self._archived_piece(build, replica, offset)
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            opened = await self._opening(record, replica)
            served = await self._nodes.log_piece(
                replica, build, opened, offset=offset, wait_seconds=wait_seconds
            )
        except NotThere as error:
            self._openings.pop((build, replica), None)
            if is_over(record):
                raise LogAbsent(f"{replica} has no log of this build") from error
            served = ServedPiece(LogPiece(offset, b"", offset, None, True), ARCHIVED)
        if not served.piece.data and served.piece.is_growing:
            # it is not there yet; or a replica does not wait as it should
            until = began_at + min(wait_seconds, AGAIN_SECONDS)
            await asyncio.sleep(max(0.0, until - loop.time()))
        return served

    async def _archived_piece(self, build: bytes, replica: str, offset: int) -> ServedPiece:
        try:
            piece = await asyncio.to_thread(
                read_log_file,
                self._archive.log_file(build, replica),
                offset,
                bytes_max=PIECE_BYTES_MAX,
            )
        except FileNotFoundError as error:
            raise LogAbsent("the log is no longer kept here") from error
        return ServedPiece(piece, ARCHIVED)

    async def follow(self, build: bytes, replica: str, start: Position) -> AsyncGenerator[LogEvent]:
        """The log as it comes, from a position to its end. Raises OSError, StorageFailed."""
        output = BuildOutput()
        position = start
        is_whole = not start.offset
        given_bytes, restarts, told = 0, 0, ""
        while given_bytes < FOLLOWED_BYTES_MAX and restarts < RESTARTS_MAX:
            place = Place(build, replica, position.run, position.offset, is_whole)
            ask = functools.partial(
                self.piece, build, replica, position.offset, wait_seconds=WAIT_SECONDS
            )
            try:
                step = await self.steps.step(place, output, ask)
            except LogAbsent as error:
                yield LogEvent("end", {"text": str(error)}, position)
                return
            except NodeFailed as error:
                if self._is_given_up(build):
                    yield LogEvent("end", {"text": str(error)}, position)
                    return
                if told != str(error):
                    told = str(error)
                    yield LogEvent("state", {"text": f"{told}; asking again"}, position)
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            piece, run = step.served.piece, step.served.run
            if _is_begun_anew(position, step.served):
                restarts += 1
                output, is_whole = BuildOutput(), True
                position = Position(0, run)
                yield LogEvent("restart", {}, position)
                continue
            if step.bytes_count and piece.offset > position.offset:
                gap = {"first": position.offset, "end": piece.offset}
                position = Position(piece.offset, run)
                yield LogEvent("dropped", gap, position)
            end = piece.offset + step.bytes_count
            position = Position(max(position.offset, end), run)
            output = step.output
            given_bytes += step.bytes_count
            told = ""
            if step.bytes_count or step.has_spans:
                if step.bytes_count < SMALL_PIECE_BYTES:
                    # what comes in drops is given on in larger ones
                    await asyncio.sleep(SMALL_PIECE_SECONDS)
                data = {
                    "offset": piece.offset,
                    "next": end,
                    "total": piece.total,
                    "spans": step.spans,
                }
                # whoever goes on from here has a new reader, which holds nothing
                resumed = Position(position.offset - output.held_bytes, run)
                yield LogEvent("output", data, resumed)
            if step.is_end:
                yield LogEvent("end", {"text": "the log is complete"}, position)
                return
        yield LogEvent("end", {"text": f"more of {replica} is not followed"}, position)

    def _is_archived(self, build: bytes, replica: str) -> bool:
        ballots = self._archive.ballots(build)
        return any(ballot.replica == replica and ballot.log_archived for ballot in ballots)

    def _is_given_up(self, build: bytes) -> bool:
        record = self._archive.get(build)
        return record is None or record.collected

    async def _opening(self, record: BuildRecord, replica: str) -> int:
        """The sequence number that opened the build. Raises NodeFailed."""
        if record.statement is not None:
            return parse_statement(record.statement).verdict.opened
        key = (record.build, replica)
        if key not in self._openings:
            self._openings[key] = (await self._nodes.build(replica, record.build)).opened
            if len(self._openings) > OPENINGS_KEPT:
                del self._openings[next(iter(self._openings))]
        return self._openings[key]


def _is_begun_anew(position: Position, served: ServedPiece) -> bool:
    """Is this another log than the one that the follower has seen up to its position?

    The archived one is what the last run came to: it is gone on with, unless it is too short.
    """
    if not position.offset:
        return False
    if served.piece.total < position.offset:
        return True
    runs = {position.run, served.run} - {"", ARCHIVED}
    return len(runs) > 1
