"""The node's end of the relay's streams: a channel for each connection of a step.

`node.egress.relay_program` says what the frames are. What comes is checked all the same: a frame
that no relay sends ends the proxy.
"""

import asyncio
from collections.abc import Callable

from node.egress.relay_program import (
    CLOSE,
    DATA,
    END,
    FAILED,
    HEAD,
    OPEN,
    PIECE_BYTES,
    READY,
    TAKEN,
    WINDOW_BYTES,
)


class RelayFailed(Exception):
    """The relay cannot listen, or says what it should not; the text says what."""


class RelayChannel:
    """One connection of a step; see `node.egress.egress_proxy.Channel`."""

    def __init__(self, number: int, send: Callable[[bytes], None]) -> None:
        """send: gets the bytes of whole frames."""
        self.number = number
        self._send = send
        self._received = bytearray()
        # so much may still be sent
        self._window = WINDOW_BYTES
        # the step sends no more; the second: and reads no more
        self._is_sent = False
        self._has_ended = False
        self._is_closed = False
        self._changed = asyncio.Event()

    async def read(self) -> bytes:
        """The next bytes, which the relay may then replace with others; empty at the end."""
        while not self._received and not (self._is_sent or self._has_ended):
            await self._change()
        data = bytes(self._received)
        self._received.clear()
        if data and not self._has_ended:
            self._send(HEAD.pack(TAKEN, self.number, len(data)))
        return data

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError if the step has ended the connection."""
        while data:
            while self._window <= 0 and not self._has_ended:
                await self._change()
            if self._has_ended:
                raise ConnectionResetError("the step has ended the connection")
            piece = data[: min(self._window, PIECE_BYTES)]
            data = data[len(piece) :]
            self._window -= len(piece)
            self._send(HEAD.pack(DATA, self.number, len(piece)) + piece)

    def close(self) -> None:
        """Nothing more is sent or read."""
        if not self._is_closed and not self._has_ended:
            self._send(HEAD.pack(CLOSE, self.number, 0))
        self._is_closed = True
        self.end()

    def take(self, kind: int, number: int, data: bytes) -> None:
        """A frame of this channel. Raises RelayFailed."""
        if kind == DATA:
            self._received += data
            if len(self._received) > WINDOW_BYTES:
                raise RelayFailed("more bytes than were asked for")
        elif kind == TAKEN:
            self._window += number
            if self._window > WINDOW_BYTES:
                raise RelayFailed("more bytes taken than were sent")
        elif kind == END:
            self._is_sent = True
        self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class RelayChannels:
    """All channels of one relay, for one event loop."""

    def __init__(
        self, send: Callable[[bytes], None], serve: Callable[[RelayChannel], None]
    ) -> None:
        """send: gets the bytes of whole frames. serve: gets each new channel."""
        self.is_ready = asyncio.Event()
        self._send = send
        self._serve = serve
        self._channels: dict[int, RelayChannel] = {}
        self._last = 0
        self._input = bytearray()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the relay. Raises RelayFailed."""
        self._input += data
        while len(self._input) >= HEAD.size:
            kind, channel, number = HEAD.unpack_from(self._input)
            has_data = kind in (DATA, FAILED)
            if has_data and number > PIECE_BYTES:
                raise RelayFailed("a frame is too long")
            end = HEAD.size + (number if has_data else 0)
            if len(self._input) < end:
                return
            content = bytes(self._input[HEAD.size : end])
            del self._input[:end]
            self._take(kind, channel, count=number, data=content)

    def forget(self, number: int) -> None:
        """A channel is served: what still comes of it is nobody's."""
        self._channels.pop(number, None)

    def end(self) -> None:
        """Nothing more comes of any channel."""
        for channel in self._channels.values():
            channel.end()

    def _take(self, kind: int, number: int, *, count: int, data: bytes) -> None:
        if kind == READY:
            self.is_ready.set()
        elif kind == FAILED:
            raise RelayFailed(data.decode(errors="replace"))
        elif kind == OPEN:
            if number <= self._last:
                raise RelayFailed("a channel that was there before")
            self._last = number
            channel = self._channels[number] = RelayChannel(number, self._send)
            self._serve(channel)
        elif kind in (DATA, TAKEN, CLOSE, END):
            known = self._channels.get(number)
            if known is None:
                return
            if kind == CLOSE:
                known.end()
            else:
                known.take(kind, count, data)
        else:
            raise RelayFailed("a frame that is not known")
