"""What a report in JUnit XML comes to: ids, outcomes, details, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ci.case_results import CaseOutcome, encode_report, id_problem
from common.junit import junit_report
from common.junit.junit_report import FoundCases, UnreadableReport

FIXTURES = Path(__file__).parent / "fixtures"
# Of each tool: the canonical report of its fixture, as people write it down.
EXPECTED: dict[str, str] = json.loads((FIXTURES / "expected.json").read_text())


def read(*reports: bytes, workspace: str = "/workspace") -> FoundCases:
    found = FoundCases(workspace)
    for number, data in enumerate(reports):
        found.add(f"{number}.xml", data)
    return found


def outcomes(*reports: bytes, workspace: str = "/workspace") -> Mapping[str, CaseOutcome]:
    found = read(*reports, workspace=workspace).cases
    assert not [id_problem(case) for case in found if id_problem(case)]
    return {case: one.outcome for case, one in found.items()}


def suite(cases: str, name: str = "s") -> bytes:
    return f'<testsuite name="{name}">{cases}</testsuite>'.encode()


def named(name: str) -> str:
    """The id of a case with this name, as it stands in XML."""
    (case,) = outcomes(f'<testsuite><testcase name="{name}"/></testsuite>'.encode())
    return case


@pytest.mark.parametrize("file", sorted(path.name for path in FIXTURES.glob("*.xml")))
def test_reports_of_the_tools(file: str) -> None:
    report = encode_report(outcomes((FIXTURES / file).read_bytes())).decode()
    assert report == "".join(f"{line}\n" for line in EXPECTED[file])


def test_every_expected_report_has_its_file() -> None:
    assert set(EXPECTED) == {path.name for path in FIXTURES.glob("*.xml")}


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ('<testcase classname="c" name="n"/>', "s::c::n"),
        ('<testcase classname="s" name="n"/>', "s::n"),
        ('<testcase classname="s" name="s"/>', "s"),
        ('<testcase name="n"/>', "s::n"),
        ("<testcase/>", "s"),
        ('<testsuite name="t"><testcase classname="" name="n"/></testsuite>', "s::t::n"),
        ('<testsuite name="s"><testcase classname="c" name="n"/></testsuite>', "s::c::n"),
        ('<testsuite><testcase name="s"/></testsuite>', "s"),
        ('<x:testcase xmlns:x="u" name="n"/>', "s::n"),
    ],
)
def test_an_id_is_suites_class_and_name(cases: str, expected: str) -> None:
    assert list(outcomes(suite(cases))) == [expected]


def test_a_class_counts_within_its_own_suite_and_file() -> None:
    """Each case in turn: the one before has the same class, another class, or another suite."""
    case = '<testcase classname="c" name="%s"/>'
    first = (
        '<testcase name="1"/>' + case % 2 + case % 3 + '<testcase classname="d" name="4"/>'
        '<testsuite name="t">' + case % 5 + '</testsuite><testsuite name="u">' + case % 6
    )
    found = outcomes(suite(f"{first}{case % 'c'}</testsuite>{case % 7}"), suite(case % 8, name="v"))
    assert list(found) == [
        *("s::1", "s::c::2", "s::c::3", "s::d::4", "s::t::c::5"),
        *("s::u::c::6", "s::u::c", "s::c::7", "v::c::8"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a  b", "a b"),
        ("  a&#10;&#9;b ", "a b"),
        ("a&#x85;&#x2028;b", "a b"),
        ("a\u00a0b", "a\u00a0b"),
        ("a&lt;b&gt;&amp;&quot;", 'a<b>&"'),
        ("at 0x7f3a12bc9d and 0xAB12", "at 0x* and 0xAB12"),
        ("/workspace/src/a.js", "src/a.js"),
        ("(/workspace/a, /workspaces/b)", "(a, /workspaces/b)"),
        # in the form in which it stands there: no table of Unicode is asked
        ("e\u0301", "e\u0301"),
        ("\u00e9", "\u00e9"),
        ("a&#0;b&#27;[31mc", "ab[31mc"),
        ("a\x1b[0m\x00b", "a[0mb"),
        ("a&#x0000001B;b", "ab"),
        ("", "(unnamed)"),
        (" &#1; ", "(unnamed)"),
        # a Cyrillic letter, a combining mark, a mark of direction
        ("\u0430\u0489\u202e", "\u0430\u0489\u202e"),
    ],
)
def test_a_name_as_a_part_of_an_id(name: str, expected: str) -> None:
    assert named(name) == expected


def test_the_workspace_is_where_the_sandbox_has_it() -> None:
    data = suite('<testcase name="/tmp/x y/checkout/a.js"/>')
    assert list(outcomes(data, workspace="/tmp/x y/checkout")) == ["s::a.js"]


def test_a_long_id_ends_with_a_digest_of_all_of_it() -> None:
    first, second = named("a" * 513), named("a" * 512 + "b")
    assert (len(first), len(second)) == (497, 497)
    assert first != second
    assert first.startswith("a" * 480 + "~")
    assert named("a" * 512) == "a" * 512
    # what is beyond the part's own limit is not looked at
    assert named("a" * 3000) == named("a" * 4000)
    deep = suite('<testsuite name="' + "t" * 600 + '"><testcase name="n"/></testsuite>')
    (case,) = outcomes(deep)
    assert case.startswith("s::ttt")
    assert case.endswith("::n")


@pytest.mark.parametrize(
    ("inside", "attributes", "expected"),
    [
        ("", "", "passed"),
        ("<failure/>", "", "failed"),
        ("<error/>", "", "failed"),
        ("<skipped/>", "", "skipped"),
        ("<flakyFailure/>", "", "warned"),
        ("<flakyError/>", "", "warned"),
        ("<failure/><rerunFailure/>", "", "failed"),
        ("<rerunFailure/>", "", "passed"),
        ("<skipped/><failure/>", "", "failed"),
        ("<skipped/><flakyError/>", "", "warned"),
        ("<system-out><failure/></system-out>", "", "passed"),
        ("<properties><property/></properties><x:failure/>", 'xmlns:x="u"', "failed"),
        ("", 'status="notrun"', "skipped"),
        ("", 'status="disabled"', "skipped"),
        ("", 'status="run" result="suppressed"', "skipped"),
        ("<failure/>", 'status="notrun"', "failed"),
        ("", 'status="run" result="completed"', "passed"),
        ("", 'status="failed"', "passed"),
    ],
)
def test_the_outcome_of_a_case(inside: str, attributes: str, expected: str) -> None:
    case = f'<testcase name="n" {attributes}>{inside}</testcase>'
    assert outcomes(suite(case)) == {"s::n": expected}


def test_of_several_cases_with_one_id_the_worst_counts() -> None:
    states = {
        "passed": "",
        "failed": "<failure/>",
        "skipped": "<skipped/>",
        "warned": "<flakyFailure/>",
    }
    ranked = ["skipped", "passed", "warned", "failed"]
    for first, inside in states.items():
        for second, other in states.items():
            data = suite(f'<testcase name="n">{inside}</testcase>')
            more = suite(f'<testcase name="n">{other}</testcase>')
            assert outcomes(data, more) == {"s::n": max(first, second, key=ranked.index)}


def test_the_details_of_a_case() -> None:
    found = read(
        suite(
            '<testcase name="a" time="0.25"/>'
            '<testcase name="b" time="1"><failure message="short">long\ntext</failure></testcase>'
            '<testcase name="c"><error>  only text </error><failure message="not this"/></testcase>'
            '<testcase name="d"><failure message="begins">begins, and goes on</failure></testcase>'
            '<testcase name="e"><skipped message="why"/></testcase>'
            '<testcase name="f"><failure><b>in</b> it</failure> <system-out>no</system-out>'
            "</testcase>"
        ),
        suite('<testcase name="b" time="2.5"><failure message="later"/></testcase>'),
    ).cases
    assert {case: (one.seconds, one.message, one.file) for case, one in found.items()} == {
        "s::a": (0.25, None, "0.xml"),
        "s::b": (3.5, "short\nlong\ntext", "0.xml"),
        "s::c": (None, "only text", "0.xml"),
        "s::d": (None, "begins, and goes on", "0.xml"),
        "s::e": (None, None, "0.xml"),
        "s::f": (None, "in it", "0.xml"),
    }


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1,234.5", 1234.5),
        ("1e-3", 0.001),
        (" 2. ", 2.0),
        ("1e99", 1e6),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("0x10", None),
        ("1_0", None),
        ("\u0661", None),
        ("9" * 40, None),
        ("", None),
        ("soon", None),
    ],
)
def test_a_time_that_is_none_harms_nothing(time: str, expected: float | None) -> None:
    found = read(suite(f'<testcase name="n" time="{time}"/>')).cases
    assert found["s::n"].seconds == expected


def test_messages_are_cut_and_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit_report, "MESSAGES_BYTES_MAX", 2000 + 3)
    long = "x" * 1_500
    found = read(
        suite(
            f'<testcase name="a"><failure message="{long}">{"y" * 1_500}</failure></testcase>'
            '<testcase name="b"><failure message="123"/></testcase>'
            '<testcase name="c"><failure message="1"/></testcase>'
        )
    ).cases
    assert found["s::a"].message == f"{long}\n{'y' * 499}"
    assert [found[f"s::{name}"].message for name in "bc"] == ["123", None]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no well-formed XML"),
        (b"<testsuite>", "no well-formed XML"),
        (b"<testsuite/><testsuite/>", "no well-formed XML"),
        (b"<testsuite>&other;</testsuite>", "no well-formed XML"),
        (b"<testsuite><testcase name='&#xD800;'/></testsuite>", "no well-formed XML"),
        (b"<coverage/>", "first element is neither testsuites nor testsuite"),
        (b"<testcase name='n'/>", "first element is neither testsuites nor testsuite"),
        (b"<!DOCTYPE testsuite><testsuite/>", "has a document type"),
        ('<?xml version="1.0"?><testsuite/>'.encode("utf-16"), "it is UTF-16"),
        (suite("<testcase><testcase/></testcase>"), "a suite or a case in a case"),
        (suite("<testcase><a><testsuite/></a></testcase>"), "a suite or a case in a case"),
        (b"<testsuite>" + b"<a>" * 32 + b"</a>" * 32 + b"</testsuite>", "more than 32 elements"),
        (b" " * (10 * 2**20) + b"<testsuite/>", "more than 10485760 bytes"),
    ],
)
def test_a_report_that_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(UnreadableReport, match=problem):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<testsuites/>",
        b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?><testsuite/>",
        # what it says of its encoding does not count
        b"<?xml version='1.0' encoding='utf-16'?><testsuite/>",
        b"<?xml version='1.0' encoding='ISO-8859-1'?><testsuite/>",
        b"<testsuite>" + b"<a>" * 31 + b"</a>" * 31 + b"</testsuite>",
        b"<!-- c --><testsuite><?p i?><![CDATA[<testcase/>]]></testsuite>",
    ],
)
def test_a_report_without_a_case(data: bytes) -> None:
    assert outcomes(data) == {}


def test_what_is_no_utf_8_is_replaced() -> None:
    data = b'<testsuite><testcase name="a\xff\xe2\x82b\xed\xa0\x80"/></testsuite>'
    assert list(outcomes(data)) == ["a\ufffd\ufffdb\ufffd\ufffd\ufffd"]


@pytest.mark.parametrize(
    ("limit", "most", "data"),
    [
        ("ELEMENTS_MAX", 5, suite("<a/>" * 4)),
        ("CASES_MAX", 4, suite('<testcase name="n"/>' * 4)),
        ("IDS_BYTES_MAX", 8, suite('<testcase name="a"/><testcase name="b"/>')),
        ("NAMES_MAX", 4, suite('<testcase name="n" a=""/>')),
        ("DEPTH_MAX", 3, suite("<a><b/></a>")),
        ("FILE_BYTES_MAX", 30, b"<testsuite>\xff</testsuite>" + b" " * 4),
        ("FILE_BYTES_MAX", 12, b"<testsuite/>"),
    ],
)
def test_each_limit_is_exact(
    limit: str, most: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(junit_report, limit, most)
    read(data)
    monkeypatch.setattr(junit_report, limit, most - 1)
    with pytest.raises(UnreadableReport, match=rf"more than {most - 1} "):
        read(data)


def test_limits_count_over_all_reports_of_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit_report, "CASES_MAX", 3)
    found = read(suite('<testcase name="n"/>'), suite('<testcase name="n"/>' * 2))
    with pytest.raises(UnreadableReport, match="more than 3 cases"):
        found.add("last", suite('<testcase name="n"/>'))


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    ("start", "end"), [('<testcase a="', '"/>'), ("<testcase a='>\"", "'/>"), ("<testcase ", "/>")]
)
def test_a_tag_may_be_one_mebibyte_long(start: str, end: str, more: int) -> None:
    blank = " " * (2**20 - len(start) - len(end) + more)
    data = suite(f"{start}{blank}{end}")
    if more:
        with pytest.raises(UnreadableReport, match="a tag has more than 1048576 bytes"):
            read(data)
    else:
        assert list(outcomes(data)) == ["s"]


@pytest.mark.parametrize(
    "inside",
    [
        "<system-out>{}</system-out>",
        '<failure message="a&gt;b > c">{}</failure>',
        "<system-out><![CDATA[{}]]></system-out>",
        "<system-out><![CDATA[1 < 2 {}]]></system-out>",
        "<!-- {} -->",
        "<?p {}?>",
    ],
)
def test_text_may_be_longer_than_a_tag(inside: str) -> None:
    text = 'it\'s a "log"\n' * (3 * 2**20 // 13)
    assert len(outcomes(suite(f'<testcase name="n">{inside.format(text)}</testcase>'))) == 1
