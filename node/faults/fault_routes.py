"""POST /pbft/simulate-byzantine: makes a node misbehave, where its operator allows that.

`{"node_id": name, "fault": kind}`; without `fault`, lying; `"fault": null` ends it. Naming another
node passes it on to that one, which has to allow it too.
"""

import json
from collections.abc import Mapping
from functools import partial

import msgspec
from aiohttp import web

from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.peers import Peers
from common.web.request_body import Bodies
from node.faults.misbehaviours import DESCRIPTIONS, KINDS, Faults
from node.web.answers import http_error, read_body
from node.web.fault_switch import PATH

WANTED_BYTES_MAX = 4096
ANSWER_BYTES_MAX = 64 * 1024
ANSWER_SECONDS = 5.0


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    node_id: str
    fault: str | None = "lying"


class FaultRoutes:
    """The route of one node. injected: the nodes that this one was asked to make misbehave."""

    def __init__(self, *, name: str, faults: Faults, peers: Peers) -> None:
        self._name = name
        self._faults = faults
        self._peers = peers
        self._passed_on: set[str] = set()

    @property
    def kind(self) -> str | None:
        """How this node misbehaves at present."""
        return self._faults.kind

    @property
    def injected(self) -> set[str]:
        """Which nodes misbehave on purpose, as far as this one was told."""
        return self._passed_on | ({self._name} if self._faults.kind is not None else set())

    @property
    def kinds(self) -> Mapping[str, str]:
        """The faults that this node can be told to have, and what each does."""
        return DESCRIPTIONS

    def routes(self, bodies: Bodies) -> list[web.RouteDef]:
        """To be added to the node's application; bodies: reads those of its requests."""
        return [web.post(PATH, partial(self._simulate, bodies))]

    async def _simulate(self, bodies: Bodies, request: web.Request) -> web.Response:
        body = await read_body(bodies, request, WANTED_BYTES_MAX)
        try:
            wanted = msgspec.json.decode(body, type=_Wanted)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason = f'{error}; send {{"node_id": "{self._name}", "fault": "lying"}}'
            raise http_error(web.HTTPBadRequest, reason) from None
        if wanted.fault is not None and wanted.fault not in KINDS:
            reason = f"no fault is called that; there are {', '.join(KINDS)}, and null for none"
            raise http_error(web.HTTPBadRequest, reason)
        if wanted.node_id == self._name:
            self._faults.switch(wanted.fault)
        else:
            await self._pass_on(wanted)
        return web.json_response(
            {
                "node_id": wanted.node_id,
                "fault_injection": wanted.fault,
                "byzantine_nodes": sorted(self.injected),
            }
        )

    async def _pass_on(self, wanted: _Wanted) -> None:
        """Ask the node that is meant. Raises an HTTP error that says what it answered."""
        if wanted.node_id not in self._peers:
            names = ", ".join(sorted({self._name, *self._peers}))
            raise http_error(web.HTTPNotFound, f"no node is called that; there are {names}")
        try:
            async with bounded_session() as session:
                answer = await ask(
                    session,
                    self._peers.request(
                        wanted.node_id,
                        HttpRequest(method="POST", url=PATH, body=msgspec.structs.asdict(wanted)),
                    ),
                    AnswerBounds(ANSWER_BYTES_MAX, ANSWER_SECONDS),
                )
        except NoAnswer as error:
            raise http_error(web.HTTPBadGateway, f"{wanted.node_id}: {error}") from error
        if answer.status != 200:
            reason = _reason(answer.data) or f"answered with {answer.status}"
            raise http_error(web.HTTPBadGateway, f"{wanted.node_id}: {reason}")
        if wanted.fault is None:
            self._passed_on.discard(wanted.node_id)
        else:
            self._passed_on.add(wanted.node_id)


def _reason(data: bytes) -> str:
    try:
        return str(json.loads(data)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return ""
