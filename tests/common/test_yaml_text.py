"""YAML as we take it: plain values, known lines, and nothing that costs a reader dear."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.yaml_text import DEPTH_MAX, YamlError, load_yaml


def test_plain_values() -> None:
    value, _ = load_yaml(
        b"text: a\nnumber: 3\nreal: 1.5\nyes: true\nnothing:\nday: 2024-01-02\nlist: [a, {b: c}]\n"
    )
    assert value == {
        "text": "a",
        "number": 3,
        "real": 1.5,
        # keys are text, also where YAML 1.1 would read something else
        "yes": True,
        "nothing": None,
        "day": "2024-01-02",
        "list": ["a", {"b": "c"}],
    }


@pytest.mark.parametrize("data", [b"", b"# only a comment\n", b"---\n"])
def test_empty_text_is_nothing(data: bytes) -> None:
    value, line_of = load_yaml(data)
    assert value is None
    assert line_of(("a", 1)) == line_of(()) <= 2


def test_lines() -> None:
    _, line_of = load_yaml(b"# comment\na: 1\n\nb:\n  - x\n  - c: 1\n    d: 2\n")
    assert line_of(()) == 2
    assert line_of(("a",)) == 2
    assert line_of(("b",)) == 4
    assert line_of(("b", 0)) == 5
    assert line_of(("b", 1, "d")) == 7
    assert line_of(("b", 1, "unknown")) == 6
    assert line_of(("b", 9)) == 4


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, "twice"),
        (b"a: &x 1\nb: *x\n", 2, "alias"),
        (b"a: {b: 1}\n<<: {c: 2}\n", 2, "merge"),
        (b"a: !!python/object/apply:os.system [id]\n", 1, "tag"),
        (b"a: !mine x\n", 1, "tag"),
        (b"!!set {a}\n", 1, "tag"),
        (b"a: 1\nb: [\n", 3, "expected"),
        (b"a: 1\n--- \nb: 2\n", 2, "document"),
        (b"a: 1\nb: \xff\n", 2, "UTF-8"),
        (b"a: 1\nb: \x00\n", 2, "character"),
        (b"a: 1\n? [x]\n: y\n", 2, "text"),
        (b"a: " + b"9" * 5000, 1, "number"),
        (b"!!int x", 1, "tag"),
        (b"!!bool x", 1, "tag"),
        (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), 1, "deeper"),
    ],
)
def test_refused(data: bytes, line: int, problem: str) -> None:
    with pytest.raises(YamlError, match=problem) as refused:
        load_yaml(data)
    assert refused.value.line == line


def test_depth_that_is_allowed() -> None:
    value, _ = load_yaml(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX)
    assert isinstance(value, list)


def test_size() -> None:
    assert load_yaml(b"a: b", bytes_max=4)[0] == {"a": "b"}
    with pytest.raises(YamlError, match="5 bytes; at most 4"):
        load_yaml(b"a: bc", bytes_max=4)


@pytest.mark.parametrize(
    "piece", [b"[", b"{a: ", b"- ", b"? ", b"a: 1\n", b"- a\n", b"[a, ", b"!", b"1:", b"&a ", b"'"]
)
def test_hostile_text_costs_little(piece: bytes) -> None:
    """Quadratic reading of 256 KiB would take minutes; the bound leaves room for a busy machine."""
    began_at = time.process_time()
    with contextlib.suppress(YamlError):
        load_yaml((piece * 262144)[:262144])
    assert time.process_time() - began_at < 10


def outcome_of(data: bytes) -> YamlError | int:
    """The error, or the line of the whole value."""
    try:
        _, line_of = load_yaml(data)
    except YamlError as error:
        return error
    return line_of(("a", 0))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_yaml_error(data: bytes) -> None:
    outcome = outcome_of(data)
    assert (outcome.line if isinstance(outcome, YamlError) else outcome) >= 1
    assert "\n" not in str(outcome)


@given(st.text(alphabet="ab:-[]{}&*!?'\" \n#0.<>%|", max_size=60))
def test_any_text_of_yaml_characters_is_a_value_or_a_yaml_error(text: str) -> None:
    outcome = outcome_of(text.encode())
    line = outcome.line if isinstance(outcome, YamlError) else outcome
    assert 1 <= line <= text.count("\n") + 2
