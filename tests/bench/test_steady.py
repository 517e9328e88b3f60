"""What became of a process's memory and file descriptors."""

import os

import pytest

from bench.closed_loop import ClosedLoop
from bench.steady import Sample, growth, read_sample, take_answers

MEBIBYTE = 2**20


def _samples(resident: list[float], descriptors: list[int]) -> list[Sample]:
    return [
        Sample(float(at), round(mebibytes * MEBIBYTE), count)
        for at, (mebibytes, count) in enumerate(zip(resident, descriptors, strict=True))
    ]


def test_the_warm_up_is_no_growth() -> None:
    grown = growth(_samples([50.0] * 20 + [100.0] * 40, [10] * 60))
    assert grown.memory == 1.0
    assert grown.mebibytes == 100.0
    assert grown.mebibytes_per_hour == 0.0


def test_a_leak_is_growth() -> None:
    grown = growth(_samples([100.0 + at for at in range(60)], [10 + at for at in range(60)]))
    assert grown.memory > 1.1
    assert grown.descriptors > 1.1
    assert grown.mebibytes_per_hour == pytest.approx(3600.0)


def test_descriptors_that_come_and_go_are_no_growth() -> None:
    assert growth(_samples([100.0] * 60, [10, 30] * 30)).descriptors == 1.0


class _Client(ClosedLoop):
    def send_request(self, number: int) -> None:
        """Nobody is asked."""


def test_answers_are_counted_once_and_not_kept() -> None:
    clients = [_Client("a", 3), _Client("b", 1)]
    for client in clients:
        client.start_asking()
    for number in (1, 2, 3):
        clients[0].note_answer(number)
    clients[1].note_answer(1)
    assert take_answers(clients) == 4
    assert take_answers(clients) == 0
    assert not any(client.answers for client in clients)


def test_a_process_can_be_looked_at() -> None:
    sample = read_sample(os.getpid(), 1.5)
    assert sample.at == 1.5
    assert sample.resident_bytes > MEBIBYTE
    assert sample.descriptors > 2
