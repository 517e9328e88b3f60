"""client.api.refusal_log: a stranger's webhooks do not fill the log."""

import logging

import pytest

from client.api.refusal_log import RefusalLog
from common.forges.shared.event import Refusal

REFUSAL = Refusal(401, "no signature")


def test_of_many_in_a_minute_few_are_said_with_their_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    refusals = RefusalLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            refusals.note(REFUSAL)
            now += 0.05
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 10, "1, 2, 4 ... 512"
    assert said[0] == "a webhook was refused (401): no signature"
    assert said[-1] == "a webhook was refused (401): no signature; 512 within a minute"


def test_one_now_and_then_is_always_said(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = RefusalLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            refusals.note(REFUSAL)
            now += 61.0
    assert [record.getMessage() for record in caplog.records] == [
        "a webhook was refused (401): no signature"
    ] * 10


def test_what_was_left_out_is_counted_in_the_next_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = RefusalLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(7):
            refusals.note(REFUSAL)
        now = 60.0
        refusals.note(REFUSAL)
    assert len(caplog.records) == 4
    assert (
        caplog.records[-1].getMessage().endswith("; 3 more were, before, and are not in this log")
    )
