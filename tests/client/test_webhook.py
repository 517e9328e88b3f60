"""client.webhook: every body gets a request or a refusal that helps; nothing raises."""

import json
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ci.operations import SubmitBuild, decode_operation, encode_operation
from client.webhook import (
    BODY_BYTES_MAX,
    WebhookRefusal,
    WebhookRequest,
    choose_repository,
    parse_webhook,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = ["https://example.org/a.git", "https://example.org/b.git"]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
likely_objects = st.fixed_dictionaries(
    {},
    optional={
        "branch": st.text() | json_values | st.sampled_from(["master", "a/b", "-x", "a..b"]),
        "repoCloneUrl": st.text() | json_values,
        "commit": st.text() | st.just(COMMIT) | json_values,
        "other": json_values,
    },
)


@given(st.binary() | st.binary().map(lambda tail: b"payload=" + tail), st.text())
@example(b"[" * 100_000, "application/json")
@example(b"payload=" + b"%5b" * 100_000, "")
@example(b"payload=%ed%a0%80", "")
@example(b"&".join([b"a=b"] * 1000) + b"&payload={}", "")
@example(b'{"branch": "\\ud800"}', "")
def test_any_bytes_get_an_answer(body: bytes, content_type: str) -> None:
    answer = parse_webhook(body, content_type)
    if isinstance(answer, WebhookRefusal):
        assert answer.status in (400, 413)
        assert answer.text


@given(likely_objects)
def test_what_is_accepted_can_be_asked_for(value: dict[str, object]) -> None:
    """Whatever passes here fits into an operation, and goes through SQLite and JSON."""
    answer = parse_webhook(json.dumps(value).encode())
    if isinstance(answer, WebhookRefusal):
        assert answer.status == 400
        answer.text.encode("ascii")
        assert "\n" not in answer.text
    else:
        operation = SubmitBuild(bytes(32), "r", answer.branch, answer.commit)
        assert decode_operation(encode_operation(operation)) == operation
        msgspec.json.encode(answer)


@given(likely_objects)
def test_the_form_of_people_and_of_forges_means_the_same(value: dict[str, object]) -> None:
    body = json.dumps(value).encode()
    assert parse_webhook(b"payload=" + quote_plus(body).encode()) == parse_webhook(body)


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "application/x-www-form-urlencoded", "text/plain"]
)
def test_the_content_type_does_not_matter(content_type: str) -> None:
    body = b'{"branch": "master"}'
    assert parse_webhook(body, content_type) == WebhookRequest("master")
    form = b"payload=" + quote(body).encode()
    assert parse_webhook(form, content_type) == WebhookRequest("master")


def test_all_fields() -> None:
    body = {"branch": "a/b", "repoCloneUrl": REPOSITORIES[1], "commit": COMMIT, "more": [1]}
    expected = WebhookRequest("a/b", REPOSITORIES[1], COMMIT)
    assert parse_webhook(json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"branch=master", "JSON"),
        (b"[1]", "list"),
        (b'"master"', "string"),
        (b"null", "null"),
        (b"{}", "`branch` is missing"),
        (b'{"branch": null}', "`branch` is missing"),
        (b'{"branch": 1}', "a number"),
        (b'{"branch": true}', "a boolean"),
        (b'{"branch": ""}', "`branch`"),
        (b'{"branch": "a b"}', "space"),
        (b'{"branch": "-upload-pack=x"}', "'-'"),
        (b'{"branch": "' + b"a" * 256 + b'"}', "256"),
        ('{"branch": "' + "é" * 200 + '"}', "400 bytes"),
        (b'{"branch": "m", "repoCloneUrl": 1}', "`repoCloneUrl` is a number"),
        (b'{"branch": "m", "repoCloneUrl": ""}', "`repoCloneUrl` has 0"),
        (b'{"branch": "m", "commit": "abc"}', "`commit`"),
        (b'{"branch": "m", "commit": "' + COMMIT.upper().encode() + b'"}', "`commit`"),
        (b"payload=%7B", "field `payload`"),
    ],
)
def test_a_refusal_says_what_and_where(body: bytes | str, word: str) -> None:
    answer = parse_webhook(body.encode() if isinstance(body, str) else body)
    assert isinstance(answer, WebhookRefusal)
    assert answer.status == 400
    assert word in answer.text


def test_a_form_without_payload_is_told_what_to_send() -> None:
    answer = parse_webhook(b"branch=master", "application/x-www-form-urlencoded")
    assert isinstance(answer, WebhookRefusal)
    assert '{"branch": "master"}' in answer.text


def test_a_body_over_25_megabytes_is_too_large() -> None:
    answer = parse_webhook(b" " * (BODY_BYTES_MAX + 1))
    assert isinstance(answer, WebhookRefusal)
    assert answer.status == 413


def test_the_repository_is_a_configured_one() -> None:
    assert choose_repository(WebhookRequest("m"), REPOSITORIES, "client.yml") == REPOSITORIES[0]
    second = WebhookRequest("m", REPOSITORIES[1])
    assert choose_repository(second, REPOSITORIES, "client.yml") == REPOSITORIES[1]


@pytest.mark.parametrize(
    "url", ["https://example.org/a.git/", "file:///etc", "ext::sh -c x", "\x1b[31m", "HTTPS://x"]
)
def test_any_other_repository_is_refused_with_the_name_of_the_setting(url: str) -> None:
    answer = choose_repository(WebhookRequest("m", url), REPOSITORIES, "client.yml")
    assert isinstance(answer, WebhookRefusal)
    assert answer.status == 404
    assert "`repositories:` in client.yml" in answer.text
    assert "\x1b" not in answer.text
