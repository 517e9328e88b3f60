"""What a node's routes ask of its fault injection, and the answers of a node that has none."""

from collections.abc import Collection, Mapping
from typing import Protocol

from aiohttp import web

from common.web.request_body import Bodies
from node.web.answers import http_error

PATH = "/pbft/simulate-byzantine"


class FaultSwitch(Protocol):
    """How this node misbehaves on purpose; node/faults has the one that does."""

    @property
    def kind(self) -> str | None:
        """How it misbehaves at present; None: it does not."""

    @property
    def kinds(self) -> Mapping[str, str] | None:
        """The faults that this node can be told to have, and what each does; None: it is off."""

    @property
    def injected(self) -> Collection[str]:
        """Which nodes misbehave on purpose, as far as this one was told."""

    def routes(self, bodies: Bodies) -> list[web.RouteDef]:
        """To be added to the node's application; bodies: reads those of its requests."""


class NoFaults:
    """Fault injection is off: nobody can switch it on."""

    kind = None
    kinds = None
    injected: Collection[str] = ()

    def routes(self, bodies: Bodies) -> list[web.RouteDef]:
        """One that refuses and says how it would be allowed."""
        return [web.post(PATH, self._refuse)]

    async def _refuse(self, request: web.Request) -> web.Response:
        raise http_error(
            web.HTTPForbidden,
            "fault injection is off here; set fault_injection: allowed in the node's file",
        )
