"""What the event loop reports is logged, but for TLS that met a connection closed before."""

import asyncio
import logging

import pytest
import uvloop

from common.loop_errors import on_loop_error

MESSAGE = "Fatal error on SSL protocol"
CLOSED = RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")


@pytest.mark.parametrize(
    ("message", "error", "is_logged"),
    [
        (MESSAGE, CLOSED, False),
        (MESSAGE, RuntimeError("cannot switch state from UNWRAPPED to WRAPPED"), True),
        (MESSAGE, IndexError("deque index out of range"), True),
        ("Fatal error on transport", CLOSED, True),
        ("a task was never awaited", None, True),
    ],
)
def test_only_tls_on_a_connection_that_was_closed_before_is_no_error(
    message: str, error: Exception | None, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loop = uvloop.new_event_loop()
    with caplog.at_level(logging.INFO):
        on_loop_error(loop, {"message": message, "exception": error})
    loop.close()
    assert (message in caplog.text) == is_logged


async def closed_error() -> Exception:
    """What uvloop raises where a transport is used that its owner closed."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.transport.abort()
        await writer.wait_closed()
        with pytest.raises(RuntimeError) as raised:
            writer.transport.write(b"late")
    return raised.value


def test_the_loop_words_it_as_we_expect(caplog: pytest.LogCaptureFixture) -> None:
    async def report() -> None:
        error = await asyncio.wait_for(closed_error(), 20)
        on_loop_error(asyncio.get_running_loop(), {"message": MESSAGE, "exception": error})

    with caplog.at_level(logging.INFO):
        uvloop.run(report())
    assert MESSAGE not in caplog.text
