"""Reads reports in JUnit XML: test cases by id, with their outcomes. Pure.

Of the standard library alone, since a process with narrow limits runs it. A stranger wrote the
bytes, so everything is bounded, and no tree of elements is built.

The rule: equal bytes give equal ids and outcomes on every replica. What breaks a bound is refused
on every replica alike. So nothing here depends on a version of expat or of Python: no table of
Unicode (ids keep the characters that the report has, in the form that it has), no order of a set,
no piece in which data happens to come. Times, messages and files are for people, and may differ.

A case's id is its suites (outermost first), its `classname` and its `name`, joined by `::`, without
empty parts and without a part that repeats the one before it. Blanks and control characters become
one blank, the workspace's own path is left out, and addresses in memory become `0x*`, since they
differ from run to run.

JUnit XML has no standard. docs/decisions/0029-test-reports.md lists what the tools write.
"""

import codecs
import hashlib
import re
from xml.parsers import expat

from ci.case_results import CASE_ID_CHARACTERS_MAX, CASES_MAX, CaseOutcome, worst

# of one file, as it is, and after what is no UTF-8 was replaced
FILE_BYTES_MAX = 10 * 2**20
# of all files of a build together: elements, and the bytes of all ids
ELEMENTS_MAX = 200_000
IDS_BYTES_MAX = 4 * 2**20
DEPTH_MAX = 32
# of a start tag: expat holds it whole, with all its attributes, before anybody can count them
TAG_BYTES_MAX = 2**20
# of a file: expat and its adapter remember each
NAMES_MAX = 10_000
# of one part of an id, before anything looks at it
PART_CHARACTERS_MAX = 2048
MESSAGE_CHARACTERS_MAX = 2000
# of all messages together; those beyond are left out
MESSAGES_BYTES_MAX = 2 * 2**20
SECONDS_MAX = 1e6
UNNAMED = "(unnamed)"

_PIECE_BYTES = 256 * 1024
# of an id that is cut; its digest follows
_CUT_CHARACTERS = 480
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What XML cannot have, and reports have all the same (escape sequences of terminals above all):
# control characters, and references to them, whose digits may begin with some zeros.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]"
    "|&#0{0,8}(?:[0-8]|1[124-9]|2[0-9]|3[01]);"
    "|&#x0{0,8}(?:[0-8bBcCeEfF]|1[0-9a-fA-F]);"
)
# at least as long as such a reference
_REFERENCE_CHARACTERS = 16
# A start tag ends at the first `>` outside of its quotes and has no `<`, so a long one is looked
# for where there is long no `<`. What begins otherwise is a comment, an instruction or an end tag.
_LONG_RUN = re.compile(rb"<[^<!?/\s][^<]{%d,}" % (TAG_BYTES_MAX - 1))
_TAG = re.compile(rb"""<[^"'>]*+(?:"[^"]*+"[^"'>]*+|'[^']*+'[^"'>]*+)*+>""")
# What no id may have (ci.case_results), and blanks.
_BLANKS = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_ADDRESS = re.compile("0x[0-9a-fA-F]{6,}")
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,12})?(?:[eE][+-]?[0-9]{1,2})?")

_ROOTS = ("testsuites", "testsuite")
_OUTCOMES = {
    "failure": CaseOutcome.FAILED,
    "error": CaseOutcome.FAILED,
    "skipped": CaseOutcome.SKIPPED,
    # it passed at a later try of this run (surefire, cargo-nextest)
    "flakyFailure": CaseOutcome.WARNED,
    "flakyError": CaseOutcome.WARNED,
}
# ctest, googletest
_SKIPPED_STATUS = ("notrun", "disabled")
_SKIPPED_RESULT = ("skipped", "suppressed")


class UnreadableReport(ValueError):
    """A file that is no report, or breaks a bound; the text says what is wrong."""


class FoundCase:
    """What the reports say of one id.

    outcome: the worst that was said; seconds: of all that have the id together, None if none is
    told; message: of the first failure; file: the first that names it.
    """

    __slots__ = ("file", "message", "outcome", "seconds")

    def __init__(self, outcome: CaseOutcome, file: str) -> None:
        self.outcome = outcome
        self.file = file
        self.seconds: float | None = None
        self.message: str | None = None


