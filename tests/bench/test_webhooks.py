"""The webhooks that a bench sends are what a gateway takes, and their times are told."""

import json
import time
from pathlib import Path

import pytest

from bench.accept import _one_row_server
from bench.network import BenchFailed
from bench.process_use import cpu_seconds
from bench.webhooks import post_at_rate, push_webhook
from client.gateway.webhook_router import Ordered, Source, receive
from common.forges.shared.delivery import Delivery
from common.repositories.repository_config import GatewayRepository

URL = "file:///srv/project.git"
COMMIT = "ab" * 20
SECRET = b"a secret of this test"


def test_the_client_takes_it_for_a_signed_push() -> None:
    body, headers = push_webhook(URL, "feature", COMMIT, secret=SECRET)
    source = Source(GatewayRepository(url=URL, forge="github"), (SECRET,))
    delivery = Delivery.of(list(headers.items()), body)
    received = receive(delivery, [source], now=time.time(), config_file="client.yml")
    assert isinstance(received, Ordered), received
    assert (received.build.branch, received.build.commit) == ("feature", COMMIT)


def test_a_wrong_secret_is_noticed() -> None:
    body, headers = push_webhook(URL, "feature", COMMIT, secret=b"another secret")
    source = Source(GatewayRepository(url=URL, forge="github"), (SECRET,))
    delivery = Delivery.of(list(headers.items()), body)
    received = receive(delivery, [source], now=time.time(), config_file="client.yml")
    assert not isinstance(received, Ordered)


@pytest.mark.processes
async def test_the_handler_keeps_a_row_for_each(tmp_path: Path) -> None:
    webhooks = [push_webhook(URL, f"branch-{n}", COMMIT, secret=SECRET) for n in range(20)]
    with _one_row_server(tmp_path) as (url, server):
        latencies = await post_at_rate(url, webhooks, per_second=200.0)
        with pytest.raises(BenchFailed, match="404"):
            await post_at_rate(f"{url}/elsewhere", webhooks[:1], per_second=200.0)
        assert cpu_seconds(server) > 0
    assert len(latencies) == 20
    assert all(latency > 0 for latency in latencies)
    assert json.loads(webhooks[0][0])["after"] == COMMIT
    assert (tmp_path / "one-row.sqlite").stat().st_size > 0
