"""node.outputs.report_readers: one process for each reading, and none is left."""

import subprocess
from collections.abc import Iterator

import pytest

from node.outputs.report_readers import ReportReaders


@pytest.fixture
def readers() -> Iterator[ReportReaders]:
    readers = ReportReaders()
    yield readers
    readers.close()


def read(process: "subprocess.Popen[bytes]") -> bytes:
    """What it prints of a report with one case, and of a workspace `/w`."""
    report = b'<testsuite><testcase name="a"/></testsuite>'
    said, _ = process.communicate(b"2\n/w5 %d\n0.xml%s" % (len(report), report), timeout=60)
    assert process.returncode == 0
    return said


def test_the_next_one_is_started_ahead_once_one_was_needed(readers: ReportReaders) -> None:
    readers.prepare()
    first = readers.take()
    readers.prepare()
    readers.prepare()
    ahead = readers._ready
    assert ahead is not None
    assert b'"a","passed"' in read(first)
    second = readers.take()
    assert second is ahead
    third = readers.take()
    assert third is not second
    read(third)
    assert b'"a","passed"' in read(second)


def test_one_that_ended_while_it_waited_is_not_used(readers: ReportReaders) -> None:
    read(readers.take())
    readers.prepare()
    ahead = readers._ready
    assert ahead is not None
    ahead.kill()
    ahead.wait()
    read(readers.take())


def test_what_waits_ends_with_the_node(readers: ReportReaders) -> None:
    read(readers.take())
    readers.prepare()
    ahead = readers._ready
    assert ahead is not None
    assert ahead.stdin is not None
    # a node that is killed closes this end
    ahead.stdin.close()
    assert ahead.wait(timeout=60) == 0
    read(readers.take())
    readers.prepare()
    ahead = readers._ready
    readers.close()
    readers.prepare()
    assert ahead is not None
    assert ahead.poll() is not None
    assert readers._ready is None
