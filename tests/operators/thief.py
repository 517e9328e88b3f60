"""A thief with keys that a change of members has retired, on a machine of its own.

`python -m tests.operators.thief PLAN REPORT`. It has no leaf of a member, for leaves never touch a
disk: with a member's key it makes them itself. As each member whose key it has it

- dials all present members: with its certificates of then and now, under their names of then and
  now. It asks for everything that a node serves, and posts lies (`lies`);
- keeps dialling them for links, over which it lies to whoever is still in the old epoch;
- answers whoever is led to its machine: with false links and states, or as the old member itself.

It does so until its standard input says to knock once more, and ends. REPORT says what came of it;
the test judges (`secrets_told`).
"""

import asyncio
import base64
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from ci.operations import (
    Agreement,
    BuildMetadata,
    BuildResult,
    CastBallot,
    Operation,
    Outcome,
    ResultKey,
    SubmitBuild,
    encode_operation,
)
from common.address import Address
from common.configuration.config import ClusterConfig
from common.configuration.keys import SigningKey, load_signing_key
from common.links.link import Inbox, Links
from common.links.members import replicas_for
from common.membership.confirmation import read_cluster
from common.tls.certificates import (
    LEAF_SEED_BYTES,
    SERIAL_BYTES,
    Leaf,
    PinnedKeys,
    host_of,
    issue_leaf,
)
from common.tls.contexts import dialling_context
from common.tls.dialling import DiallingTls
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.limited_listener import LimitedListener
from pbft.authentication import Identity, sign_message
from pbft.codec import encode_message, encode_signed
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster, Member
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    Status,
    ViewChange,
)

BOUNDS = AnswerBounds(bytes_max=2**20, timeout_seconds=5.0)
FALSE = b"\x66" * 32
PUBLIC_PATH = "/pbft/links"
# Of the present epoch, since the thief names none: a member of an earlier one is refused it.
STATE_PATH = "/pbft/begin-state"
# What a node serves its present members.
PATHS = (
    PUBLIC_PATH,
    STATE_PATH,
    "/pbft/status",
    "/pbft/members",
    "/pbft/limits",
    "/pbft/log",
    "/pbft/evidence",
    "/metrics",
    "/ledger",
    "/link",
)
TEXT_CHARACTERS_MAX = 300


class Stolen(msgspec.Struct, frozen=True):
    """A member of an epoch whose key is retired since. The files are paths on this machine."""

    name: str
    cluster_file: str
    key_file: str


class Plan(msgspec.Struct, frozen=True):
    """What the thief has, and whom it is after."""

    stolen: tuple[Stolen, ...]
    # of the present epoch; it is public
    cluster_file: str
    listen: str
    # a build (id, hexadecimal) to cast ballots on
    build: str
    # whether it takes links as the old member, or sends whoever dials it on to a later epoch
    takes_links: bool


class Knock(msgspec.Struct, frozen=True):
    """One request to a present member. status: None if there was no answer."""

    target: str
    posing_as: str
    # the epochs of the certificate that is shown, and of the name that is asked for
    leaf_epoch: int
    name_epoch: int
    path: str
    status: int | None
    text: str


class Report(msgspec.Struct):
    """What came of it."""

    # at the beginning, and once more at the end
    knocks: list[tuple[Knock, ...]] = []
    # by whom the thief was taken for a member, "posing as>peer"
    linked: set[str] = set()
    # how often it was asked for what, by path
    served: dict[str, int] = {}


class Pose(msgspec.Struct, frozen=True):
    """A retired member as the thief plays it."""

    config: ClusterConfig
    cluster: Cluster
    name: str
    key: SigningKey

    @classmethod
    def of(cls, stolen: Stolen) -> "Pose":
        """Raises ConfigError."""
        config, cluster = read_cluster(Path(stolen.cluster_file))
        return cls(config, cluster, stolen.name, load_signing_key(Path(stolen.key_file)))

    @property
    def identity(self) -> Identity:
        """Who it is in its own epoch."""
        return Identity(self.cluster, self.name, self.key.sign)


