"""client.notifications.message: what each receiver is sent, also if a branch's name attacks it."""

import email
import email.policy
import json

import pytest

from client.notifications.message import (
    Message,
    Turn,
    bearing,
    http_message,
    mail_of,
    signed,
    subject_of,
)
from common.forges.shared.signatures import Proof, standard_webhooks_check

ATTACK = "x\r\nBcc: all@example.org\r\n\r\n<!channel> `@all` [a](http://evil)\u202e" + "y" * 500
IDENTITY = "ab" * 16


def message(branch: str = "main", turn: Turn = Turn.BROKEN) -> Message:
    return Message(
        turn=turn,
        build="b" * 64,
        repository="https://forge.example.org/team/product.git",
        branch=branch,
        ref=None,
        event="push",
        commit="c" * 40,
        author=branch,
        outcome="timed_out",
        exit_code=None,
        decided="2026-01-31T12:00:00Z",
        url="https://ci.example.org/builds/b",
        envelope_url="https://ci.example.org/api/v1/builds/b/attestation",
    )


def test_the_subject_says_what_happened_and_where() -> None:
    assert subject_of(message()) == "forge.example.org/team/product main: timed out"
    assert subject_of(message(turn=Turn.FIXED)).endswith("main: passed again")


def test_a_mail_has_the_headers_that_we_wrote_and_no_others() -> None:
    date = "Sat, 31 Jan 2026 12:00:00 +0000"
    made = mail_of(
        message(ATTACK), IDENTITY, sender="ci@example.org", recipients=("a@x.org",), date=date
    )
    read = email.message_from_bytes(made.as_bytes(), policy=email.policy.default)
    assert set(read.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    }  # fmt: skip
    assert read["Message-ID"] == f"<{IDENTITY}@example.org>"
    assert "\\r\\nBcc: all@example.org" in read["Subject"]
    assert len(read["Subject"]) < 400
    assert max(len(line) for line in made.as_bytes().split(b"\r\n")) <= 998


def test_a_webhook_is_signed_as_standard_webhooks_says() -> None:
    secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    plain = http_message("webhook", message(), IDENTITY, url="https://x.org/hook")
    out = signed(plain, secret, 1000)
    headers = {name.lower(): value for name, value in out.headers.items()}
    assert headers["webhook-id"] == IDENTITY
    for body, proof in ((out.body, Proof.VALID), (out.body + b" ", Proof.WRONG)):
        check = standard_webhooks_check(
            (secret,),
            identity=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signature=headers["webhook-signature"],
            body=body,
            now=1000.0,
        )
        assert check.proof is proof
    told = json.loads(out.body)
    assert told["type"] == "build.broken"
    assert told["data"]["branch"] == "main"
    with pytest.raises(ValueError, match="Standard Webhooks"):
        signed(plain, b"whsec_!", 1000)


@pytest.mark.parametrize("kind", ["slack", "mattermost"])
def test_a_chat_message_calls_nobody(kind: str) -> None:
    out = http_message(kind, message(ATTACK), IDENTITY, url="https://x.org/hook")
    (text,) = json.loads(out.body).values()
    assert kind != "slack" or "<!" not in text
    assert "\u202e" not in text
    assert len(text) < 2000
    # what strangers named stands between backticks, where nothing is a mention or a link
    quoted = text.split("`")[1::2]
    assert any("@all" in part for part in quoted)
    assert "@all" not in "".join(text.split("`")[::2])


def test_a_matrix_message_is_put_once_however_often_it_is_sent() -> None:
    out = http_message("matrix", message(), IDENTITY, url="https://m.org/", room="!a b:m.org")
    assert out.method == "PUT"
    assert out.url == (
        f"https://m.org/_matrix/client/v3/rooms/%21a%20b%3Am.org/send/m.room.message/{IDENTITY}"
    )
    assert bearing(out, b"token").headers["Authorization"] == "Bearer token"
    assert json.loads(out.body)["m.mentions"] == {}
