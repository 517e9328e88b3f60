"""Closed loops, and the four processes of the bound for `noop`, which answer all of them."""

import asyncio
import os
from pathlib import Path

import pytest

from bench.bound_clients import bound_clients
from bench.closed_loop import ClosedLoop, answered, measure
from bench.network import BenchFailed


class Echo(ClosedLoop):
    """Is answered as soon as the loop comes round, or never."""

    def __init__(self, in_flight: int, is_answered: bool = True) -> None:
        super().__init__("echo", in_flight)
        self.is_answered = is_answered
        self.most_under_way = 0

    def send_request(self, number: int) -> None:
        """As ClosedLoop asks for."""
        self.most_under_way = max(self.most_under_way, len(self._asked))
        if self.is_answered:
            asyncio.get_running_loop().call_later(0.001, self.note_answer, number)


async def test_so_many_are_under_way_and_none_afterwards() -> None:
    client = Echo(in_flight=3)
    load = await measure([client], 0.5, [os.getpid()])
    assert client.most_under_way == 3
    assert not client._asked
    assert load.operations_per_second > 0
    assert 0 < load.p50_seconds <= load.p99_seconds


async def test_without_an_answer_it_fails_and_names_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.closed_loop.ANSWERED_SECONDS", 0.05)
    with pytest.raises(BenchFailed, match="echo: no answer"):
        await measure([Echo(in_flight=1, is_answered=False)], 0.05, ())


def test_only_answers_within_the_time_count() -> None:
    first, second = Echo(1), Echo(1)
    first.answers = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]
    second.answers = [(0.5, 1.5)]
    assert answered([first, second], 1.5, 3.0) == [(0.5, 1.5), (1.0, 2.0)]


@pytest.mark.processes
async def test_the_bound_answers_many_clients_and_deep_ones(tmp_path: Path) -> None:
    async with bound_clients(tmp_path, clients=3, in_flight=4) as (clients, servers):
        load = await measure(clients, 1.5, servers)
        assert all(client.answers for client in clients)
    assert load.operations_per_second > 0
    assert load.server_cpu_seconds > 0
    assert load.client_cpu_seconds > 0
    written = [(tmp_path / f"bound{index}").stat().st_size for index in range(4)]
    assert min(written) > 0, "each of the four writes what it says"
