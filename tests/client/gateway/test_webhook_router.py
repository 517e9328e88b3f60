"""client.gateway.webhook_router: who may ask, for what, and what they are told; nothing raises."""

import base64
import json
import tracemalloc
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.operations import Event, decode_operation, encode_operation
from client.gateway import webhook_router
from client.gateway.webhook_router import (
    Answered,
    Ordered,
    Reception,
    Source,
    Withdrawn,
    delivery_identity,
    receive,
)
from common.forges.registry import ForgeKind, forge_of
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import BODY_BYTES_MAX, PLAIN_BODY_BYTES_MAX, Refusal
from tests.common.forges.deliveries import (
    BEFORE,
    FORK,
    GITEA_URL,
    GITHUB_URL,
    GITLAB_URL,
    NOW,
    OTHER_SECRET,
    PUSHED,
    QUEUE_REF,
    SECRET,
    bitbucket,
    body_of,
    data_center,
    gitea,
    github,
    gitlab,
    openssl_hmac,
    signing_headers,
    source,
)

STRANGER = Source(source(url="https://example.org/other.git").entry, (OTHER_SECRET,))


def received(delivery: Delivery, *sources: Source) -> Reception:
    return receive(delivery, sources or (source(),), now=NOW, config_file="client.yml")


def ordered(delivery: Delivery, *sources: Source) -> Ordered:
    answer = received(delivery, *sources)
    assert isinstance(answer, Ordered), answer
    return answer


def refused(delivery: Delivery, *sources: Source) -> Refusal:
    answer = received(delivery, *sources)
    assert isinstance(answer, Refusal), answer
    return answer


def plain(value: dict[str, object], secret: bytes | None = None) -> Delivery:
    body = json.dumps(value).encode()
    headers = []
    if secret is not None:
        headers = [("X-Hub-Signature-256", f"sha256={openssl_hmac(secret, body).hex()}")]
    return Delivery.of(headers, body)


PUSHES = [
    (github("github-push", "push"), source("github")),
    (github("github-push", "push", is_form=True), source("github")),
    (gitlab("gitlab-push", "Push Hook"), source("gitlab")),
    (gitea("gitea-push", "push"), source("gitea")),
    (gitea("gitea-push", "push", is_form=True), source("gitea")),
    (gitea("gitea-push", "push", is_forgejo=True), source("gitea")),
    (bitbucket("bitbucket-push", "repo:push"), source("bitbucket")),
    (
        data_center("bitbucket-data-center-push", "repo:refs_changed"),
        source("bitbucket_data_center"),
    ),
]


@pytest.mark.parametrize(("delivery", "sender"), PUSHES)
def test_a_push_of_each_forge_is_ordered(delivery: Delivery, sender: Source) -> None:
    build = ordered(delivery, STRANGER, sender).build
    assert (build.repository, build.commit) == (sender.entry.url, PUSHED)
    assert (build.event, build.ref, build.needs_approval) == (Event.PUSH, None, False)
    assert build.before == BEFORE
    assert build.delivery is not None
    assert build.delivery.forge == sender.entry.forge


@pytest.mark.parametrize(("delivery", "sender"), PUSHES)
def test_under_another_secret_none_is(delivery: Delivery, sender: Source) -> None:
    answer = refused(delivery, Source(sender.entry, (OTHER_SECRET,)))
    assert answer.status == 401
    assert "webhook_secret_file" in answer.text


def test_the_example_of_gitlabs_signed_form() -> None:
    key = b"0123456789abcdef0123456789abcdef"
    delivery = gitlab("gitlab-push", "Push Hook", token=None)
    headers = {n: (v,) for n, v in signing_headers(key, delivery.body).items()}
    signed = Delivery(delivery.headers | headers, delivery.body)
    token = b"whsec_" + base64.b64encode(key)
    assert ordered(signed, source("gitlab", secrets=(token,))).build.commit == PUSHED
    late = receive(
        signed, [source("gitlab", secrets=(token,))], now=NOW + 301, config_file="client.yml"
    )
    assert isinstance(late, Refusal)
    assert late.status == 401


# --- the same delivery is the same build ----------------------------------------------------------


def test_a_redelivery_is_the_same_whatever_its_headers_say() -> None:
    first = ordered(github("github-push", "push")).build
    again = github("github-push", "push", X_GitHub_Delivery="another-id", X_More="1")
    assert ordered(again).build == first


