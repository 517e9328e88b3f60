"""Deliveries for tests: whole bodies from fixtures/, signed by the openssl command, not by us.

A body that differs from one of fixtures/ in a few values is no file: `DERIVED` has what differs.
"""

import base64
import json
import subprocess
from collections.abc import Mapping
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
PUSHED = "9bd1ab0dc28e7ac4f6ee7cc2bdc4cd9f4d7c3a52"
# What the ref pointed at until then.
BEFORE = "4c1e1ed50d4d2c94bdf6cf2d5dbeaf8e0a2c8f11"
TAG_OBJECT = "1f0e7f6a5b3c2d4e5f60718293a4b5c6d7e8f901"
FORK = "c0ffee0123456789abcdef0123456789abcdef01"
# A forge's word for no commit: before a ref is made, and after it is deleted.
NO_COMMIT = "0" * 40

GITHUB_URL = "https://github.com/Codertocat/hello-world.git"
GITLAB_URL = "https://gitlab.example.org/mike/diaspora.git"
GITEA_PAGE = "https://gitea.example.org/anna/werkzeug"
GITEA_URL = f"{GITEA_PAGE}.git"
BITBUCKET_URL = "https://bitbucket.org/emma/webapp.git"
DATA_CENTER_URL = "https://bitbucket.example.org/scm/tool/werkzeug.git"
QUEUE_REF = f"refs/heads/gh-readonly-queue/main/pr-104-{BEFORE}"


# The value of a field that a derived body does not have.
REMOVED = object()
# Body -> the fixture it comes from, and its other values by their path.
DERIVED: dict[str, tuple[str, dict[str, object]]] = {
    "github-push-skip": (
        "github-push",
        {
            "commits.0.message": "Correct a comma [skip ci]",
            "head_commit.message": "Correct a comma [skip ci]",
        },
    ),
    "github-push-tag": (
        "github-push",
        {
            "ref": "refs/tags/v1.0.0",
            "before": NO_COMMIT,
            "after": TAG_OBJECT,
            "created": True,
            "base_ref": "refs/heads/main",
            "compare": "https://github.com/Codertocat/hello-world/compare/"
            "000000000000...1f0e7f6a5b3c",
            "commits": [],
            "head_commit.message": "Release 1.0.0",
        },
    ),
    "github-push-deleted": (
        "github-push",
        {
            "ref": "refs/heads/old",
            "before": PUSHED,
            "after": NO_COMMIT,
            "deleted": True,
            "compare": "https://github.com/Codertocat/hello-world/compare/"
            "9bd1ab0dc28e...000000000000",
            "commits": [],
            "head_commit": None,
        },
    ),
    "github-push-queue": ("github-push", {"ref": QUEUE_REF, "before": NO_COMMIT, "created": True}),
    "github-merge-group-destroyed": (
        "github-merge-group",
        {"action": "destroyed", "reason": "dequeued"},
    ),
    "bitbucket-push-tag": (
        "bitbucket-push",
        {
            "push.changes.0.old": None,
            "push.changes.0.created": True,
            "push.changes.0.new.type": "tag",
            "push.changes.0.new.name": "v1.0.0",
        },
    ),
    "bitbucket-push-deleted": (
        "bitbucket-push",
        {
            "push.changes.0.old.name": "old",
            "push.changes.0.new": None,
            "push.changes.0.closed": True,
            "push.changes.0.commits": [],
        },
    ),
    "bitbucket-pull-request-fork-gone": (
        "bitbucket-pull-request-fork",
        {"pullrequest.source.repository": None},
    ),
    "bitbucket-data-center-push-tag": (
        "bitbucket-data-center-push",
        {
            "changes.0.ref": {"id": "refs/tags/v1.0.0", "displayId": "v1.0.0", "type": "TAG"},
            "changes.0.refId": "refs/tags/v1.0.0",
            "changes.0.fromHash": NO_COMMIT,
            "changes.0.toHash": TAG_OBJECT,
            "changes.0.type": "ADD",
            "commits": [],
        },
    ),
    "bitbucket-data-center-push-deleted": (
        "bitbucket-data-center-push",
        {
            "changes.0.ref": {"id": "refs/heads/old", "displayId": "old", "type": "BRANCH"},
            "changes.0.refId": "refs/heads/old",
            "changes.0.toHash": NO_COMMIT,
            "changes.0.type": "DELETE",
            "commits": [],
            "toCommit": REMOVED,
        },
    ),
    "bitbucket-data-center-pull-request-retitled": (
        "bitbucket-data-center-pull-request",
        {
            "eventKey": "pr:modified",
            "previousTitle": "Correct a coma",
            "previousTarget": {"displayId": "main", "latestCommit": BEFORE},
        },
    ),
    "github-pull-request-closed": ("github-pull-request", {"action": "closed"}),
    "github-pull-request-fork-gone": (
        "github-pull-request-fork",
        {
            "action": "reopened",
            "pull_request.head.repo": None,
            # only `synchronize` has them
            "before": REMOVED,
            "after": REMOVED,
        },
    ),
    "gitea-push-skip": (
        "gitea-push",
        {"commits.0.message": "[CI SKIP] Komma\n", "head_commit.message": "[CI SKIP] Komma\n"},
    ),
    "gitea-push-tag": (
        "gitea-push",
        {
            "ref": "refs/tags/v1.0.0",
            "before": NO_COMMIT,
            "after": TAG_OBJECT,
            "compare_url": f"{GITEA_PAGE}/compare/{NO_COMMIT}...{TAG_OBJECT}",
            "commits.0.message": "Release\n",
            "head_commit.message": "Release\n",
        },
    ),
    "gitea-push-deleted": (
        "gitea-push",
        {
            "ref": "refs/heads/old",
            "before": PUSHED,
            "after": NO_COMMIT,
            "compare_url": f"{GITEA_PAGE}/compare/{PUSHED}...{NO_COMMIT}",
            "commits": [],
            "total_commits": 0,
            "head_commit": None,
        },
    ),
    "gitea-test-delivery": (
        "gitea-push",
        {
            "before": NO_COMMIT,
            "after": NO_COMMIT,
            "compare_url": f"{GITEA_PAGE}/compare/{NO_COMMIT}...{NO_COMMIT}",
            **{
                f"{commit}.{field}": value
                for commit in ("commits.0", "head_commit")
                for field, value in (
                    ("id", NO_COMMIT),
                    ("message", "This is a fake commit"),
                    ("url", f"{GITEA_PAGE}/commit/{NO_COMMIT}"),
                )
            },
        },
    ),
    "gitea-pull-request-labelled": ("gitea-pull-request", {"action": "label_updated"}),
    "gitlab-push-skip": (
        "gitlab-push",
        {
            "commits.0.message": "Erster Teil",
            "commits.0.title": "Erster Teil",
            "commits.1.message": "Zweiter Teil\n\n[ci skip]",
        },
    ),
    "gitlab-push-deleted": (
        "gitlab-push",
        {
            "before": PUSHED,
            "after": NO_COMMIT,
            "ref": "refs/heads/old",
            "checkout_sha": None,
            "commits": [],
            "total_commits_count": 0,
        },
    ),
    "gitlab-tag-push": (
        "gitlab-push",
        {
            "object_kind": "tag_push",
            "event_name": "tag_push",
            "before": NO_COMMIT,
            "after": TAG_OBJECT,
            "ref": "refs/tags/v1.0.0",
            "commits": [],
            "total_commits_count": 0,
        },
    ),
    "gitlab-merge-request-retitled": (
        "gitlab-merge-request",
        {"object_attributes.action": "update"},
    ),
}


