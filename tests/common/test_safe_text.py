"""common.safe_text: nothing that a stranger writes forges a line or hides what it is."""

from hypothesis import given
from hypothesis import strategies as st

from common.safe_text import log_text


def test_log_text_escapes_what_could_forge_or_hide() -> None:
    assert log_text("plain text, also äöü and 日本") == "plain text, also äöü and 日本"
    assert log_text("a\nb\r\x1b[2J\x00") == "a\\nb\\r\\x1b[2J\\x00"
    assert log_text("\u202egnp") == "\\u202egnp"
    assert log_text("\ud800") == "\\ud800"
    assert log_text("x" * 300) == "x" * 197 + "..."
    assert log_text("x" * 200) == "x" * 200


@given(
    st.text(st.characters(codec=None, exclude_categories=())),
    st.integers(min_value=0, max_value=50),
)
def test_log_text_is_always_one_short_printable_line(text: str, characters_max: int) -> None:
    safe = log_text(text, characters_max)
    assert safe.isprintable()
    assert len(safe) <= characters_max
    safe.encode("utf-8")