def test_a_replay_in_another_form_is_the_same() -> None:
    """The same event as JSON and as a form, each signed by the forge."""
    assert (
        ordered(gitea("gitea-push", "push"), source("gitea")).build
        == ordered(gitea("gitea-push", "push", is_form=True), source("gitea")).build
    )


def test_another_event_is_another_delivery() -> None:
    names = [
        ("github-push", "push"),
        ("github-push-tag", "push"),
        ("github-pull-request", "pull_request"),
        ("github-pull-request-fork", "pull_request"),
    ]
    builds = {ordered(github(name, event)).build for name, event in names}
    identities = {build.delivery.identity for build in builds if build.delivery is not None}
    assert len(identities) == len(names)


def test_the_identity_is_of_all_its_parts_and_of_no_other_split() -> None:
    base = ("github", "r", "refs/heads/a", "1")
    known = {delivery_identity(*base)}
    for other in (
        ("gitlab", "r", "refs/heads/a", "1"),
        ("github", "r2", "refs/heads/a", "1"),
        ("github", "r", "refs/heads/b", "1"),
        ("github", "r", "refs/heads/a", "2"),
        ("github", "rr", "efs/heads/a", "1"),
        ("github", "r", "refs/heads/a1", ""),
    ):
        known.add(delivery_identity(*other))
    assert len(known) == 7
    assert all(len(identity) == 32 for identity in known)


def test_a_signed_body_cannot_be_replayed_as_another_forges() -> None:
    """Gitea's signature is over the same bytes as GitHub's: it would be another delivery."""
    pushed = github("github-push", "push")
    signature = pushed.header("x-hub-signature-256")
    assert signature is not None
    as_gitea = Delivery.of(
        [("X-Gitea-Event", "push"), ("X-Gitea-Signature", signature.removeprefix("sha256="))],
        pushed.body,
    )
    answer = refused(as_gitea, source("github"))
    assert answer.status == 400
    assert "forge: github" in answer.text


def test_a_signed_body_cannot_be_replayed_as_a_plain_one() -> None:
    """A plain POST is a new build each time."""
    for name, event in (("github-push", "push"), ("github-pull-request", "pull_request")):
        delivery = github(name, event, X_GitHub_Event="(none)")
        assert forge_of(delivery) == "plain"
        assert "`branch` is missing" in refused(delivery).text


# --- plain ----------------------------------------------------------------------------------------


def test_a_plain_post_means_the_first_repository_unless_it_names_one() -> None:
    open_source = source(secrets=(), unsigned_allowed=True)
    other = source(url="https://example.org/b.git", secrets=(), unsigned_allowed=True)
    assert ordered(plain({"branch": "m"}), open_source, other).build.repository == GITHUB_URL
    named = plain({"branch": "m", "repoCloneUrl": "https://example.org/b.git"})
    build = ordered(named, open_source, other).build
    assert build.repository == "https://example.org/b.git"
    assert build.delivery is None


def test_a_plain_post_is_signed_where_unsigned_is_not_allowed() -> None:
    body: dict[str, object] = {"branch": "main"}
    assert refused(plain(body)).status == 401
    assert refused(plain(body, OTHER_SECRET)).status == 401
    assert ordered(plain(body, SECRET)).build.branch == "main"


def test_where_both_are_allowed_a_wrong_signature_is_still_wrong() -> None:
    either = source(unsigned_allowed=True)
    assert isinstance(received(plain({"branch": "m"}), either), Ordered)
    assert isinstance(received(plain({"branch": "m"}, SECRET), either), Ordered)
    assert refused(plain({"branch": "m"}, OTHER_SECRET), either).status == 401


def test_a_forges_unsigned_delivery_only_where_it_is_allowed() -> None:
    unsigned = gitea("gitea-push", "push", secret=None)
    assert refused(unsigned, source("gitea")).status == 401
    allowed = source("gitea", secrets=(), unsigned_allowed=True)
    assert ordered(unsigned, allowed).build.commit == PUSHED


# --- which repository -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "git@github.com:Codertocat/hello-world.git"},
        {"url": "https://github.com/Codertocat/hello-world"},
        {"url": "ssh://git@mirror.example.org/h", "aliases": (GITHUB_URL,)},
    ],
)
def test_a_repository_is_found_by_each_of_its_urls(settings: dict[str, object]) -> None:
    known = source(**settings)  # type: ignore[arg-type]
    assert ordered(github("github-push", "push"), known).build.repository == known.entry.url


