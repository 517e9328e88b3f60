"""Fingerprints in words and digits, and what is refused."""

import pytest

from common.fingerprint import fingerprint_words, parse_fingerprint

# From the test vectors of BIP-0039: 32 bytes of 0x7f, and 32 bytes of 0xff.
VECTORS = [
    (b"\x7f" * 32, " ".join(["legal winner thank year wave sausage worth useful"] * 2)
     + " legal winner thank year wave sausage worth title"),
    (b"\xff" * 32, "zoo " * 23 + "vote"),
]  # fmt: skip


@pytest.mark.parametrize(("fingerprint", "words"), VECTORS)
def test_the_words_are_those_of_the_standard(fingerprint: bytes, words: str) -> None:
    assert fingerprint_words(fingerprint) == tuple(words.split())
    assert parse_fingerprint(f"  {words.upper()}\n") == fingerprint
    assert parse_fingerprint(fingerprint.hex().upper()) == fingerprint


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "has 0 words instead of 24"),
        ("legal winner", "has 2 words instead of 24"),
        ("zoo " * 24, "has a wrong word"),
        ("zoo " * 23 + "voter", "has 'voter' as word 24"),
        ("ff" * 31, "has 62 digits instead of 64"),
        ("fg" * 32, "is not hexadecimal digits"),
    ],
)
def test_what_is_no_fingerprint_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse_fingerprint(text)


def test_two_words_that_changed_places_are_noticed() -> None:
    words = list(fingerprint_words(bytes(range(32))))
    words[3], words[4] = words[4], words[3]
    with pytest.raises(ValueError, match="changed places"):
        parse_fingerprint(" ".join(words))