def lies(pose: Pose, cluster: Cluster, build: bytes) -> list[Signed]:
    """What the thief says in an epoch with a key that is retired: of each kind one."""
    identity = Identity(cluster, pose.name, pose.key.sign)
    index = cluster.replica_index(pose.name) or 0
    ahead = cluster.begins_after + cluster.genesis.checkpoint_interval
    result = BuildResult(
        ResultKey(Outcome.PASSED, 0, "c" * 40, "ab" * 32, None, Agreement.DEFAULT),
        BuildMetadata("ab" * 32, 0, None, 0, 0, "thief"),
    )
    # a number that nobody has used: what is signed here must not be refused as old
    number = time.time_ns() // 1000
    submit = SubmitBuild(os.urandom(32), "https://thief.example/x.git", "main", "c" * 40)
    operations: tuple[Operation, ...] = (CastBallot(build, ahead, result), submit)
    messages: list[AnyMessage] = [
        *(Request(pose.name, number + n, encode_operation(o)) for n, o in enumerate(operations)),
        PrePrepare(0, ahead, FALSE, index),
        Prepare(0, ahead, FALSE, index),
        Commit(0, ahead, FALSE, index),
        Checkpoint(ahead, FALSE, index),
        ViewChange(1, cluster.begins_after, (), (), index),
        Status(0, True, ahead, ahead, index),
    ]
    return [sign_message(message, encode_message(message), identity) for message in messages]


def false_link(pose: Pose) -> bytes:
    """A link to an epoch of the thief's own: it has one of the `strong` signatures."""
    key = SigningKey(FALSE)
    genesis = pose.cluster.genesis
    replicas = (Member("thief", key.public_key, ("replica",)),)
    own = Cluster(msgspec.structs.replace(genesis, replicas=replicas))
    last = pose.cluster.begins_after + 4 * genesis.checkpoint_interval
    names = pose.cluster.replica_names
    checkpoints = tuple(
        msgspec.structs.replace(
            sign_message(message, encode_message(message), pose.identity), signer=name
        )
        for index, name in enumerate(names)
        for message in (Checkpoint(last, FALSE, index),)
    )
    return msgspec.msgpack.encode(EpochLink(own.encoded, last, checkpoints, (("epoch", FALSE),)))


def secrets_told(report: Report, *, knock: int, gone_over: Sequence[str]) -> list[str]:
    """A line for each thing that a member in a later epoch told the thief, and is not public.

    knock: which of the report's. gone_over: who was in the later epoch before it.
    """
    found = []
    for row in report.knocks[knock]:
        if row.target not in gone_over or row.status is None:
            continue
        is_known = row.leaf_epoch == row.name_epoch
        is_public = row.path == PUBLIC_PATH and is_known and row.status in (200, 404, 410, 503)
        is_refused = is_known and (
            (row.status == 410 and "members of an earlier one" in row.text)
            or (row.status == 403 and row.path == STATE_PATH)
        )
        if not is_public and not is_refused:
            found.append(f"the thief was answered: {row}")
    return found