def test_a_url_like_a_configured_one_is_another() -> None:
    for url in (GITHUB_URL + "/", GITHUB_URL.upper(), GITHUB_URL.replace("https", "http")):
        assert refused(github("github-push", "push"), source(url=url)).status == 404


def test_an_unknown_repository_is_404_for_who_knows_a_secret() -> None:
    other = source(url="https://github.com/Codertocat/other.git")
    answer = refused(github("github-push", "push"), other)
    assert answer.status == 404
    assert "`repositories:` in client.yml" in answer.text
    assert "other.git" not in answer.text, "what is configured is nobody's business"


def test_a_stranger_is_told_the_same_whether_the_repository_is_configured_or_not() -> None:
    for delivery in (
        github("github-push", "push", b"guess"),
        github("github-push", "push", X_Hub_Signature_256="(none)"),
    ):
        known = refused(delivery, source(), STRANGER)
        unknown = refused(delivery, STRANGER)
        assert known == unknown
        assert known.status == 401


def test_a_stranger_with_a_large_body_does_not_have_us_try_every_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivery = github("github-push", "push")
    monkeypatch.setattr(webhook_router, "HASHED_BYTES_MAX", 3 * len(delivery.body))
    others = [source(url=f"https://h/{n}", secrets=(b"x%d" % n,)) for n in range(3)]
    own = source(url="https://h/own")
    assert refused(delivery, own, *others).status == 404
    assert refused(delivery, *others, own).status == 401, "the fourth secret is not tried"
    known = source()
    assert isinstance(received(delivery, *others, known), Ordered), "a listed one always is"


def test_urls_of_two_repositories_are_refused() -> None:
    two = (source(), source(url="git@github.com:Codertocat/hello-world.git"))
    assert refused(github("github-push", "push"), *two).status == 400


def test_a_listed_repository_beside_another_one_does_not_show_to_strangers() -> None:
    """One body, two URLs: a repository that is known to be listed, and a guess."""
    secret = source(url="git@github.com:Codertocat/hello-world.git", secrets=(OTHER_SECRET,))
    unsigned = github("github-push", "push", X_Hub_Signature_256="(none)")
    for known in (source(), source(secrets=(), unsigned_allowed=True)):
        for delivery in (unsigned, github("github-push", "push", b"guess")):
            assert received(delivery, known, secret) == received(delivery, known, STRANGER)
    owned = received(github("github-push", "push"), source(), secret)
    assert owned == received(github("github-push", "push"), source()), "nor to another's owner"


def test_a_hook_of_an_organization_pings_with_any_known_secret() -> None:
    ping = github("github-ping-organization", "ping")
    assert received(ping, STRANGER, source()) == Answered("pong: this webhook is set up")
    assert refused(ping, STRANGER).status == 401


def test_a_ping_with_a_wrong_secret_says_so() -> None:
    """That is what a ping is for."""
    assert isinstance(received(github("github-ping", "ping")), Answered)
    assert refused(github("github-ping", "ping", OTHER_SECRET)).status == 401
    elsewhere = source(url="https://github.com/Codertocat/other.git")
    assert refused(github("github-ping", "ping"), elsewhere).status == 404


@pytest.mark.parametrize(
    ("delivery", "sender"),
    [
        (github("github-push-deleted", "push"), source("github")),
        (github("github-pull-request-closed", "pull_request"), source("github")),
        (gitlab("gitlab-push-deleted", "Push Hook"), source("gitlab")),
        (gitlab("gitlab-note", "Note Hook"), source("gitlab")),
        (gitea("gitea-push-deleted", "push"), source("gitea")),
        (gitea("gitea-test-delivery", "push"), source("gitea")),
    ],
)
def test_what_builds_nothing_is_answered_and_only_to_a_known_sender(
    delivery: Delivery, sender: Source
) -> None:
    answer = received(delivery, sender)
    assert isinstance(answer, Answered)
    assert answer.detail.startswith("ignored: ")
    assert refused(delivery, Source(sender.entry, (OTHER_SECRET,))).status == 401


def test_a_webhook_of_another_forge_than_configured_is_told_so_once_it_is_known() -> None:
    undeclared = source(None, url=GITEA_URL)
    answer = refused(gitea("gitea-push", "push"), undeclared)
    assert answer.status == 400
    assert "`forge: gitea`" in answer.text
    assert refused(gitea("gitea-push", "push", b"guess"), undeclared).status == 401


