"""common.forges.shared.delivery: headers that count are there once, and bytes stay as they are."""

import re
from urllib.parse import quote_plus, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.forges.shared.delivery import Delivery
from common.forges.shared.event import Refusal


def test_headers_are_found_in_any_case() -> None:
    delivery = Delivery.of([("X-GitHub-Event", " push "), ("Empty", "")], b"")
    assert delivery.header("x-github-event") == "push"
    assert delivery.has("empty")
    assert delivery.header("empty") is None
    assert delivery.header("other") is None
    assert not delivery.has("other")


def test_a_header_that_is_there_twice_is_refused_and_read_as_none() -> None:
    delivery = Delivery.of([("X-Hub-Signature-256", "a"), ("x-hub-signature-256", "b")], b"")
    assert delivery.header("x-hub-signature-256") is None
    refusal = delivery.duplicate(["x-github-event", "x-hub-signature-256"])
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400
    assert "x-hub-signature-256" in refusal.text
    assert delivery.duplicate(["x-github-event"]) is None


@given(st.binary(min_size=1))
def test_a_forms_payload_is_exactly_the_bytes_that_were_encoded(content: bytes) -> None:
    form = b"payload=" + quote_plus(content).encode()
    assert Delivery.of([], form).form_payload() == content
    assert Delivery.of([], b"a=b&" + form + b"&c").form_payload() == content


def test_bytes_that_are_no_utf8_are_not_replaced() -> None:
    """A signature over the payload would be over other bytes than those that were sent."""
    assert Delivery.of([], b"payload=%ff%fe+%2B").form_payload() == b"\xff\xfe +"


@pytest.mark.parametrize("value", [b"=", b"%", b"%%", b"%4", b"%g1", b"%\n", b"a=\n", b"%3d="])
def test_what_is_not_encoded_as_a_forms_field_is_refused(value: bytes) -> None:
    answer = Delivery.of([], b"payload=" + value).form_payload()
    assert isinstance(answer, Refusal)
    assert answer.status == 400
    assert "not escaped" in answer.text


@given(st.binary(), st.sampled_from([b"%%%02x", b"%%%02X"]))
def test_every_byte_may_be_escaped(content: bytes, escape: bytes) -> None:
    form = b"payload=" + b"".join(escape % byte for byte in content)
    assert Delivery.of([], form).form_payload() == content


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([b"%", b"%4", b"%41", b"4", b"g", b"\r", b"\n", b"+", b" ", b"_"])))
def test_a_field_is_decoded_as_urllib_does_or_refused(pieces: list[bytes]) -> None:
    value = b"".join(pieces)
    answer = Delivery.of([], b"payload=" + value).form_payload()
    if re.search(rb"%(?![0-9A-Fa-f]{2})", value):
        assert isinstance(answer, Refusal)
    else:
        assert answer == unquote_to_bytes(value.replace(b"+", b" "))


def test_the_content_is_found_once() -> None:
    delivery = Delivery.of([], b"payload=%7B%7D")
    assert delivery.content() is delivery.content()


def test_two_payloads_are_refused() -> None:
    answer = Delivery.of([], b"payload=%7B%7D&payload=%7B%7D").form_payload()
    assert isinstance(answer, Refusal)


def test_a_form_of_many_fields_is_refused() -> None:
    answer = Delivery.of([], b"&".join([b"a=b"] * 100) + b"&payload=%7B%7D").form_payload()
    assert isinstance(answer, Refusal)


@pytest.mark.parametrize("body", [b'{"payload=": 1}', b' \n{"a": "&payload=x"}', b'["&payload="]'])
def test_json_that_mentions_a_payload_is_json(body: bytes) -> None:
    assert Delivery.of([], body).content() == body
