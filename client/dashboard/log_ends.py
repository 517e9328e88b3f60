"""What the archived logs of a build come to: the step each ended in, its last lines, and which
logs are the same."""

import functools
import hashlib
import re
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ci.operations import Outcome
from client.logs.build_output import BuildOutput, html_of
from client.logs.log_comparison import without_numbers
from client.views.agreement import OTHER_OUTPUT, SAME_OUTPUT
from client.views.build_view import BuildView

# What a page shows of each log: all columns together are small beside what a browser can take.
TAIL_BYTES = 8 * 1024
TAIL_LINES = 60
TAILS_KEPT = 1024
# Of the step that failed.
LINES_MAX = 20
# Of a longer log, its end is read.
READ_BYTES_MAX = 4 * 2**20
# As node.sandboxes.sandbox.Work.begin_step writes it.
_STEP = re.compile(
    rb"^\[pbft-ci\] step (?P<name>.{1,200}) \((?P<number>[0-9]{1,4}) of (?P<count>[0-9]{1,4})\)\n",
    re.MULTILINE,
)
# As node.sandboxes.step_sequence has it noted at the end, of the step that the build came to.
_NOT_PASSED = re.compile(
    rb"^\[pbft-ci\] step (?P<name>.{1,200}?) did not pass(:.*)?$", re.MULTILINE
)


class EndedIn(msgspec.Struct, frozen=True):
    """A step of a pipeline, as a log names it: the number counts from 1."""

    name: str
    number: int
    count: int


class LogEnd(msgspec.Struct, frozen=True):
    """How a log ends. step: the one that did not pass, else the last; None: it names none.

    line: where that step begins; None: the log is too long to count. digest: of all of it, without
    numbers; of a log that is too long it is that of the bytes. html: the step's last lines.
    """

    step: EndedIn | None
    line: int | None
    digest: str
    html: str


class Ending(msgspec.Struct, frozen=True):
    """What an agreed build ended with. is_failure: it did not pass.

    step: the one that the logs of f+1 agreeing replicas end in; None: there is none. end: of the
    log of `replica`. same: other agreeing replicas with the same log, apart from numbers; others:
    the rest of the agreeing replicas whose logs are here.
    """

    is_failure: bool
    step: EndedIn | None
    replica: str
    end: LogEnd
    same: tuple[str, ...]
    others: tuple[str, ...]


def read_log_end(file: Path, log_sha256: str) -> LogEnd:
    """The end of that archived log. Blocking. Raises OSError."""
    found = file.stat()
    return _read(file, found.st_size, log_sha256)


@functools.lru_cache(TAILS_KEPT)
def _read(file: Path, size: int, log_sha256: str) -> LogEnd:
    """Of that file with that size: many look at one build, and it is read once."""
    begin = max(0, size - READ_BYTES_MAX)
    with file.open("rb") as stream:
        stream.seek(begin)
        data = stream.read(READ_BYTES_MAX)
    step = line = None
    output_begin, output_end = 0, len(data)
    steps = list(_STEP.finditer(data))
    if steps:
        index = _failed_index(data, steps)
        found = steps[index]
        step = EndedIn(_plain(found["name"]), int(found["number"]), int(found["count"]))
        line = None if begin else data.count(b"\n", 0, found.start()) + 1
        output_begin = found.end()
        if index + 1 < len(steps):
            output_end = steps[index + 1].start()
    shown = last_lines(data[output_begin:output_end], is_cut=False, lines_max=LINES_MAX)
    digest = log_sha256 if begin else hashlib.sha256(without_numbers(data)).hexdigest()
    return LogEnd(step, line, digest, html_of(BuildOutput().take(shown, is_last=True)))


def _failed_index(data: bytes, steps: list[re.Match[bytes]]) -> int:
    """Which of the steps did not pass, by the last line that says so; without one, the last step.

    Steps may run after it (`when: status`), and others fail whose end is ignored: of them the log
    says so earlier.
    """
    not_passed = deque(_NOT_PASSED.finditer(data), maxlen=1)
    names = [found["name"] for found in steps]
    if not not_passed or not_passed[0]["name"] not in names:
        return len(steps) - 1
    return len(names) - 1 - names[::-1].index(not_passed[0]["name"])


def _plain(data: bytes) -> str:
    return "".join(span.text for span in BuildOutput().take(data, is_last=True))


def ending_of(build: BuildView, ends: Mapping[str, LogEnd], weak: int) -> Ending | None:
    """What the agreed build ended with; None: nothing is agreed on, or no log of it is here.

    ends: of the logs that are here. weak: f+1, of which one is honest. Pure.
    """
    verdict = build.verdict
    if verdict is None:
        return None
    agreeing = [name for name in ends if name in verdict.agreeing]
    if not agreeing:
        return None
    steps = Counter(ends[name].step for name in agreeing)
    step, count = steps.most_common(1)[0]
    if count < weak:
        step = None
    shown = next(name for name in agreeing if step is None or ends[name].step == step)
    rest = [name for name in agreeing if name != shown]
    same = tuple(name for name in rest if ends[name].digest == ends[shown].digest)
    others = tuple(name for name in rest if name not in same)
    return Ending(verdict.outcome != Outcome.PASSED, step, shown, ends[shown], same, others)


def same_logs(ends: Mapping[str, LogEnd]) -> dict[str, str]:
    """For each log that an earlier one is the same as, apart from numbers: whose that is. Pure."""
    first: dict[str, str] = {}
    same = {}
    for replica, end in ends.items():
        if end.digest in first:
            same[replica] = first[end.digest]
        else:
            first[end.digest] = replica
    return same


def outputs_of(build: BuildView, ends: Mapping[str, LogEnd]) -> dict[str, str]:
    """Of each replica that dissents: whether its log is one of the agreeing replicas'. Pure.

    A replica without a log here is left out, and one whose outcome and exit code are the agreed
    ones: it differs in something that a log does not show.
    """
    verdict = build.verdict
    if verdict is None:
        return {}
    agreed = {ends[name].digest for name in verdict.agreeing if name in ends}
    said = {ballot.replica: (ballot.outcome, ballot.exit_code) for ballot in build.ballots}
    decided = (verdict.outcome, verdict.exit_code)
    return {
        name: SAME_OUTPUT if ends[name].digest in agreed else OTHER_OUTPUT
        for name in verdict.dissenting
        if agreed and name in ends and said.get(name, decided) != decided
    }


def last_lines(data: bytes, *, is_cut: bool, lines_max: int = TAIL_LINES) -> bytes:
    """At most lines_max whole lines; of a line that is too long for that, its end."""
    if is_cut or len(data) > TAIL_BYTES:
        data = data[-TAIL_BYTES:]
        data = data[data.find(b"\n") + 1 :] or data
    begin = len(data)
    for _ in range(lines_max + 1):
        begin = data.rfind(b"\n", 0, begin)
        if begin < 0:
            return data
    return data[begin + 1 :]
