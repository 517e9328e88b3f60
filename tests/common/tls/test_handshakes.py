"""Members reach each other over TLS 1.3 and nobody else does: each refusal has its reason.

On both event loops, since they do TLS with code of their own.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from common.configuration.keys import SigningKey
from common.tls.acceptor import HandshakeLimits, TlsAcceptor
from common.tls.certificates import (
    LEAF_SEED_BYTES,
    SERIAL_BYTES,
    Leaf,
    NotAMember,
    PinnedKeys,
    host_of,
    issue_leaf,
    whose_leaf,
)
from common.tls.contexts import dialling_context, listening_context, load_leaf, renewed_context
from common.tls.refusals import why_refused
from tests.waiting import wait_until

CLUSTER_ID = bytes(range(32))
NAMES = ("node0", "node1", "node2", "node3", "gateway")
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in (*NAMES, "stranger")}
PINNED = PinnedKeys(CLUSTER_ID, {name: KEYS[name].public_key for name in NAMES})
DAYS = 24 * 3600.0
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
NO_LEAF = "it showed no certificate"
_numbers = iter(range(1, 10**9))

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test on one of the loops."""

    def run_on(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(test)

    return run_on


def leaf_of(
    name: str, *, key: str | None = None, age: float = 0.0, cluster_id: bytes = CLUSTER_ID
) -> Leaf:
    """A leaf of that member, made so many seconds ago."""
    number = next(_numbers).to_bytes(LEAF_SEED_BYTES + SERIAL_BYTES, "big")
    return issue_leaf(cluster_id, name, KEYS[key or name], now=time.time() - age, randomness=number)


def dials(name: str = "node1", peer: str = "node0", **changed: Any) -> ssl.SSLContext:
    return dialling_context(PINNED, peer, leaf_of(name, **changed))


def forged(issuer: str, *, named: str | None = None, is_ca: bool = False) -> Leaf:
    """A leaf as no program of ours makes it: with another's name, or that may sign certificates."""
    true = leaf_of(issuer)
    certificate = x509.load_pem_x509_certificate(true.certificate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            host = host_of(CLUSTER_ID, named or issuer)
            value = x509.SubjectAlternativeName([x509.DNSName(host)])
        if is_ca and isinstance(value, x509.BasicConstraints):
            value = x509.BasicConstraints(ca=True, path_length=None)
        if is_ca and isinstance(value, x509.KeyUsage):
            value = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
        builder = builder.add_extension(value, extension.critical)
    signed = builder.sign(ed25519.Ed25519PrivateKey.from_private_bytes(KEYS[issuer].seed), None)
    return Leaf(signed.public_bytes(Encoding.PEM), true.key, b"", true.not_after)


def below(leaf: Leaf) -> bytes:
    """A certificate that a leaf's key signed, with its key and the leaf: a chain through a leaf."""
    parent = x509.load_pem_x509_certificate(leaf.certificate)
    parent_key = cast("ed25519.Ed25519PrivateKey", load_pem_private_key(leaf.key, None))
    key = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(parent_key.public_key()), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(parent_key, None)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + leaf.certificate + pem


class _Greeter(asyncio.Protocol):
    """Tells who dialled, as the leaf says; ends a connection of anybody else."""

    def __init__(self, refused: list[str]) -> None:
        self._refused = refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        try:
            der = stream.get_extra_info("ssl_object").getpeercert(True)
            stream.write(f"{whose_leaf(der, PINNED, time.time()).member}\n".encode())
        except NotAMember as error:
            self._refused.append(str(error))
            stream.abort()


class Server:
    """node0, listening: what it shows may be replaced, and what it refused is kept."""

    def __init__(self, listening: socket.socket, limits: HandshakeLimits) -> None:
        self.port: int = listening.getsockname()[1]
        self.refused: list[str] = []
        self.context = listening_context(PINNED, leaf_of("node0"))
        self.acceptor = TlsAcceptor(
            renewed_context(lambda _: self.context),
            lambda: _Greeter(self.refused),
            lambda peer, error: self.refused.append(why_refused(error, limits.seconds)),
            limits=limits,
        )
        self.acceptor.start([listening])

    async def dial(self, context: ssl.SSLContext, peer: str = "node0") -> str:
        """Who the server says is dialling; "": it ended the connection without a word."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=host_of(CLUSTER_ID, peer)
        )
        try:
            return (await asyncio.wait_for(reader.readline(), 60)).decode().strip()
        except ConnectionError:
            return ""
        except ssl.SSLError:
            return ""
        finally:
            writer.transport.abort()

    async def refuses(self, context: ssl.SSLContext) -> str:
        """Why it refuses who dials with that context."""
        self.refused.clear()
        assert await self.dial(context) == ""
        await wait_until(lambda: bool(self.refused), "the server says why")
        (reason,) = self.refused
        return reason


@asynccontextmanager
async def serving(limits: HandshakeLimits | None = None) -> AsyncIterator[Server]:
    server = Server(socket.create_server(("127.0.0.1", 0)), limits or HandshakeLimits())
    yield server
    await server.acceptor.close()


Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.mark.parametrize("name", ["node1", "gateway"])
def test_members_reach_each_other(run: Run, name: str) -> None:
    async def test() -> None:
        async with serving() as server:
            assert await server.dial(dials(name)) == name
            assert server.refused == []

    run(test())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dialling_context(PINNED, "node0", None), NO_LEAF),
        (lambda: dials("node1", key="stranger"), "no member of this cluster signed"),
        (lambda: dials("stranger"), "no member of this cluster signed"),
        (lambda: dials("node1", cluster_id=b"x" * 32), "no member of this cluster signed"),
        (lambda: dials("node1", age=30 * DAYS), "has expired"),
        (lambda: dials("node1", age=-30 * DAYS), "not valid yet"),
    ],
    ids=["no leaf", "another key", "stranger", "another cluster", "expired", "not yet valid"],
)
def test_who_is_refused_and_why(run: Run, make: Callable[[], ssl.SSLContext], reason: str) -> None:
    async def test() -> None:
        async with serving() as server:
            assert reason in await server.refuses(make())
            assert await server.dial(dials()) == "node1"

    run(test())


def test_a_name_in_a_leaf_means_nothing(run: Run) -> None:
    """node2 signs a leaf with node1's name: it is neither node1 nor anybody else."""

    async def test() -> None:
        async with serving() as server:
            context = dialling_context(PINNED, "node0", forged("node2", named="node1"))
            assert "'node2' signed its certificate for another name" in await server.refuses(
                context
            )

    run(test())


def test_a_leaf_signs_no_certificates(run: Run) -> None:
    """Whoever holds a leaf's key, which a member let sign others, is no member."""

    async def test() -> None:
        async with serving() as server:
            context = dialling_context(PINNED, "node0", None)
            load_leaf(context, below(forged("node2", is_ca=True)))
            assert "not signed by a member's key itself" in await server.refuses(context)

    run(test())


def test_tls_1_3_alone(run: Run) -> None:
    async def test() -> None:
        async with serving() as server:
            context = dials()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await server.dial(context)
            await wait_until(lambda: bool(server.refused), "the server says why")
            assert server.refused == ["it does not speak TLS 1.3"]

    run(test())


def test_plain_http_is_refused(run: Run) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /link HTTP/1.1\r\nHost: node0\r\n\r\n")
            await wait_until(lambda: bool(server.refused), "the server says why")
            (reason,) = server.refused
            assert "HTTP without TLS" in reason
            assert b"200" not in await reader.read()
            writer.close()

    run(test())


def test_who_dials_one_member_takes_no_other(run: Run) -> None:
    async def test() -> None:
        async with serving() as server:
            with pytest.raises(ssl.SSLCertVerificationError) as refused:
                await server.dial(dials("node1", peer="node2"), peer="node2")
            assert "no member of this cluster signed" in why_refused(refused.value, 5.0)

    run(test())


def test_a_leaf_is_renewed_while_it_listens(run: Run) -> None:
    """An expired one is refused by the dialler; the next connection has the new one."""

    async def test() -> None:
        async with serving() as server:
            server.context = listening_context(PINNED, leaf_of("node0", age=30 * DAYS))
            with pytest.raises(ssl.SSLCertVerificationError) as refused:
                await server.dial(dials())
            assert "has expired" in why_refused(refused.value, 5.0)
            server.context = listening_context(PINNED, leaf_of("node0"))
            assert await server.dial(dials()) == "node1"

    run(test())


def test_who_is_no_member_any_more_is_refused(run: Run) -> None:
    async def test() -> None:
        async with serving() as server:
            assert await server.dial(dials("node3")) == "node3"
            others = {name: key for name, key in PINNED.keys.items() if name != "node3"}
            remaining = PinnedKeys(CLUSTER_ID, others)
            server.context = listening_context(remaining, leaf_of("node0"))
            assert "no member of this cluster signed" in await server.refuses(dials("node3"))
            assert await server.refuses(dialling_context(PINNED, "node0", None)) == NO_LEAF
            assert await server.dial(dials("node1")) == "node1"

    run(test())


def test_no_session_is_resumed(run: Run) -> None:
    """With a ticket a member that was removed would come back unasked."""

    def dial_blocking(port: int) -> tuple[bytes, bool]:
        host = host_of(CLUSTER_ID, "node0")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
            dials("node3").wrap_socket(raw, server_hostname=host) as connection,
        ):
            # tickets come with the first bytes, if at all
            word = connection.recv(100)
            session = connection.session
            return word, session is not None and session.has_ticket

    async def test() -> None:
        async with serving() as server:
            assert await asyncio.to_thread(dial_blocking, server.port) == (b"node3\n", False)

    run(test())


def test_all_of_many_refusals_are_told(run: Run) -> None:
    """None is swallowed, though dozens come at once."""

    async def test() -> None:
        async with serving() as server:
            context = dials("stranger")
            words = await asyncio.gather(*(server.dial(context) for _ in range(50)))
            assert words == [""] * 50
            await wait_until(lambda: len(server.refused) == 50, "all are told")
            assert all("no member of this cluster signed" in reason for reason in server.refused)

    run(test())


def test_a_silent_dialler_is_let_go(run: Run) -> None:
    async def test() -> None:
        async with serving(HandshakeLimits(seconds=0.2)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            assert await asyncio.wait_for(reader.read(), 60) == b""
            await wait_until(lambda: bool(server.refused), "the server says why")
            assert server.refused == ["no whole handshake within 0.2 s"]
            await wait_until(lambda: server.acceptor.under_way == 0, "nobody waits")
            writer.close()

    run(test())


def test_silent_diallers_hold_up_nobody(run: Run) -> None:
    """When all places for handshakes are taken, the one that has taken longest is ended."""

    async def test() -> None:
        async with serving(HandshakeLimits(handshakes_max=3)) as server:
            silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
            await wait_until(lambda: server.acceptor.under_way == 3, "all three wait")
            assert await server.dial(dials()) == "node1"
            assert await asyncio.wait_for(silent[0][0].read(), 60) == b""
            await wait_until(lambda: server.acceptor.under_way == 2, "two wait")
            for _, writer in silent:
                writer.close()

    run(test())


def test_an_address_has_places_of_its_own_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.tls.acceptor.Address.is_loopback", False)

    async def test() -> None:
        async with serving(HandshakeLimits(per_peer_max=1)) as server:
            silent_reader, silent = await asyncio.open_connection("127.0.0.1", server.port)
            _, far = await asyncio.open_connection(
                "127.0.0.1", server.port, local_addr=("127.0.0.2", 0)
            )
            await wait_until(lambda: server.acceptor.under_way == 2, "both wait")
            assert await server.dial(dials()) == "node1"
            assert await asyncio.wait_for(silent_reader.read(), 60) == b""
            await wait_until(lambda: server.acceptor.under_way == 1, "one waits")
            silent.close()
            far.close()

    run(test())
