"""Deliveries for tests: whole bodies from fixtures/, signed by the openssl command, not by us."""

import base64
import subprocess
from pathlib import Path
from urllib.parse import quote_plus

from client.gateway.webhook_router import Source
from common.forges.shared.delivery import Delivery
from common.repositories.repository_config import GatewayRepository

FIXTURES = Path(__file__).parent / "fixtures"
SECRET = b"It's a Secret to Everybody"
OTHER_SECRET = b"another secret of this machine"
NOW = 1_760_000_000.0

# The commits of the fixtures.
BEFORE = "4c1e1ed50d4d2c94bdf6cf2d5dbeaf8e0a2c8f11"
PUSHED = "9bd1ab0dc28e7ac4f6ee7cc2bdc4cd9f4d7c3a52"
# What the ref pointed at until then.
BEFORE = "4c1e1ed50d4d2c94bdf6cf2d5dbeaf8e0a2c8f11"
TAG_OBJECT = "1f0e7f6a5b3c2d4e5f60718293a4b5c6d7e8f901"
FORK = "c0ffee0123456789abcdef0123456789abcdef01"

GITHUB_URL = "https://github.com/Codertocat/hello-world.git"
GITLAB_URL = "https://gitlab.example.org/mike/diaspora.git"
GITEA_URL = "https://gitea.example.org/anna/werkzeug.git"


def body_of(name: str) -> bytes:
    """The bytes of a fixture."""
    return (FIXTURES / f"{name}.json").read_bytes()


def form_of(body: bytes) -> bytes:
    """The body as a forge sends it as a form."""
    return b"payload=" + quote_plus(body).encode()


def openssl_hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 as openssl computes it."""
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}"]
    ran = subprocess.run([*command, "-binary"], input=data, check=True, capture_output=True)
    return ran.stdout


def github(
    name: str, event: str, secret: bytes = SECRET, *, is_form: bool = False, **headers: str
) -> Delivery:
    """A delivery as GitHub sends it: a form is signed as it travels."""
    body = form_of(body_of(name)) if is_form else body_of(name)
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    given = {
        "User-Agent": "GitHub-Hookshot/044aadd",
        "Content-Type": kind,
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-GitHub-Event": event,
        "X-GitHub-Hook-ID": "292430182",
        "X-Hub-Signature-256": f"sha256={openssl_hmac(secret, body).hex()}",
    }
    return Delivery.of(_merged(given, headers), body)


def gitea(
    name: str,
    event: str,
    secret: bytes | None = SECRET,
    *,
    is_form: bool = False,
    is_forgejo: bool = False,
    **headers: str,
) -> Delivery:
    """A delivery as Gitea or Forgejo sends it: the JSON is signed, also inside a form."""
    content = body_of(name)
    signature = "" if secret is None else openssl_hmac(secret, content).hex()
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    given = {"User-Agent": "Go-http-client/1.1", "Content-Type": kind}
    for prefix in ("X-Gitea", "X-Gogs", *(["X-Forgejo"] if is_forgejo else [])):
        given |= {
            f"{prefix}-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473",
            f"{prefix}-Event": event,
            f"{prefix}-Event-Type": event,
            f"{prefix}-Signature": signature,
        }
    given |= {
        "X-GitHub-Delivery": "f6266f16-1bf3-46a5-9ea4-602e06ead473",
        "X-GitHub-Event": event,
        "X-GitHub-Event-Type": event,
        "X-Hub-Signature": "sha1=",
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    return Delivery.of(_merged(given, headers), form_of(content) if is_form else content)


def gitlab(name: str, event: str, token: bytes | None = SECRET, **headers: str) -> Delivery:
    """A delivery as GitLab sends it, with its token."""
    given = {
        "User-Agent": "GitLab/18.5.0",
        "Content-Type": "application/json",
        "X-Gitlab-Event": event,
        "X-Gitlab-Webhook-UUID": "02affd2d-2cba-4033-917d-ec22d5dc4b38",
        "X-Gitlab-Instance": "https://gitlab.example.org",
        "X-Gitlab-Event-UUID": "13792a34-cac6-4fda-95a8-c58e00a3954e",
        "Idempotency-Key": "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
    }
    if token is not None:
        given["X-Gitlab-Token"] = token.decode()
    return Delivery.of(_merged(given, headers), body_of(name))


def signing_headers(key: bytes, body: bytes, at: float = NOW) -> dict[str, str]:
    """The headers of Standard Webhooks, signed by openssl with the key of a signing token."""
    identity, seconds = "f5e5f430-f57b-4e6e-9fac-d9128cd7232f", str(int(at))
    signature = openssl_hmac(key, f"{identity}.{seconds}.".encode() + body)
    return {
        "webhook-id": identity,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def source(
    forge: str | None = "github",
    url: str | None = None,
    secrets: tuple[bytes, ...] = (SECRET,),
    **settings: object,
) -> Source:
    """A configured repository: that of the forge's fixtures, unless `url` says another."""
    known = {"github": GITHUB_URL, "gitlab": GITLAB_URL, "gitea": GITEA_URL}
    if url is None:
        assert forge is not None
        url = known[forge]
    return Source(GatewayRepository(url, forge=forge, **settings), secrets)  # type: ignore[arg-type]


def _merged(given: dict[str, str], more: dict[str, str]) -> list[tuple[str, str]]:
    """Headers; a keyword X_Hub_Signature_256 replaces X-Hub-Signature-256, "" takes it out."""
    merged = given | {name.replace("_", "-"): value for name, value in more.items()}
    return [(name, value) for name, value in merged.items() if value != "(none)"]
