"""The steps in which logs are followed: each is asked for and rendered once, for all followers.

The rule: two who are at one place of one log share the step from there on. A step ends at the next
multiple of PIECE_BYTES_MAX at the latest, so those who began elsewhere soon share theirs too. What
bytes come to is worked out in one thread beside the event loop: the worst that a build can write
takes a second per MiB.
"""

import asyncio
import functools
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import msgspec

from client.logs.build_output import BuildOutput
from common.log_pieces import ServedPiece

PIECE_BYTES_MAX = 64 * 1024
# After so much the thread lets the event loop go on. The worst takes a millisecond per KiB.
PART_BYTES = 1024
# What is kept of rendered steps, for those who come to the same place a little later.
KEPT_BYTES_MAX = 32 * 1024 * 1024
KEPT_MAX = 1024
# pieces of up to 256 KiB that came before they were asked for
AHEAD_MAX = 64


_Shown = TypeVar("_Shown")


class Place(NamedTuple):
    """Where a step begins: of which log, at which byte of which run.

    is_whole: the follower has all of the log before it. Those who have not know no style that
    was set before they began, so they share other steps than those who have.
    """

    build: bytes
    replica: str
    run: str
    offset: int
    is_whole: bool


class Step(msgspec.Struct, frozen=True):
    """What there is from a place on."""

    # the piece, without its bytes
    served: ServedPiece
    bytes_count: int
    # JSON of a list of client.logs.build_output.Span
    spans: msgspec.Raw
    has_spans: bool
    # how the next step is to be read
    output: BuildOutput
    # the log has no more than this
    is_end: bool


class LogSteps:
    """The steps of all logs, and the thread that renders."""

    def __init__(self) -> None:
        self._under_way: dict[Place, asyncio.Task[Step]] = {}
        self._kept: OrderedDict[Place, Step] = OrderedDict()
        self._kept_bytes = 0
        self._ahead: dict[Place, ServedPiece] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="logs")
        self.rendered_bytes = 0

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def step(
        self, place: Place, output: BuildOutput, piece: Callable[[], Awaitable[ServedPiece]]
    ) -> Step:
        """The step from a place on. piece: gets its bytes; called for the first who asks.

        output: how far the follower read the log; it is not changed. Raises what `piece` raises.
        """
        kept = self._kept.get(place)
        if kept is not None:
            self._kept.move_to_end(place)
            return kept
        task = self._under_way.get(place)
        if task is None:
            task = asyncio.create_task(self._take(place, output, piece), name="step of a log")
            self._under_way[place] = task
            task.add_done_callback(lambda task: self._on_done(place, task))
        # whoever goes away takes it from nobody else
        return await asyncio.shield(task)

    async def render(self, work: Callable[[], _Shown]) -> _Shown:
        """Do some work that renders, in the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _take(
        self, place: Place, output: BuildOutput, piece: Callable[[], Awaitable[ServedPiece]]
    ) -> Step:
        served = self._ahead.pop(place, None) or await piece()
        offset, data = served.piece.offset, served.piece.data
        if offset > place.offset:
            # nobody has what is before it, nor the style that was set there
            output = BuildOutput()
        is_end = not data and not served.piece.is_growing
        part = data[: PIECE_BYTES_MAX - offset % PIECE_BYTES_MAX]
        if rest := data[len(part) :]:
            self._keep_ahead(place, served, offset + len(part), rest=rest)
        self.rendered_bytes += len(part)
        spans, output = await self.render(
            functools.partial(_rendered, output, part, is_last=is_end)
        )
        return Step(
            served=ServedPiece(msgspec.structs.replace(served.piece, data=b""), served.run),
            bytes_count=len(part),
            spans=msgspec.Raw(spans),
            has_spans=len(spans) > 2,
            output=output,
            is_end=is_end,
        )

    def _keep_ahead(self, place: Place, served: ServedPiece, offset: int, *, rest: bytes) -> None:
        """What came with a step and is of the next one: it is not asked for again."""
        piece = msgspec.structs.replace(served.piece, offset=offset, data=rest)
        following = place._replace(run=served.run, offset=offset)
        self._ahead[following] = ServedPiece(piece, served.run)
        if len(self._ahead) > AHEAD_MAX:
            del self._ahead[next(iter(self._ahead))]

    def _on_done(self, place: Place, task: asyncio.Task[Step]) -> None:
        del self._under_way[place]
        if task.cancelled() or task.exception() is not None:
            return
        step = task.result()
        if step.bytes_count:
            self._keep(place, step)

    def _keep(self, place: Place, step: Step) -> None:
        self._kept[place] = step
        self._kept_bytes += len(step.spans)
        while self._kept_bytes > KEPT_BYTES_MAX or len(self._kept) > KEPT_MAX:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.spans)


def _rendered(output: BuildOutput, data: bytes, *, is_last: bool) -> tuple[bytes, BuildOutput]:
    """What the next bytes show, as JSON, and how what comes after them is to be read."""
    output = output.copy()
    spans = output.take(data[:PART_BYTES], is_last=is_last and len(data) <= PART_BYTES)
    for begin in range(PART_BYTES, len(data), PART_BYTES):
        # gives the interpreter to whoever waits for it
        time.sleep(0)
        end = begin + PART_BYTES
        spans += output.take(data[begin:end], is_last=is_last and len(data) <= end)
    return msgspec.json.encode(spans), output