class Thief:
    """All that it does at once."""

    def __init__(self, plan: Plan) -> None:
        self.report = Report()
        self._plan = plan
        self._config, self._present = read_cluster(Path(plan.cluster_file))
        self._poses = [Pose.of(stolen) for stolen in plan.stolen]
        self._addresses = {entry.name: entry.address for entry in self._config.replicas}
        self._served: Counter[str] = Counter()
        self._links: list[Links] = []
        self._listeners: list[LimitedListener] = []

    async def run(self) -> None:
        """Until standard input has a line, or ends."""
        for pose in self._poses:
            await self._link(pose)
        await self._listen()
        await self.knock()
        await asyncio.to_thread(sys.stdin.readline)
        await self.knock()
        for listener in self._listeners:
            listener.close()
        for links in self._links:
            await links.close()
        for listener in self._listeners:
            await listener.end()
        self.report.served = dict(self._served)

    # --- who dials ------------------------------------------------------------------------------

    async def knock(self) -> None:
        """Ask each present member for everything, in each disguise."""
        async with bounded_session() as session:
            rows = await asyncio.gather(
                *(
                    self._knock(session, pose, target)
                    for pose in self._poses
                    for target in self._addresses
                    if self._is_somebody(target)
                )
            )
        self.report.knocks.append(tuple(row for found in rows for row in found))

    async def _knock(self, session: aiohttp.ClientSession, pose: Pose, target: str) -> list[Knock]:
        rows = []
        build = self._plan.build
        for leaf_of, name_of, paths in (
            (pose.cluster, pose.cluster, (*PATHS, f"/builds/{build}", f"/builds/{build}/log")),
            (self._present, self._present, ("/pbft/status",)),
            (pose.cluster, self._present, ("/pbft/status",)),
            (self._present, pose.cluster, ("/pbft/status",)),
        ):
            tls = _tls(pose, target, leaf_of=leaf_of, name_of=name_of)
            requests = [HttpRequest(url=path) for path in paths]
            if leaf_of is name_of is pose.cluster:
                posted = map(posted_to, lies(pose, leaf_of, bytes.fromhex(build)))
                requests += [HttpRequest(url=p, method="POST", body=body) for p, body in posted]
            for request in requests:
                url = f"https://{self._addresses[target]}{request.url}"
                query = {"after": str(pose.cluster.epoch)} if request.url == PUBLIC_PATH else {}
                asked = msgspec.structs.replace(request, url=url, query=query, tls=tls)
                try:
                    answer = await ask(session, asked, BOUNDS)
                    status, text = answer.status, repr(answer.data[:TEXT_CHARACTERS_MAX])
                except NoAnswer as error:
                    status, text = None, str(error)
                epochs = leaf_of.epoch, name_of.epoch
                rows.append(Knock(target, pose.name, *epochs, request.url, status, text))
                if status is None:
                    break  # nor to anything else; the next disguise may do better
        return rows

    async def _link(self, pose: Pose) -> None:
        """Lie to whoever takes a link from that member."""
        peers = replicas_for(pose.config, pose.cluster, pose.name, signing_key=pose.key)
        there = [name for name in peers if name != pose.name and name in self._addresses]
        build = bytes.fromhex(self._plan.build)

        def on_connected(peer: str) -> None:
            self.report.linked.add(f"{pose.name}>{peer}")
            for cluster in (pose.cluster, self._present):
                links.send(peer, [Envelope(signed) for signed in lies(pose, cluster, build)])

        links = Links(
            pose.identity,
            dial=peers.only(there),
            inbox=Inbox(lambda peer, envelopes: None, on_connected),
        )
        await links.start()
        self._links.append(links)

    def _is_somebody(self, name: str) -> bool:
        return name in self._present.expected_names

    # --- who answers ----------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Answer as each of them: the name that is asked for says whom the dialler means."""
        first, *others = self._poses
        tls = replicas_for(first.config, first.cluster, first.name, signing_key=first.key).tls
        assert tls is not None
        for pose in others:
            more = replicas_for(pose.config, pose.cluster, pose.name, signing_key=pose.key).tls
            assert more is not None
            tls.serve_earlier(more, pose.cluster.epoch)
        listener = LimitedListener(
            self._application(first, self._links[0]),
            tls=tls,
            # of them one: who dials is told lies, whatever they are
            for_earlier=self._application(self._poses[-1], self._links[-1]),
        )
        await listener.open(Address.parse(self._plan.listen))
        self._listeners.append(listener)

    def _application(self, pose: Pose, links: Links) -> web.Application:
        async def answer(request: web.Request) -> web.StreamResponse:
            self._served["/builds" if request.path.startswith("/builds/") else request.path] += 1
            if request.path == PUBLIC_PATH:
                # now a link that is well made, now none at all
                data = false_link(pose) if self._served[PUBLIC_PATH] % 2 else b"\xc1 false"
                return web.Response(body=data, content_type="application/octet-stream")
            if request.path == "/link":
                if self._plan.takes_links:
                    return await links.handle(request)
                return web.json_response({"error": "gone over"}, status=410)
            return web.json_response(
                {
                    "cluster": self._present.id.hex(),
                    "epoch": self._present.epoch,
                    "status": "normal",
                    "sequence": 2**40,
                    "ledger_missing": 0,
                    "ledger_head": FALSE.hex(),
                }
            )

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        return app


def posted_to(signed: Signed) -> tuple[str, dict[str, str]]:
    """Where a node takes a signed message over HTTP, and the JSON of it."""
    path = "/pbft/request" if b"request" in signed.payload[:16] else "/pbft/message"
    return path, {"signed": base64.b64encode(encode_signed(signed)).decode()}


def _tls(pose: Pose, target: str, *, leaf_of: Cluster, name_of: Cluster) -> DiallingTls:
    """For a connection to that member: the leaf of one epoch, and its name in another one."""
    leaf: Leaf = issue_leaf(
        leaf_of.id,
        pose.name,
        pose.key,
        now=time.time(),
        randomness=os.urandom(LEAF_SEED_BYTES + SERIAL_BYTES),
    )
    members = (*name_of.genesis.replicas, *name_of.genesis.clients)
    keys = {member.name: member.public_key for member in members}
    # of the epoch whose name is asked for; a newcomer had none in an earlier one
    keys.setdefault(target, pose.key.public_key)
    context = dialling_context(PinnedKeys(name_of.id, keys), target, leaf)
    return DiallingTls(context, host_of(name_of.id, target), leaf.digest)


def main(arguments: Sequence[str]) -> int:
    """The program."""
    plan_file, report_file = arguments
    plan = msgspec.json.decode(Path(plan_file).read_bytes(), type=Plan)

    async def steal() -> Report:
        thief = Thief(plan)
        await thief.run()
        return thief.report

    Path(report_file).write_bytes(msgspec.json.encode(asyncio.run(steal())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
