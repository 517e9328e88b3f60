"""Runs in the relay's container: carries a step's connections over its standard input and output.

It listens on the loopback address of the namespace that it is in. Each connection is a channel; the
node is at the other end of the two streams, and does the rest. A step can neither see nor stop this
process. The program stands alone, since it is handed to a Python of another image, 3.9 or later.

A frame is its kind, a channel, a number, and for DATA and FAILED that many bytes. Each side sends
at most WINDOW_BYTES of a channel that the other has not reported as TAKEN. So a step that does not
read stops nobody else, and memory is bounded. CLOSE says that nothing more comes, and nothing more
is read: what was sent before is still delivered. The relay says END when a step's program sends no
more; it may read on, and there is no way to tell until something is sent to it.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress

HEAD = struct.Struct(">BII")
# to the node: READY, OPEN, FAILED, END; the others in both directions
READY, OPEN, FAILED, DATA, TAKEN, CLOSE, END = range(7)
WINDOW_BYTES = 128 * 1024
PIECE_BYTES = 32 * 1024
_ADDRESS = "127.0.0.1"


class _Connection:
    """A step's program at the other end, and what is still to be sent to it."""

    def __init__(self, number: int, peer: socket.socket) -> None:
        self.number = number
        self.peer = peer
        self.pending = b""
        # so much may still be sent to the node
        self.window = WINDOW_BYTES
        # the program has sent all that it will
        self.has_ended = False
        # the node has sent all that it will
        self.is_ending = False


class _Relay:
    def __init__(self, port: int, connections_max: int) -> None:
        self._connections_max = connections_max
        self._connections: dict[int, _Connection] = {}
        self._count = 0
        self._input = b""
        self._output = bytearray()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((_ADDRESS, port))
        # those beyond the limit wait there; a kernel takes no more than its own limit
        self._listener.listen(1024)
        self._listener.setblocking(False)
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self._watch(self._listener, selectors.EVENT_READ, self._accept)
        self._watch(0, selectors.EVENT_READ, self._take_input)
        self._send(READY, 0)

    def run(self) -> None:
        """Carry connections until the node has gone."""
        while True:
            for key, events in self._selector.select():
                key.data(events)

    def _watch(
        self, file: int | socket.socket, events: int, handle: Callable[[int], None] | None = None
    ) -> None:
        if file in self._selector.get_map():
            if events:
                self._selector.modify(file, events, handle)
            else:
                self._selector.unregister(file)
        elif events:
            self._selector.register(file, events, handle)

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return
        peer.setblocking(False)
        self._count += 1
        connection = _Connection(self._count, peer)
        self._connections[connection.number] = connection
        self._send(OPEN, connection.number)
        self._rest(connection)
        if len(self._connections) >= self._connections_max:
            # others wait in the queue of the listener
            self._watch(self._listener, 0)

    def _rest(self, connection: _Connection) -> None:
        """Watch for what can be done next."""
        events = selectors.EVENT_WRITE if connection.pending else 0
        if connection.window > 0 and not (connection.is_ending or connection.has_ended):
            events |= selectors.EVENT_READ
        self._watch(connection.peer, events, lambda found: self._serve(connection, found))

    def _serve(self, connection: _Connection, events: int) -> None:
        if connection.number not in self._connections:
            # dropped for something that was found together with this
            return
        try:
            if events & selectors.EVENT_WRITE:
                sent = connection.peer.send(connection.pending)
                connection.pending = connection.pending[sent:]
                self._send(TAKEN, connection.number, sent)
            if events & selectors.EVENT_READ:
                data = connection.peer.recv(min(PIECE_BYTES, connection.window))
                connection.window -= len(data)
                connection.has_ended = not data
                self._send(DATA if data else END, connection.number, len(data), data=data)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connection)
            return
        if connection.is_ending and not connection.pending:
            self._drop(connection)
        else:
            self._rest(connection)

    def _drop(self, connection: _Connection) -> None:
        self._watch(connection.peer, 0)
        connection.peer.close()
        del self._connections[connection.number]
        self._send(CLOSE, connection.number)
        self._watch(self._listener, selectors.EVENT_READ, self._accept)

    def _take_input(self, _events: int) -> None:
        try:
            data = os.read(0, 4 * PIECE_BYTES)
        except BlockingIOError:
            return
        if not data:
            # the node has gone
            sys.exit(0)
        self._input += data
        while len(self._input) >= HEAD.size:
            kind, channel, number = HEAD.unpack_from(self._input)
            end = HEAD.size + (number if kind == DATA else 0)
            if len(self._input) < end:
                return
            data = self._input[HEAD.size : end]
            self._input = self._input[end:]
            # one that the step has ended is not there any more
            if channel in self._connections:
                self._take(self._connections[channel], kind, number, data=data)

    def _take(self, connection: _Connection, kind: int, number: int, *, data: bytes) -> None:
        if kind == DATA:
            connection.pending += data
        elif kind == TAKEN:
            connection.window += number
        elif kind == CLOSE:
            connection.is_ending = True
        if connection.is_ending and not connection.pending:
            self._drop(connection)
        else:
            self._rest(connection)

    def _send(self, kind: int, channel: int, number: int = 0, *, data: bytes = b"") -> None:
        self._output += HEAD.pack(kind, channel, number) + data
        self._flush(0)

    def _flush(self, _events: int) -> None:
        with suppress(BlockingIOError):
            del self._output[: os.write(1, self._output)]
        self._watch(1, selectors.EVENT_WRITE if self._output else 0, self._flush)


def main() -> None:
    """Arguments: the port, and how many connections there may be at once."""
    try:
        relay = _Relay(int(sys.argv[1]), int(sys.argv[2]))
    except OSError as error:
        text = str(error).encode()
        os.write(1, HEAD.pack(FAILED, 0, len(text)) + text)
        sys.exit(1)
    relay.run()


if __name__ == "__main__":
    main()
