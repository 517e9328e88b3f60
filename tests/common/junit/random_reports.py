"""Random files by a seed, more or less like test reports; and how to try very many by hand.

`python -m tests.common.junit.random_reports --first 0 --count 1000000` prints one digest of all
that the reader makes of the files, and the largest memory that it used. The digest is the same in
every process and with every `--piece` (the bytes in which the reader takes a file).
"""

import argparse
import hashlib
import random
import resource
import sys
import time

from ci.case_results import encode_report, id_problem
from common.junit import junit_report
from common.junit.junit_report import FoundCases, UnreadableReport

# What reports are made of, and what confuses readers of them.
PIECES: tuple[bytes, ...] = (
    b"<testsuites>", b"</testsuites>", b"<testsuite>", b"</testsuite>", b'<testsuite name="',
    b"<testcase ", b'<testcase name="', b"<testcase/>", b"</testcase>", b'" classname="',
    b'" name="', b'" time="', b'" status="notrun', b'" result="skipped', b'" message="', b'">',
    b'"/>', b"'", b'"', b">", b"/>", b"<", b"</", b"=", b" ", b"\n", b"\t", b"::", b"s", b"n", b"a",
    b"<failure>", b"</failure>", b'<failure message="', b"<failure/>", b"<error/>", b"<skipped/>",
    b"<flakyFailure/>", b"<rerunFailure>", b"</rerunFailure>", b"<system-out>", b"</system-out>",
    b"<![CDATA[", b"]]>", b"<!--", b"-->", b"--", b"<?xml version='1.0' encoding='utf-16'?>",
    b"<?p i?>", b"<!DOCTYPE x [", b"<!ENTITY e 'x'>", b"]>", b"&e;", b"&amp;", b"&lt;", b"&", b";",
    b"&#", b"&#27;", b"&#x1b;", b"&#x0000000", b"1B;", b"&#xD800;", b"&#xFFFE;", b"&#65;", b"\x00",
    b"\x1b[31m", b"\xff", b"\xe2\x82", b"\xac", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xef\xbf\xbe",
    b"\xff\xfe", b"\xfe\xff", b"\xcc\x81", b"e\xcc\x81", b"\xc3\xa9", b"\xc2\x85", b"\xe2\x80\xa8",
    b"\xf0\x9f\x98\x80", b"/workspace/", b"0x7f3a12bc9d", b"x" * 600, b"x:testcase", b"xmlns:x='u'",
)  # fmt: skip
# Beginnings that get further than most.
SHAPES: tuple[tuple[bytes, bytes], ...] = (
    (b"", b""),
    (b"<testsuite>", b"</testsuite>"),
    (b'<testsuite name="s"><testcase name="', b'"/></testsuite>'),
    (
        b'<testsuites><testsuite name="s"><testcase name="n">',
        b"</testcase></testsuite></testsuites>",
    ),
    (b'<testsuite><testcase name="n"><failure>', b"</failure></testcase></testsuite>"),
    (b"<testsuite><testcase name='", b"' time='1'/><testcase name='n'/></testsuite>"),
)


def random_report(seed: int) -> bytes:
    """The file of this seed: pieces in a frame, of which some bytes may have been changed."""
    chance = random.Random(seed)
    begin, end = chance.choice(SHAPES)
    pieces = chance.choices(PIECES, k=chance.choice((0, 1, 2, 3, 5, 8, 13, 40)))
    data = bytearray(begin + b"".join(pieces) + end)
    for _ in range(chance.choice((0, 0, 0, 1, 3))):
        place = chance.randrange(len(data) + 1)
        data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
    return bytes(data)


def outcome_of(data: bytes) -> bytes:
    """All that replicas compare of what the reader makes of these bytes, or why it refuses them.

    Raises AssertionError for an id that cannot be one.
    """
    found = FoundCases("/workspace")
    try:
        found.add("x", data)
    except UnreadableReport as error:
        # expat's own words may differ between its versions
        return f"refused: {error}".partition("XML:")[0].encode()
    wrong = [case for case in found.cases if id_problem(case)]
    assert not wrong, wrong
    return encode_report({case: one.outcome for case, one in found.cases.items()})


def digest_of(first: int, count: int) -> str:
    """One digest of the outcomes of so many seeds."""
    digest = hashlib.sha256()
    for seed in range(first, first + count):
        digest.update(outcome_of(random_report(seed)) + b"\0")
    return digest.hexdigest()


def main() -> None:
    """As the docstring of this module says."""
    parser = argparse.ArgumentParser(description="Try random test reports.")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--piece", type=int, default=junit_report._PIECE_BYTES)
    options = parser.parse_args()
    junit_report._PIECE_BYTES = options.piece
    began_at = time.process_time()
    digest = digest_of(options.first, options.count)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds = time.process_time() - began_at
    sys.stdout.write(f"{digest} {seconds:.0f} s of CPU, {memory} MiB\n")


if __name__ == "__main__":
    main()
