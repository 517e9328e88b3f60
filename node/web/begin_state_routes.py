"""GET /pbft/begin-state?epoch=E: the state that epoch E begins with, for its members.

It is for replicas that were away as epoch E began, or are new in it. They check it by its digest.
"""

import os
from pathlib import Path

from aiohttp import web

from common.epoch_folder import BEGIN_NAME, epoch_folder
from common.web.limited_listener import channel_of
from common.web.sent_file import send_file
from node.web.answers import http_error, number

PATH = "/pbft/begin-state"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 2
EPOCH_MAX = 2**32


class BeginStateRoutes:
    """The file as it lies in the epoch's folder.

    404: this node has not begun that epoch, or it begins with nothing. 410: it began later. 403:
    over TLS, a member of an earlier epoch gets the state of that epoch and no later one.
    """

    def __init__(self, store_folder: Path, epoch: int) -> None:
        """store_folder: of the store of that epoch, which this node is in."""
        self._data_directory = store_folder.parent if epoch else store_folder
        self._epoch = epoch
        self._sending = 0

    def routes(self) -> list[web.RouteDef]:
        """The route."""
        return [web.get(PATH, self._send)]

    async def _send(self, request: web.Request) -> web.StreamResponse:
        epoch = number(request, "epoch", self._epoch, low=0, high=EPOCH_MAX)
        channel = channel_of(request)
        if channel is not None and channel.earlier_epoch not in (None, epoch):
            raise http_error(
                web.HTTPForbidden,
                f"a member of epoch {channel.earlier_epoch} is given the state of that one",
            )
        if not 0 < epoch <= self._epoch:
            raise http_error(
                web.HTTPNotFound, f"this replica is in epoch {self._epoch}: there is no such state"
            )
        if self._sending >= SENDING_MAX:
            raise http_error(web.HTTPServiceUnavailable, f"{SENDING_MAX} are being sent already")
        self._sending += 1
        try:
            with (epoch_folder(self._data_directory, epoch) / BEGIN_NAME).open("rb") as file:
                headers = {
                    "Content-Type": "application/octet-stream",
                    "X-Content-Type-Options": "nosniff",
                    "Content-Length": str(os.fstat(file.fileno()).st_size),
                }
                return await send_file(request, file, headers)
        except FileNotFoundError:
            raise http_error(
                web.HTTPGone, f"this replica is in epoch {self._epoch}, and lacks that state"
            ) from None
        finally:
            self._sending -= 1