class FoundCases:
    """The cases of a build's reports, which are added one after the other."""

    def __init__(self, workspace: str) -> None:
        """workspace: the path of the build's files as its steps see it, which is no part of ids."""
        self.cases: dict[str, FoundCase] = {}
        self._workspace = workspace.rstrip("/") + "/"
        self._elements = 0
        self._elements_of_cases = 0
        self._ids_bytes = 0
        self._messages_bytes = 0

    def add(self, file: str, data: bytes) -> None:
        """Read one report. Raises UnreadableReport; then nothing that was found counts."""
        if len(data) > FILE_BYTES_MAX:
            raise UnreadableReport(f"it has more than {FILE_BYTES_MAX} bytes")
        text = _readable(data)
        for run in _LONG_RUN.finditer(text):
            if _TAG.match(text, run.start(), run.start() + TAG_BYTES_MAX) is None:
                raise UnreadableReport(f"a tag has more than {TAG_BYTES_MAX} bytes")
        _Reading(self, file).read(text)

    def count_element(self) -> None:
        """One more of any name. Raises UnreadableReport."""
        self._elements += 1
        if self._elements > ELEMENTS_MAX:
            raise UnreadableReport(f"the reports have more than {ELEMENTS_MAX} elements")

    def count_case(self) -> None:
        """One more, also of an id that is there. Raises UnreadableReport."""
        self._elements_of_cases += 1
        if self._elements_of_cases > CASES_MAX:
            raise UnreadableReport(f"the reports have more than {CASES_MAX} cases")

    def add_case(self, case: str, outcome: CaseOutcome, file: str) -> FoundCase:
        """A case that was read. Raises UnreadableReport."""
        found = self.cases.get(case)
        if found is not None:
            found.outcome = worst((found.outcome, outcome))
            return found
        self._ids_bytes += len(case.encode())
        if self._ids_bytes > IDS_BYTES_MAX:
            problem = f"the names of all cases together have more than {IDS_BYTES_MAX} bytes"
            raise UnreadableReport(problem)
        found = self.cases[case] = FoundCase(outcome, file)
        return found

    def add_message(self, found: FoundCase, message: str) -> None:
        """Keep the message of a failed case, if it is its first and there is room."""
        if found.message is None and message:
            self._messages_bytes += len(message.encode())
            if self._messages_bytes <= MESSAGES_BYTES_MAX:
                found.message = message

    def part(self, text: str) -> str:
        """A suite's, class's or case's name as a part of an id."""
        words = _BLANKS.sub(" ", text[:PART_CHARACTERS_MAX]).strip(" ")
        words = words.replace(self._workspace, "")
        return _ADDRESS.sub("0x*", words) if "0x" in words else words


