"""What is told of a build, and how each kind of receiver takes it.

The rule: names of branches, authors and repositories are strangers' text. They hold no line end, no
mark of a receiver's own, and have a bound, before they get into a header, a subject or a body.
"""

import base64
import enum
import hashlib
import hmac
from collections.abc import Mapping
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parsedate_to_datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from client.views.formats import short_repository, words
from common.forges.shared.signatures import STANDARD_VERSION, standard_key
from common.safe_text import log_text
from common.version import VERSION

NAME_CHARACTERS_MAX = 200
USER_AGENT = f"PBFT-CI/{VERSION}"


class Turn(enum.StrEnum):
    """What happened to a branch. TEST: nothing; an operator tries a receiver."""

    BROKEN = "broken"
    FIXED = "fixed"
    TEST = "test"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A build with whose verdict a branch turned."""

    turn: Turn
    # whole ids, in hexadecimal digits
    build: str
    repository: str
    branch: str
    ref: str | None
    event: str
    commit: str | None
    author: str | None
    outcome: str
    exit_code: int | None
    # ISO 8601
    decided: str
    # of its page, and of its envelope, with which anybody can check the verdict
    url: str
    envelope_url: str


class Outgoing(msgspec.Struct, frozen=True):
    """An HTTP request that carries a message."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


def clean(text: str) -> str:
    """A stranger's text in one line, with a bound, and no backtick, which would end a quotation."""
    return log_text(text, NAME_CHARACTERS_MAX).replace("`", "'")


def subject_of(message: Message) -> str:
    """One line: what happened, and where."""
    code = "" if message.exit_code is None else f" {message.exit_code}"
    happened = {
        Turn.BROKEN: f"{words(message.outcome)}{code}",
        Turn.FIXED: "passed again",
        Turn.TEST: "a test message",
    }[message.turn]
    return f"{clean(short_repository(message.repository))} {clean(message.branch)}: {happened}"


def text_of(message: Message) -> str:
    """The message for people, in some lines."""
    lines = [subject_of(message), ""]
    lines.append(f"commit  {message.commit or '-'} ({message.event})")
    if message.author is not None:
        lines.append(f"author  {clean(message.author)}")
    lines += [
        f"build   {message.url}",
        f"proof   {message.envelope_url}",
        "",
        "This message is the word of one gateway. The proof has the signatures of replicas over the"
        " verdict: save it, and check it with `verify`. The build's page has the whole command.",
    ]
    return "\n".join(lines)


def http_message(
    kind: str, message: Message, identity: str, *, url: str, room: str | None = None
) -> Outgoing:
    """The request for a receiver, still without what its secret adds (`signed`, `bearing`).

    identity: the same for each try, so that the receiver can tell a repeated one.
    """
    if kind == "webhook":
        fields = msgspec.to_builtins(message)
        del fields["turn"]
        body: dict[str, Any] = {
            "type": f"build.{message.turn}",
            "timestamp": message.decided,
            "data": fields,
        }
        return _json("POST", url, body, headers={"webhook-id": identity})
    if kind == "matrix":
        assert room is not None, "checked when it was read"
        path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/m.room.message/{identity}"
        # no mentions: `@room` in a branch's name is to ring nobody
        content = {"msgtype": "m.notice", "body": text_of(message), "m.mentions": {}}
        return _json("PUT", f"{url.rstrip('/')}{path}", content)
    subject = f"`{subject_of(message)}`"
    author = f", author `{clean(message.author)}`" if message.author is not None else ""
    commit = f"commit `{(message.commit or '-')[:12]}` ({message.event}){author}"
    if kind == "slack":
        links = f"<{message.url}|build>, <{message.envelope_url}|signed proof>"
        return _json("POST", url, {"text": f"{_slack(subject)}\n{_slack(commit)}\n{links}"})
    assert kind == "mattermost", kind
    links = f"[build]({message.url}), [signed proof]({message.envelope_url})"
    return _json("POST", url, {"text": f"{subject}\n{commit}\n{links}"})


def signed(outgoing: Outgoing, secret: bytes, seconds: int) -> Outgoing:
    """With the signature of Standard Webhooks. seconds: since 1970.

    secret: `whsec_` and base64. Raises ValueError if it is something else.
    """
    key = standard_key(secret)
    if key is None:
        raise ValueError("is no secret of Standard Webhooks")
    identity = outgoing.headers["webhook-id"]
    content = f"{identity}.{seconds}.".encode() + outgoing.body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    headers = {
        **outgoing.headers,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"{STANDARD_VERSION},{signature}",
    }
    return msgspec.structs.replace(outgoing, headers=headers)


def bearing(outgoing: Outgoing, token: bytes) -> Outgoing:
    """With an access token."""
    headers = {**outgoing.headers, "Authorization": f"Bearer {token.decode('ascii')}"}
    return msgspec.structs.replace(outgoing, headers=headers)


def mail_of(
    message: Message, identity: str, *, sender: str, recipients: tuple[str, ...], date: str
) -> EmailMessage:
    """The message as a mail. date: as RFC 5322 has it. Its Message-ID is the same for each try."""
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Subject"] = subject_of(message)
    mail["Date"] = format_datetime(parsedate_to_datetime(date))
    mail["Message-ID"] = f"<{identity}@{sender.rpartition('@')[2]}>"
    # RFC 3834: no answers of holidays
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text_of(message))
    return mail


def _json(
    method: str, url: str, body: object, *, headers: Mapping[str, str] = MappingProxyType({})
) -> Outgoing:
    always = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
    return Outgoing(method, url, {**always, **headers}, msgspec.json.encode(body))


def _slack(text: str) -> str:
    """Slack reads `<!channel>` and the like as commands."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
