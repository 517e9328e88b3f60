"""client.notifications.messenger: one message over real HTTP and real SMTP."""

import ssl
import subprocess
from pathlib import Path

import pytest

from client.notifications.messenger import public_session, send
from common.address import Address
from common.config_error import ConfigError
from common.configuration.notify_config import MailTls, NotifyTarget
from common.forges.shared.status import Later, Meaning, Posted, Rejected, WrongToken
from common.web.bounded_http import NoAnswer, bounded_session
from tests.client.notifications.receivers import HttpReceiver, MailServer
from tests.client.notifications.test_message import ATTACK, IDENTITY, message
from tests.secret_files import secret_file

FILE = Path("client.yml")


async def sent(target: NotifyTarget, branch: str = "main") -> Meaning:
    session = bounded_session() if target.private_allowed else public_session()
    async with session:
        return await send(
            session, target, message(branch), identity=IDENTITY, now=1000.0, file=FILE
        )


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (204, Posted),
        (503, Later),
        (429, Later),
        (404, WrongToken),
        (401, WrongToken),
        (400, Rejected),
        (302, Rejected),
    ],
)
async def test_what_an_answer_means(status: int, meaning: type[Meaning]) -> None:
    async with HttpReceiver(lambda count: status) as receiver:
        answer = await sent(NotifyTarget("t", "slack", url=receiver.url, private_allowed=True))
    assert isinstance(answer, meaning)
    assert len(receiver.got) == 1


async def test_a_url_in_a_file_is_checked_when_it_is_read(tmp_path: Path) -> None:
    async with HttpReceiver() as receiver:
        file = secret_file(tmp_path / "url", receiver.url)
        target = NotifyTarget("t", "slack", url_file=file, private_allowed=True)
        assert isinstance(await sent(target), Posted)
        with pytest.raises(ConfigError, match="private address"):
            await sent(NotifyTarget("t", "slack", url_file=file))
    assert len(receiver.got) == 1


async def test_a_name_with_a_private_address_is_not_connected_to() -> None:
    async with HttpReceiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        with pytest.raises(NoAnswer, match="private addresses alone"):
            await sent(NotifyTarget("t", "slack", url=url))
    assert not receiver.got


def mail(server: MailServer, tls: MailTls = "off", file: Path | None = None) -> NotifyTarget:
    return NotifyTarget(
        "t",
        "mail",
        server=Address("localhost", server.port),
        tls=tls,
        user=None if file is None else "ci",
        secret_file=file,
        sender="ci@example.org",
        recipients=("ann@example.org", "bob@example.org"),
        private_allowed=True,
    )


async def test_a_mail_is_one_mail_to_all() -> None:
    with MailServer() as server:
        assert isinstance(await sent(mail(server), ATTACK), Posted)
    (got,) = server.got
    assert got["X-RcptTo"] == "ann@example.org, bob@example.org"
    assert got["Bcc"] is None
    assert got["Message-ID"] == f"<{IDENTITY}@example.org>"


@pytest.mark.parametrize(
    ("refusal", "meaning"), [("450 later", Later), ("550 no such user", Rejected)]
)
async def test_what_a_mail_server_means(refusal: str, meaning: type[Meaning]) -> None:
    with MailServer(refusal=refusal) as server:
        answer = await sent(mail(server))
    assert isinstance(answer, meaning)
    assert refusal.partition(" ")[2] in answer.reason  # type: ignore[union-attr]
    assert not server.got


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, with its key beside it; nobody trusts it yet."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return certificate


async def test_a_login_goes_over_tls_to_a_server_with_a_certificate(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    right, wrong = (secret_file(tmp_path / name, name) for name in ("right", "wrong"))
    with MailServer(context=context, password=b"right") as server:
        untrusted = await sent(mail(server, "starttls", right))
        assert isinstance(untrusted, Later)
        assert "certificate" in untrusted.reason
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert isinstance(await sent(mail(server, "starttls", wrong)), WrongToken)
        assert isinstance(await sent(mail(server, "starttls", right)), Posted)
    assert len(server.got) == 1
    with MailServer() as plain:
        assert isinstance(await sent(mail(plain, "starttls")), Later)
    assert not plain.got


async def test_a_mail_server_with_a_private_address_is_not_connected_to() -> None:
    with MailServer() as server:
        target = NotifyTarget(
            "t",
            "mail",
            server=Address("localhost", server.port),
            tls="off",
            sender="ci@example.org",
            recipients=("ann@example.org",),
        )
        answer = await sent(target)
    assert isinstance(answer, Later)
    assert "private address" in answer.reason