def body_of(name: str, changes: Mapping[str, object] | None = None) -> bytes:
    """The body: a fixture or a derived one, as it is or with `changes` (path -> value).

    A path is as in `commits.0.message`; the value REMOVED takes the field out.
    """
    if name in DERIVED:
        base, values = DERIVED[name]
        return body_of(base, values | dict(changes or {}))
    body = (FIXTURES / f"{name}.json").read_bytes()
    return body if changes is None else _with_changes(body, changes)


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


def bitbucket(
    name: str,
    event: str,
    changes: Mapping[str, object] | None = None,
    secret: bytes | None = SECRET,
    **headers: str,
) -> Delivery:
    """A delivery as Bitbucket Cloud sends it; without a secret it has no signature."""
    given = {
        "User-Agent": "Bitbucket-Webhooks/2.0",
        "X-Event-Key": event,
        "X-Hook-UUID": "{c040300a-9b69-4fb0-8f5f-4d84a02cbc6e}",
        "X-Attempt-Number": "1",
    }
    return _bitbucket(body_of(name, changes), given, secret, headers)


def data_center(
    name: str,
    event: str,
    changes: Mapping[str, object] | None = None,
    secret: bytes | None = SECRET,
    **headers: str,
) -> Delivery:
    """A delivery as Bitbucket Data Center sends it; without a secret it has no signature."""
    given = {
        "User-Agent": "Atlassian HttpClient",
        "X-Event-Key": event,
        "X-Request-Id": "c040300a-9b69-4fb0-8f5f-4d84a02cbc6e",
    }
    return _bitbucket(body_of(name, changes), given, secret, headers)


def _bitbucket(
    body: bytes, given: dict[str, str], secret: bytes | None, headers: dict[str, str]
) -> Delivery:
    given["Content-Type"] = "application/json"
    if secret is not None:
        given["X-Hub-Signature"] = f"sha256={openssl_hmac(secret, body).hex()}"
    return Delivery.of(_merged(given, headers), body)


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
    known = {
        "github": GITHUB_URL,
        "gitlab": GITLAB_URL,
        "gitea": GITEA_URL,
        "bitbucket": BITBUCKET_URL,
        "bitbucket_data_center": DATA_CENTER_URL,
    }
    if url is None:
        assert forge is not None
        url = known[forge]
    return Source(GatewayRepository(url, forge=forge, **settings), secrets)  # type: ignore[arg-type]


def _with_changes(body: bytes, changes: Mapping[str, object]) -> bytes:
    """The JSON with other values at some paths, written as the fixtures are."""
    whole = json.loads(body)
    for path, value in changes.items():
        *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
        place = whole
        for parent in parents:
            place = place[parent]
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value
    return json.dumps(whole, ensure_ascii=False, indent=2).encode() + b"\n"


def _merged(given: dict[str, str], more: dict[str, str]) -> list[tuple[str, str]]:
    """Headers; a keyword X_Hub_Signature_256 replaces X-Hub-Signature-256, "" takes it out."""
    merged = given | {name.replace("_", "-"): value for name, value in more.items()}
    return [(name, value) for name, value in merged.items() if value != "(none)"]
