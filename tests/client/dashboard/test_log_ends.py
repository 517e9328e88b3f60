"""client.dashboard.log_ends: the step that failed, the logs that are the same, who is suspect."""

from pathlib import Path

import msgspec
import pytest

from ci.operations import Abstain, Ballot, Outcome
from client.dashboard import log_ends
from client.dashboard.log_ends import (
    LINES_MAX,
    EndedIn,
    LogEnd,
    ending_of,
    outputs_of,
    read_log_end,
    same_logs,
)
from client.views.agreement import OTHER_OUTPUT, SAME_OUTPUT
from client.views.build_view import BuildView, build_view
from tests.ci.builders import FAILED, PASSED, finding
from tests.client.views.test_build_view import decided, record

WEAK = 2


def view(*ballots: Ballot) -> BuildView:
    _, build, statement, records = decided(list(ballots))
    return build_view(record(build=build, statement=statement), records, [])


def end(digest: str, step: str | None = None) -> LogEnd:
    return LogEnd(None if step is None else EndedIn(step, 1, 2), 3, digest, digest)


def ends(*given: LogEnd | None) -> dict[str, LogEnd]:
    return {f"replica-{i}": one for i, one in enumerate(given) if one is not None}


def written(path: Path, text: str) -> LogEnd:
    path.write_text(text)
    return read_log_end(path, "ballot's")


def test_the_end_of_a_log_is_that_of_the_last_step_it_names(tmp_path: Path) -> None:
    text = "[pbft-ci] step a (1 of 2)\n+ make\n[pbft-ci] step <b> (2 of 2)\n+ test\n\x1b[31m1 < 2\n"
    found = written(tmp_path / "log", text)
    assert found.step == EndedIn("<b>", 2, 2)
    assert found.line == 3
    assert found.html == '+ test\n<span class="sgr-red">1 &lt; 2\n</span>'
    long = written(tmp_path / "long", text + "line\n" * 1000)
    assert long.html.count("line") == LINES_MAX
    assert long.step == found.step
    none = written(tmp_path / "none", "no step\n [pbft-ci] step a (1 of 2)\n")
    assert (none.step, none.line) == (None, None)


def test_the_step_that_did_not_pass_is_not_the_one_that_ran_after_it(tmp_path: Path) -> None:
    """As node.sandboxes.step_sequence writes it: what is ignored, the failure, what cleans up."""
    text = (
        "[pbft-ci] step lint (1 of 3)\nugly\n"
        "[pbft-ci] step lint did not pass: exit code 1 after 0.1 s; ignored (failure: ignore)\n"
        "[pbft-ci] step test (2 of 3)\n1 failed\n"
        "[pbft-ci] step clean (3 of 3)\ncleaned\n"
        "[pbft-ci] step clean did not pass: exit code 2 after 0.1 s; the build had failed before\n"
        "[pbft-ci] step test did not pass: exit code 7 after 0.3 s\n[pbft-ci] failed, exit code 7\n"
    )
    found = written(tmp_path / "log", text)
    assert (found.step, found.line, found.html) == (EndedIn("test", 2, 3), 4, "1 failed\n")
    # a name that no step has is some output
    odd = written(tmp_path / "odd", text + "[pbft-ci] step x did not pass\n")
    assert odd.step == EndedIn("clean", 3, 3)


def test_logs_are_the_same_apart_from_numbers(tmp_path: Path) -> None:
    one = written(tmp_path / "1", "2 passed in 0.13 s\n")
    other = written(tmp_path / "2", "2 passed in 10.2 s\n")
    third = written(tmp_path / "3", "2 failed in 10.2 s\n")
    assert one.digest == other.digest != third.digest
    assert same_logs({"a": one, "b": third, "c": other}) == {"c": "a"}


def test_of_a_log_that_is_too_long_the_end_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_ends, "READ_BYTES_MAX", 60)
    found = written(tmp_path / "log", "x\n" * 100 + "[pbft-ci] step a (1 of 1)\nthe end\n")
    assert (found.step, found.line, found.digest) == (EndedIn("a", 1, 1), None, "ballot's")


@pytest.mark.parametrize(
    ("given", "step", "shown", "same", "others"),
    [
        ((end("x", "a"), end("x", "a"), end("x", "a"), end("x", "a")), "a", 0, (1, 2, 3), ()),
        ((end("w", "b"), end("x", "a"), end("y", "a"), end("x", "a")), "a", 1, (3,), (0, 2)),
        # one replica alone names a step: that is its word
        ((end("x", "a"), None, None, None), None, 0, (), ()),
        ((None, end("x", "a"), end("y", "b"), None), None, 1, (), (2,)),
        ((end("x"), end("x"), end("x"), end("x")), None, 0, (1, 2, 3), ()),
    ],
)
def test_a_step_is_named_that_enough_agreeing_logs_end_in(
    given: tuple[LogEnd | None, ...],
    step: str | None,
    shown: int,
    same: tuple[int, ...],
    others: tuple[int, ...],
) -> None:
    found = ending_of(view(*[FAILED] * 4), ends(*given), WEAK)
    assert found is not None
    assert found.is_failure
    assert (None if found.step is None else found.step.name) == step
    assert found.replica == f"replica-{shown}"
    assert found.same == tuple(f"replica-{index}" for index in same)
    assert found.others == tuple(f"replica-{index}" for index in others)


def test_a_dissenters_log_is_no_part_of_what_is_agreed() -> None:
    found = ending_of(view(PASSED, FAILED, FAILED, FAILED), ends(*[end("x", "a")] * 4), WEAK)
    assert found is not None
    assert found.replica == "replica-1"
    assert ending_of(view(PASSED, FAILED, FAILED, FAILED), ends(end("x")), WEAK) is None
    passed = ending_of(view(*[PASSED] * 4), ends(*[end("x")] * 4), WEAK)
    assert passed is not None
    assert not passed.is_failure


def test_the_same_output_with_another_outcome_is_suspect_and_other_output_is_not() -> None:
    other = msgspec.structs.replace(end("y"), html="other")
    build = view(PASSED, PASSED, PASSED, FAILED)
    assert outputs_of(build, ends(*[end("x")] * 4)) == {"replica-3": SAME_OUTPUT}
    assert outputs_of(build, ends(end("x"), end("x"), end("x"), other)) == {
        "replica-3": OTHER_OUTPUT
    }
    assert outputs_of(build, ends(end("x"), end("x"))) == {}, "its log is not here"
    assert outputs_of(build, ends(None, None, None, end("x"))) == {}, "nor are the others'"
    image = msgspec.structs.replace(
        PASSED, compared=msgspec.structs.replace(PASSED.compared, image_digest="sha256:" + "0" * 64)
    )
    assert outputs_of(view(PASSED, PASSED, PASSED, image), ends(*[end("x")] * 4)) == {}
    nobody = view(PASSED, PASSED, finding(Outcome.FAILED, 1), Abstain("x"))
    assert outputs_of(nobody, ends(*[end("x")] * 4)) == {}
