"""Test reports that attack the process that reads them: each has its answer, far below its limits.

The process has 256 MiB and 10 s: beyond them the read would be an InfrastructureError.
"""

import itertools
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.junit.junit_report import ELEMENTS_MAX, FILE_BYTES_MAX
from tests.node.outputs.test_case_details import read

CASE = b'<testcase name="n"/>'


def suite(inside: bytes) -> bytes:
    return b'<testsuite name="s">' + inside + b"</testsuite>"


def filled(begin: bytes, piece: bytes, end: bytes = b"", *, bytes_max: int = 3 * 2**20) -> bytes:
    """As many pieces as fit into so many bytes."""
    count = (bytes_max - len(begin) - len(end)) // len(piece)
    return begin + piece * count + end


def entity_bomb() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 9))
    return f'<!DOCTYPE s [<!ENTITY e0 "x">{entities}]><testsuite name="&e8;"/>'.encode()


def names() -> Iterator[str]:
    return map("".join, itertools.product(string.ascii_letters, repeat=4))


def distinct_attributes(of_a_tag: int) -> bytes:
    """A file of elements with ever other attributes."""
    data = bytearray(b"<testsuite>")
    attributes = (f' {name}=""'.encode() for name in names())
    while len(data) < FILE_BYTES_MAX - 10 * of_a_tag - 100:
        data += b"<a%s/>" % b"".join(itertools.islice(attributes, of_a_tag))
    return bytes(data + b"</testsuite>")


REFUSED: list[tuple[str, Callable[[], bytes], str]] = [
    ("entities that multiply", entity_bomb, "has a document type"),
    ("a file of the machine", lambda: b'<!DOCTYPE s SYSTEM "/etc/passwd"><s/>', "document type"),
    ("UTF-16", lambda: f"<testsuite>{'x' * 100}</testsuite>".encode("utf-16"), "it is UTF-16"),
    ("nesting", lambda: filled(b"<testsuite>", b"<a>"), "more than 32 elements"),
    ("nested suites", lambda: filled(b"", b"<testsuite>"), "more than 32 elements"),
    ("attributes of a tag", lambda: distinct_attributes(900_000), "a tag has more than"),
    ("names of attributes", lambda: distinct_attributes(30), "more than 10000 names"),
    (
        "names of elements",
        lambda: suite(
            "".join(f"<{name}/>" for name in itertools.islice(names(), 100_000)).encode()
        ),
        "more than 10000 names",
    ),
    ("a tag", lambda: filled(b'<testsuite name="', b"x", b'"/>'), "a tag has more than"),
    ("tags", lambda: filled(b"<testsuite>", b"<"), "no well-formed XML"),
    ("quotes", lambda: filled(b"<testsuite ", b"''"), "a tag has more than"),
    ("elements", lambda: suite(b"<a/>" * ELEMENTS_MAX), f"more than {ELEMENTS_MAX} elements"),
    ("cases", lambda: suite(CASE * 20_001), "more than 20000 cases"),
    ("nested cases", lambda: suite(b"<testcase>" * 3), "a suite or a case in a case"),
    ("bytes that grow", lambda: b"\xff" * (FILE_BYTES_MAX // 2), "when what is no UTF-8"),
    ("a comment", lambda: filled(b"<testsuite><!--", b"-<"), "no well-formed XML"),
    ("references", lambda: filled(b"<testsuite>", b"&#1;"), "no well-formed XML"),
    ("zeros", lambda: suite(b"&#%s27;" % (b"0" * 2**20)), "no well-formed XML"),
    ("wide text", lambda: filled(b"", "€\x01".encode()), "no well-formed XML"),
    (
        "long ids",
        lambda: suite(
            b"".join(b'<testcase name="%d%s"/>' % (n, b"x" * 500) for n in range(15_000))
        ),
        "the names of all cases together",
    ),
]

TAKEN: list[tuple[str, Callable[[], bytes], int]] = [
    ("suites", lambda: b"<testsuites>" + suite(b"") * 100_000 + CASE + b"</testsuites>", 1),
    ("combining marks", lambda: suite(b'<testcase name="%s"/>' % ("\u0301" * 300_000).encode()), 1),
    ("a comment", lambda: filled(b"<testsuite>" + CASE + b"<!--", b"x>", b"--></testsuite>"), 1),
    ("text", lambda: filled(b"<testsuite>" + CASE, b"\n", b"</testsuite>"), 1),
    (
        "a message",
        lambda: filled(
            b"<testsuite><testcase><failure>", b"&lt;\n", b"</failure></testcase></testsuite>"
        ),
        1,
    ),
    (
        "all cases, with messages",
        lambda: suite(
            b"".join(
                b'<testcase name="%d%s"><failure message="%s"/></testcase>'
                % (n, "é".encode() * 80, b"&quot;" * 40)
                for n in range(20_000)
            )
        ),
        20_000,
    ),
    (
        "one id, in the deepest suites",
        lambda: (
            b'<testsuite name="%s">' % (b"x" * 5000) * 31
            + b'<testcase name="n"/>' * 20_000
            + b"</testsuite>" * 31
        ),
        1,
    ),
]


@pytest.mark.parametrize(("data", "problem"), [pytest.param(d, p, id=i) for i, d, p in REFUSED])
def test_what_is_refused(tmp_path: Path, data: Callable[[], bytes], problem: str) -> None:
    found = read(tmp_path, b"<testsuite>" + CASE + b"</testsuite>", data())
    assert found.problem is not None
    assert problem in found.problem
    assert found.cases == ()


@pytest.mark.parametrize(("data", "count"), [pytest.param(d, c, id=i) for i, d, c in TAKEN])
def test_what_is_taken(tmp_path: Path, data: Callable[[], bytes], count: int) -> None:
    found = read(tmp_path, data())
    assert found.problem is None
    assert len(found.cases) == count


def test_three_of_the_largest_files(tmp_path: Path) -> None:
    """As much as a build may have."""
    most = FILE_BYTES_MAX
    begin, end = b"<testsuite>" + CASE, b"</testsuite>"
    comment = filled(begin + b"<!--", b"x>", b"-->" + end, bytes_max=most)
    text = filled(begin, b"&#1;\n", end, bytes_max=most)
    log = filled(begin + b"<![CDATA[", "€\x01".encode(), b"]]>" + end, bytes_max=most)
    assert len(read(tmp_path, comment, text, log).cases) == 1