# --- what is wanted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("globs", "is_built"),
    [
        ((), True),
        (("main",), True),
        (("dev", "ma*"), True),
        (("release/*",), False),
        (("Main",), False),
    ],
)
def test_branches_are_filtered(globs: tuple[str, ...], is_built: bool) -> None:
    for delivery in (github("github-push", "push"), github("github-pull-request", "pull_request")):
        answer = received(delivery, source(branches=globs))
        assert isinstance(answer, Ordered if is_built else Answered), "a pull request by its base"
    tag = received(github("github-push-tag", "push"), source(branches=globs))
    assert isinstance(tag, Ordered), "a tag is on no branch"


@pytest.mark.parametrize(
    ("name", "event", "kind"),
    [
        ("github-push", "push", "push"),
        ("github-push-tag", "push", "tag"),
        ("github-pull-request", "pull_request", "pull_request"),
    ],
)
def test_events_are_filtered(name: str, event: str, kind: str) -> None:
    delivery = github(name, event)
    assert isinstance(received(delivery, source(events=(kind,))), Ordered)
    others = tuple({"push", "tag", "pull_request"} - {kind})
    answer = received(delivery, source(events=others))
    assert isinstance(answer, Answered)
    assert "`events`" in answer.detail


@pytest.mark.parametrize(
    ("allowed", "own_waits", "fork_waits"),
    [("same_repository", False, True), ("all", False, False), ("none", True, True)],
)
def test_whose_pull_requests_wait_for_approval(
    allowed: str, own_waits: bool, fork_waits: bool
) -> None:
    for own, fork, forge in (
        (
            github("github-pull-request", "pull_request"),
            github("github-pull-request-fork", "pull_request"),
            "github",
        ),
        (
            gitlab("gitlab-merge-request", "Merge Request Hook"),
            gitlab("gitlab-merge-request-fork", "Merge Request Hook"),
            "gitlab",
        ),
        (
            gitea("gitea-pull-request", "pull_request"),
            gitea("gitea-pull-request-fork", "pull_request"),
            "gitea",
        ),
    ):
        known = source(forge, pull_requests=allowed)
        assert ordered(own, known).build.needs_approval is own_waits
        build = ordered(fork, known).build
        assert (build.needs_approval, build.commit) == (fork_waits, FORK)
    assert not ordered(
        github("github-push", "push"), source(pull_requests="none")
    ).build.needs_approval


ALL_EVENTS = ("push", "tag", "pull_request", "merge_group")


def test_merge_groups_are_ordered_and_withdrawn_if_they_are_among_the_events() -> None:
    asked = github("github-merge-group", "merge_group")
    answer = received(asked, source())
    assert isinstance(answer, Answered), "only who lists it uses it"
    known = source(events=ALL_EVENTS, branches=("main",))
    build = ordered(asked, known).build
    assert (build.event, build.branch, build.ref) == (Event.MERGE_GROUP, "main", QUEUE_REF)
    assert not build.needs_approval
    destroyed = received(github("github-merge-group-destroyed", "merge_group"), known)
    assert isinstance(destroyed, Withdrawn)
    assert destroyed.build.delivery == build.delivery
    other = received(asked, source(events=ALL_EVENTS, branches=("other",)))
    assert isinstance(other, Answered)


def test_the_push_of_a_merge_group_is_not_built_beside_it() -> None:
    push = github("github-push-queue", "push")
    answer = received(push, source(events=ALL_EVENTS))
    assert isinstance(answer, Answered)
    assert "merge_group" in answer.detail
    assert isinstance(received(push, source()), Ordered), "as before, for who does not list it"


def test_a_push_of_several_refs_orders_those_that_are_wanted() -> None:
    names = ("one", "two", "three")
    changes = [
        {"new": {"type": "branch", "name": name, "target": {"hash": PUSHED}}} for name in names
    ]
    body = body_of("bitbucket-push", {"push.changes": [{"new": None}, *changes]})
    headers = [
        ("X-Hook-UUID", "{1}"),
        ("X-Event-Key", "repo:push"),
        ("X-Hub-Signature", f"sha256={openssl_hmac(SECRET, body).hex()}"),
    ]
    delivery = Delivery.of(headers, body)
    answer = ordered(delivery, source("bitbucket", branches=("t*",)))
    assert [each.build.branch for each in (answer, *answer.others)] == ["two", "three"]
    assert isinstance(received(delivery, source("bitbucket", branches=("x",))), Answered)


