"""common.forges.plain.webhooks: each body gets a request or a helpful refusal."""

import json
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ci.operations import Event, SubmitBuild, decode_operation, encode_operation
from common.forges.plain.webhooks import parse
from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Action, ForgeEvent, Refusal

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "https://example.org/b.git"

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


def parse_webhook(body: bytes, content_type: str = "") -> ForgeEvent | Refusal:
    return parse(Delivery.of([("Content-Type", content_type)], body))


def wanted(branch: str, repository: str | None = None, commit: str | None = None) -> ForgeEvent:
    repositories = () if repository is None else (repository,)
    return ForgeEvent(action=Action.BUILD, repositories=repositories, branch=branch, commit=commit)


@given(st.binary() | st.binary().map(lambda tail: b"payload=" + tail), st.text())
@example(b"[" * 100_000, "application/json")
@example(b"payload=" + b"%5b" * 100_000, "")
@example(b"payload=%ed%a0%80", "")
@example(b"&".join([b"a=b"] * 1000) + b"&payload={}", "")
@example(b'{"branch": "\\ud800"}', "")
def test_any_bytes_get_an_answer(body: bytes, content_type: str) -> None:
    answer = parse_webhook(body, content_type)
    if isinstance(answer, Refusal):
        assert answer.status == 400
        assert answer.text


@given(likely_objects)
def test_what_is_accepted_can_be_asked_for(value: dict[str, object]) -> None:
    """Whatever passes here fits into an operation, and goes through SQLite and JSON."""
    answer = parse_webhook(json.dumps(value).encode())
    if isinstance(answer, Refusal):
        assert answer.status == 400
        answer.text.encode("ascii")
        assert "\n" not in answer.text
    else:
        assert answer.stable_identity is None, "each POST is a new build"
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
    assert parse_webhook(body, content_type) == wanted("master")
    form = b"payload=" + quote(body).encode()
    assert parse_webhook(form, content_type) == wanted("master")


def test_all_fields() -> None:
    body = {"branch": "a/b", "repoCloneUrl": REPOSITORY, "commit": COMMIT, "more": [1]}
    expected = wanted("a/b", REPOSITORY, COMMIT)
    assert parse_webhook(json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refs/heads/v9", wanted("v9")),
        (
            "refs/tags/v9",
            ForgeEvent(
                action=Action.BUILD,
                repositories=(),
                event=Event.TAG,
                branch="v9",
                ref="refs/tags/v9",
            ),
        ),
    ],
)
def test_a_full_name_of_a_branch_or_a_tag(name: str, expected: ForgeEvent) -> None:
    assert parse_webhook(json.dumps({"branch": name}).encode()) == expected


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
        (b'{"branch": "refs/pull/3/head"}', "neither a branch nor a tag"),
        (b'{"branch": "refs/tags/"}', "`branch`"),
        (b"payload=%7B", "field `payload`"),
    ],
)
def test_a_refusal_says_what_and_where(body: bytes | str, word: str) -> None:
    answer = parse_webhook(body.encode() if isinstance(body, str) else body)
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert word in answer.text


def test_a_form_without_payload_is_told_what_to_send() -> None:
    answer = parse_webhook(b"branch=master", "application/x-www-form-urlencoded")
    assert isinstance(answer, Refusal)
    assert '{"branch": "master"}' in answer.text
