"""What the event loop reports beside all tasks, without what the library reports needlessly."""

import asyncio
import logging
from typing import Any

# uvloop's SSLProtocol; asyncio's own has another, and does not report this.
_TLS_MESSAGE = "Fatal error on SSL protocol"

# How uvloop ends the text of the RuntimeError of every call on a closed transport. The transport
# does not tell: it is not "closing" where a connect was cancelled just after it was established.
_CLOSED_TEXT = "; the handler is closed"

_log = logging.getLogger(__name__)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report as the loop does, but for TLS on a connection that was closed a moment before.

    uvloop reads what came last, wants to answer, meets its closed transport, and reports a
    RuntimeError with a traceback (MagicStack/uvloop#257 is of that kind). Whoever uses the
    connection is told of its end all the same.
    """
    error = context.get("exception")
    is_closed = isinstance(error, RuntimeError) and str(error).endswith(_CLOSED_TEXT)
    if context.get("message") == _TLS_MESSAGE and is_closed:
        _log.debug("TLS on a closed connection: %s", error)
        return
    loop.default_exception_handler(context)