class _Reading:
    """One file, as expat goes through it."""

    def __init__(self, found: FoundCases, file: str) -> None:
        self._found = found
        self._file = file
        self._parser = expat.ParserCreate("UTF-8")
        # the names of the elements that are open
        self._open: list[str] = []
        # of each open suite: the id's parts so far, joined, and the last of them
        self._suites: list[tuple[str, str]] = [("", "")]
        # The last class's open suite and name, and both joined: mostly the next case's, too.
        self._class: tuple[tuple[str, str], str] = ("", ""), ""
        self._class_joined = ("", "")
        # of the open case
        self._case: str | None = None
        self._named: set[CaseOutcome] = set()
        self._seconds: float | None = None
        # of its first failure: the attribute, and the text so far
        self._message: str | None = None
        self._body: list[str] = []
        self._body_characters = 0

    def read(self, text: bytes) -> None:
        """Raises UnreadableReport."""
        parser = self._parser
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_document_type
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        try:
            # In pieces, since expat goes on to the end of one when something was refused in it.
            for start in range(0, len(text), _PIECE_BYTES):
                parser.Parse(text[start : start + _PIECE_BYTES], False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise UnreadableReport(f"it is no well-formed XML: {error}") from error
        finally:
            # a circle of references, which would keep the memory of this file for a while
            parser.StartElementHandler = parser.EndElementHandler = None
            parser.CharacterDataHandler = None

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._found.count_element()
        if len(self._parser.intern) > NAMES_MAX:
            raise UnreadableReport(f"it has more than {NAMES_MAX} names of elements and attributes")
        name = name.rpartition(":")[2]
        if not self._open and name not in _ROOTS:
            raise UnreadableReport("its first element is neither testsuites nor testsuite")
        if len(self._open) == DEPTH_MAX:
            raise UnreadableReport(f"more than {DEPTH_MAX} elements lie in each other")
        if self._case is None:
            if name == "testsuite":
                suite, last = self._joined(self._suites[-1], attributes.get("name", ""))
                self._suites.append((cut_id(suite), last))
            elif name == "testcase":
                self._begin_case(attributes)
        elif name in ("testcase", "testsuite", "testsuites"):
            raise UnreadableReport("there is a suite or a case in a case")
        elif self._open[-1] == "testcase" and name in _OUTCOMES:
            self._named.add(_OUTCOMES[name])
            if _OUTCOMES[name] is CaseOutcome.FAILED and self._message is None:
                self._message = attributes.get("message", "")
                self._parser.CharacterDataHandler = self._on_text
        self._open.append(name)

    def _begin_case(self, attributes: dict[str, str]) -> None:
        self._found.count_case()
        wanted = self._suites[-1], attributes.get("classname", "")
        if wanted != self._class:
            self._class, self._class_joined = wanted, self._joined(*wanted)
        case, _ = self._joined(self._class_joined, attributes.get("name", ""))
        self._case = cut_id(case) or UNNAMED
        self._named.clear()
        if (
            attributes.get("status") in _SKIPPED_STATUS
            or attributes.get("result") in _SKIPPED_RESULT
        ):
            self._named.add(CaseOutcome.SKIPPED)
        self._seconds = _seconds(attributes.get("time", ""))

    def _on_text(self, text: str) -> None:
        # The handler stays where there is enough: expat's adapter calls one that removes itself
        # again and again.
        if self._body_characters < MESSAGE_CHARACTERS_MAX:
            self._body.append(text)
            self._body_characters += len(text)

    def _on_end(self, name: str) -> None:
        name = self._open.pop()
        if name == "testcase":
            self._end_case()
        elif self._case is None:
            if name == "testsuite":
                self._suites.pop()
        elif self._open[-1] == "testcase":
            self._parser.CharacterDataHandler = None

    def _end_case(self) -> None:
        assert self._case is not None
        outcome = worst(self._named) if self._named else CaseOutcome.PASSED
        found = self._found.add_case(self._case, outcome, self._file)
        if self._seconds is not None:
            seconds = min((found.seconds or 0.0) + self._seconds, SECONDS_MAX)
            found.seconds = round(seconds, 6)
        if self._message is not None:
            self._found.add_message(found, _message(self._message, "".join(self._body)))
        self._case = self._message = None
        self._body.clear()
        self._body_characters = 0

    def _joined(self, before: tuple[str, str], name: str) -> tuple[str, str]:
        """What the parts so far and this name make together, and its last part.

        before: the same of the parts so far.
        """
        part = self._found.part(name)
        case, last = before
        if not part or part == last:
            return before
        return f"{case}::{part}" if case else part, part


def _readable(data: bytes) -> bytes:
    """The file as expat takes it: UTF-8, without characters that XML forbids.

    Raises UnreadableReport.
    """
    if data.startswith(_UTF_16):
        raise UnreadableReport("it is UTF-16; UTF-8 is read")
    data = data.removeprefix(codecs.BOM_UTF8)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[bytes] = []
    length = 0
    held = ""
    # Small pieces: a piece of text may need eighty bytes of memory for each of its own.
    for start in range(0, len(data), _PIECE_BYTES):
        end = start + _PIECE_BYTES
        text = held + decoder.decode(data[start:end], final=end >= len(data))
        held = "" if end >= len(data) else _open_reference(text)
        text = text[: len(text) - len(held)]
        pieces.append(_CONTROL.sub("", text).encode())
        length += len(pieces[-1])
        if length > FILE_BYTES_MAX:
            raise UnreadableReport(
                f"it has more than {FILE_BYTES_MAX} bytes when what is no UTF-8 is replaced"
            )
    return b"".join(pieces)


def _open_reference(text: str) -> str:
    """The end of the text, if it may be the beginning of a reference to a control character."""
    start = text.rfind("&", max(0, len(text) - _REFERENCE_CHARACTERS))
    return "" if start < 0 or ";" in text[start:] else text[start:]


def _refuse_document_type(*_: object) -> None:
    """Entities and external files are declared in one; no report needs it."""
    raise UnreadableReport("it has a document type (DOCTYPE)")


def cut_id(case: str) -> str:
    """The id itself; of a long one the beginning, and a digest of all of it."""
    if len(case) <= CASE_ID_CHARACTERS_MAX:
        return case
    return f"{case[:_CUT_CHARACTERS]}~{hashlib.sha256(case.encode()).hexdigest()[:16]}"


def _seconds(text: str) -> float | None:
    """How long a case took; None where that is told in no way that is known."""
    number = _SECONDS.fullmatch(text[:32].replace(",", "").strip())
    return None if number is None else min(float(number[0]), SECONDS_MAX)


def _message(attribute: str, body: str) -> str:
    """What people read first: most tools begin the text with the attribute, or repeat it there."""
    attribute, body = attribute[:MESSAGE_CHARACTERS_MAX].strip(), body.strip()
    whole = body if body.startswith(attribute) else f"{attribute}\n{body}"
    return whole[:MESSAGE_CHARACTERS_MAX].strip()
