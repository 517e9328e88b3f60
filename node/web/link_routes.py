"""GET /pbft/links?after=E: what leads from epoch E to the next, for whoever trusts epoch E."""

import os
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from common.epoch_folder import LINK_NAME, epoch_folder
from common.web.sent_file import send_file
from node.web.answers import http_error, number
from pbft.epoch_link import LINK_BYTES_MAX

PATH = "/pbft/links"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 4
EPOCH_MAX = 2**32


class LinkRoutes:
    """One link an answer, as bytes (`pbft.epoch_link.EpochLink`).

    A link proves itself, so whoever asks need not trust this node. 404: nothing follows that epoch
    here. 410: this node is in a later one and lacks the link, as a new member does, and who took
    over with a release that kept none.
    """

    def __init__(self, store_folder: Path, epoch: int) -> None:
        """store_folder: of the store of that epoch, which this node is in."""
        self._data_directory = store_folder.parent if epoch else store_folder
        self._epoch = epoch
        self._sending = 0

    def routes(self) -> list[web.RouteDef]:
        """The route."""
        return [web.get(PATH, self._send)]

    def for_earlier(
        self, states: Iterable[web.RouteDef] = (), middlewares: Iterable[Middleware] = ()
    ) -> web.Application:
        """What members of earlier epochs are served over TLS: these links, and little else.

        states: the routes of the states that epochs begin with. 410 for all else: they know no way
        to this epoch yet, and learn that there is one.
        """
        app = web.Application(middlewares=middlewares)
        refusing = web.route("*", "/{path:.*}", self._refuse)
        app.add_routes([*self.routes(), *states, refusing])
        return app

    async def _refuse(self, request: web.Request) -> web.Response:
        raise http_error(
            web.HTTPGone,
            f"this replica is in epoch {self._epoch}; members of an earlier one are served {PATH}",
        )

    async def _send(self, request: web.Request) -> web.StreamResponse:
        after = number(request, "after", 0, low=0, high=EPOCH_MAX)
        # A folder of a later epoch may be there already: this node is not in it yet.
        if after >= self._epoch:
            raise http_error(
                web.HTTPNotFound, f"this replica is in epoch {self._epoch}: nothing leads on"
            )
        lacking = http_error(
            web.HTTPGone,
            f"this replica is in epoch {self._epoch}, and lacks the link from epoch {after}",
        )
        if self._sending >= SENDING_MAX:
            raise http_error(web.HTTPServiceUnavailable, f"{SENDING_MAX} are being sent already")
        self._sending += 1
        try:
            path = epoch_folder(self._data_directory, after + 1) / LINK_NAME
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > LINK_BYTES_MAX:
                    raise lacking
                headers = {
                    "Content-Type": "application/octet-stream",
                    "X-Content-Type-Options": "nosniff",
                    "Content-Length": str(size),
                }
                return await send_file(request, file, headers)
        except FileNotFoundError:
            raise lacking from None
        finally:
            self._sending -= 1
