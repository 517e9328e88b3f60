"""A cluster's fingerprint as people compare it: 24 words or 64 hexadecimal digits.

The words are those of BIP-0039 (its English list): 32 bytes and a checksum of 8 bits, so that a
word that was misheard is noticed before the comparison.
"""

import functools

from mnemonic import Mnemonic

FINGERPRINT_BYTES = 32
FINGERPRINT_WORDS = 24


@functools.cache
def _word_list() -> Mnemonic:
    return Mnemonic("english")


def fingerprint_words(fingerprint: bytes) -> tuple[str, ...]:
    """The 24 words of a fingerprint of 32 bytes."""
    assert len(fingerprint) == FINGERPRINT_BYTES, len(fingerprint)
    return tuple(_word_list().to_mnemonic(fingerprint).split())


def parse_fingerprint(text: str) -> bytes:
    """The 32 bytes of a fingerprint in words or hexadecimal digits, in any case and spacing.

    Raises ValueError with what is wrong: another number of words or digits, a word that is not on
    the list, or words whose checksum is wrong.
    """
    words = text.lower().split()
    if len(words) == 1 and len(words[0]) > max(map(len, _word_list().wordlist)):
        try:
            fingerprint = bytes.fromhex(words[0])
        except ValueError as error:
            raise ValueError("is not hexadecimal digits") from error
        if len(fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"has {len(words[0])} digits instead of {2 * FINGERPRINT_BYTES}")
        return fingerprint
    known = set(_word_list().wordlist)
    for place, word in enumerate(words, 1):
        if word not in known:
            raise ValueError(f"has '{word[:20]}' as word {place}, which no fingerprint has")
    if len(words) != FINGERPRINT_WORDS:
        raise ValueError(f"has {len(words)} words instead of {FINGERPRINT_WORDS}")
    if not _word_list().check(" ".join(words)):
        raise ValueError("has a wrong word, or two that changed places")
    return bytes(_word_list().to_entropy(words))
