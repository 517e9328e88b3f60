"""What the event loop reports is logged, but for TLS that met a connection closed before."""

import asyncio
import logging

import pytest
import uvloop

from common.loop_errors import on_loop_error

MESSAGE = "Fatal error on SSL protocol"
CLOSED = RuntimeError("unable to perform operation on <TCPTransport closed=True>")


@pytest.mark.parametrize(
    ("is_closed", "message", "error", "is_logged"),
    [
        (True, MESSAGE, CLOSED, False),
        (False, MESSAGE, CLOSED, True),
        (True, MESSAGE, IndexError("deque index out of range"), True),
        (True, "Fatal error on transport", CLOSED, True),
    ],
)
def test_only_tls_on_a_connection_that_was_closed_before_is_no_error(
    is_closed: bool,
    message: str,
    error: Exception,
    is_logged: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def report() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            if is_closed:
                writer.transport.close()
            context = {"message": message, "exception": error, "transport": writer.transport}
            loop.call_exception_handler(context)
            writer.close()

    with caplog.at_level(logging.INFO):
        uvloop.run(report())
    assert (message in caplog.text) == is_logged


def test_what_has_no_transport_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = uvloop.new_event_loop()
    on_loop_error(loop, {"message": "a task was never awaited"})
    loop.close()
    assert "a task was never awaited" in caplog.text