def test_of_a_request_at_bitbucket_the_commit_is_to_be_found() -> None:
    answer = ordered(
        bitbucket("bitbucket-pull-request", "pullrequest:created"), source("bitbucket")
    )
    assert (answer.build.ref, answer.build.commit) == ("refs/heads/changes", None)
    assert answer.commit_prefix == PUSHED[:12]
    fork = ordered(
        bitbucket("bitbucket-pull-request-fork", "pullrequest:created"), source("bitbucket")
    )
    assert "fork" in fork.skip_reason


def test_the_two_bitbuckets_are_two_forges() -> None:
    """Both sign alike: a delivery of one is none of the other, whatever its headers say."""
    cloud = bitbucket("bitbucket-push", "repo:push")
    stripped = Delivery(
        {name: value for name, value in cloud.headers.items() if name != "x-hook-uuid"}, cloud.body
    )
    url = source("bitbucket").entry.url
    for delivery, forge in ((cloud, "bitbucket_data_center"), (stripped, "bitbucket")):
        answer = received(delivery, source(forge, url))
        assert not isinstance(answer, Ordered)


def test_a_skipped_commit_is_kept_as_skipped() -> None:
    answer = ordered(github("github-push-skip", "push"))
    assert "[skip ci]" in answer.skip_reason
    assert answer.build.commit == PUSHED
    assert not ordered(github("github-push", "push")).skip_reason


# --- anything at all ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x-github-event", "x-hub-signature-256", "content-type"])
def test_a_header_that_counts_twice_is_refused(name: str) -> None:
    delivery = github("github-push", "push")
    twice = Delivery(delivery.headers | {name: delivery.headers[name] * 2}, delivery.body)
    answer = refused(twice)
    assert answer.status == 400
    assert name in answer.text


def test_a_body_over_25_megabytes_is_too_large() -> None:
    assert BODY_BYTES_MAX == 25 * 1024 * 1024
    for header in ("X-GitHub-Event", "X-GitLab-Event", "X-Gitea-Event"):
        delivery = Delivery.of([(header, "push")], b" " * (BODY_BYTES_MAX + 1))
        assert refused(delivery).status == 413


def test_a_plain_body_is_small() -> None:
    spaces = PLAIN_BODY_BYTES_MAX - len('{"branch": "m", "a": ""}')
    assert refused(plain({"branch": "m", "a": " " * (spaces + 1)}, SECRET)).status == 413
    assert isinstance(received(plain({"branch": "m", "a": " " * spaces}, SECRET)), Ordered)


HOSTILE_BYTES = 2 * 1024 * 1024
WRONG = "sha256=" + "0" * 64


@pytest.mark.parametrize(
    ("headers", "start", "piece", "end"),
    [
        ({"X-GitHub-Event": "push", "X-Hub-Signature-256": WRONG}, b"payload=", b"%61", b""),
        ({"X-Gitea-Event": "push", "X-Gitea-Signature": WRONG}, b"payload=", b"%61", b""),
        ({"X-GitHub-Event": "push", "X-Hub-Signature-256": WRONG}, b"payload=", b"=", b""),
        ({"X-GitHub-Event": "ping"}, b'{"a":[', b"[],", b"[]]}"),
        ({"X-Hub-Signature-256": WRONG}, b'{"branch":"m","a":[', b"[],", b"[]]}"),
        (
            {"X-Gitlab-Event": "Push Hook"},
            b'{"object_kind":"push","ref":"refs/heads/m","after":"0","project":{},"commits":[',
            b'{"id":""},',
            b'{"id":""}]}',
        ),
    ],
)
def test_a_strangers_body_costs_a_few_times_its_size(
    headers: dict[str, str], start: bytes, piece: bytes, end: bytes
) -> None:
    body = start + piece * (HOSTILE_BYTES // len(piece)) + end
    delivery = Delivery.of(headers.items(), body)
    tracemalloc.start()
    try:
        refused(delivery, STRANGER, source())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(body)


def test_a_form_is_decoded_once_however_many_secrets_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = []

    def form_payload(delivery: Delivery) -> bytes:
        decoded.append(delivery)
        return body_of("gitea-push")

    monkeypatch.setattr(Delivery, "form_payload", form_payload)
    others = [source("gitea", url=f"https://h/{n}", secrets=(b"x%d" % n,)) for n in range(3)]
    assert refused(gitea("gitea-push", "push", is_form=True), *others).status == 401
    assert len(decoded) == 1


HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-GitHub-Event", "X-Gitlab-Event", "X-Gitea-Event", "X-Forgejo-Event", "X-Gitlab-Token",
         "X-Hub-Signature-256", "X-Gitea-Signature", "webhook-signature", "webhook-id",
         "webhook-timestamp", "Content-Type"]
    ),
    st.text() | st.sampled_from(["push", "pull_request", "ping", "sha256=", "1", "Push Hook"]),
)  # fmt: skip
BODIES = st.binary() | st.sampled_from(
    [body_of(name) for name in ("github-push", "gitlab-merge-request", "gitea-pull-request")]
    + [b"[" * 100_000, b"payload=" + b"%5b" * 100_000, b'{"repository":' * 5000]
)


@settings(deadline=None)
@given(HEADERS, BODIES)
def test_any_delivery_gets_an_answer_and_none_without_a_secret_a_build(
    headers: dict[str, str], body: bytes
) -> None:
    sources = [source(forge) for forge in get_args(ForgeKind)]
    answer = receive(Delivery.of(headers.items(), body), sources, now=NOW, config_file="client.yml")
    assert isinstance(answer, Refusal)
    assert answer.status in (400, 401, 413)
    assert answer.text.isprintable()
    assert GITLAB_URL not in answer.text


FIXTURE_DELIVERIES = [
    (name, header, event)
    for names, header, event in (
        (("push", "push-tag", "push-deleted", "push-skip"), "X-GitHub-Event", "push"),
        (("pull-request", "pull-request-fork"), "X-GitHub-Event", "pull_request"),
        (("push", "tag-push", "merge-request", "merge-request-fork"), "X-Gitlab-Event", ""),
        (("push", "push-tag", "test-delivery"), "X-Gitea-Event", "push"),
        (("pull-request", "pull-request-fork"), "X-Gitea-Event", "pull_request"),
        (("merge-group", "merge-group-destroyed"), "X-GitHub-Event", "merge_group"),
    )
    for name in (f"{header.split('-')[1].lower()}-{name}" for name in names)
]
CLOUD_BODIES = {
    "bitbucket-push": "repo:push",
    "bitbucket-pull-request": "pullrequest:created",
    "bitbucket-pull-request-fork": "pullrequest:updated",
}
FIXTURE_DELIVERIES += [(name, "X-Event-Key", event) for name, event in CLOUD_BODIES.items()]
FIXTURE_DELIVERIES += [
    (f"bitbucket-data-center-{name}", "X-Event-Key", "")
    for name in ("push", "push-tag", "pull-request", "pull-request-fork")
]
JSON_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["refs/heads/x", "refs/tags/x", "0" * 40, PUSHED, "opened", "-x", "a..b"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(), st.integers(), max_size=2)
)


@settings(deadline=None)
@given(st.data())
def test_whatever_a_field_holds_what_is_ordered_fits_into_an_operation(data: st.DataObject) -> None:
    """A known sender, too, may send anything: it is refused, or it can be asked for."""
    name, header, event = data.draw(st.sampled_from(FIXTURE_DELIVERIES))
    value = json.loads(body_of(name))
    place = value
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON_VALUES)
        break
    sources = [
        source(forge, secrets=(), unsigned_allowed=True, events=ALL_EVENTS)
        for forge in get_args(ForgeKind)
    ]
    headers = [(header, event), *([("X-Hook-UUID", "1")] if name in CLOUD_BODIES else [])]
    delivery = Delivery.of(headers, json.dumps(value).encode())
    answer = receive(delivery, sources, now=NOW, config_file="client.yml")
    if isinstance(answer, Withdrawn):
        assert answer.build.delivery is not None
    elif isinstance(answer, Ordered):
        for each in (answer, *answer.others):
            build = each.build
            if each.commit_prefix is not None:
                build = msgspec.structs.replace(build, commit=PUSHED)
            if each.skip_reason:
                continue
            operation = build.operation(bytes(32))
            assert decode_operation(encode_operation(operation)) == operation
            assert operation.delivery is not None
            assert operation.commit is not None
    elif isinstance(answer, Refusal):
        assert answer.status in (400, 404)
        assert answer.text.isprintable()
