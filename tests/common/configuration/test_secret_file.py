"""common.configuration.secret_file: secrets for their owner alone, and never shown."""

from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.secret_file import read_bearer_tokens, read_secrets


def written(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    """A secret's file."""
    file = folder / "secret"
    file.write_bytes(data)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"secret", (b"secret",)),
        (b"secret\n", (b"secret",)),
        (b"  It's a Secret to Everybody \r\n\n", (b"It's a Secret to Everybody",)),
        (b"new\nold\n", (b"new", b"old")),
    ],
)
def test_one_secret_per_line(tmp_path: Path, data: bytes, expected: tuple[bytes, ...]) -> None:
    assert read_secrets(written(tmp_path, data), "webhook secret") == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path, b"hidden", mode)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        read_secrets(file, "webhook secret")
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", "holds 0 lines with a token"),
        (b"\n \n", "holds 0 lines with a token"),
        (b"a\nb\n", "holds 2 lines with a token; 1 to 1 are allowed"),
        (b"x" * 20_000, "more than 16384 bytes"),
        ("grün".encode(), "not printable ASCII"),
        (b"a\x00b", "not printable ASCII"),
    ],
)
def test_what_is_no_secret(tmp_path: Path, data: bytes, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secrets(written(tmp_path, data), "token", 1)
    assert wrong in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such token file"):
        read_secrets(tmp_path / "secret", "token")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secrets(tmp_path, "token")


def test_a_bearer_token_is_one_word(tmp_path: Path) -> None:
    assert read_bearer_tokens(written(tmp_path, b" a-b \n" + b"x" * 1000), "API token") == (
        b"a-b",
        b"x" * 1000,
    )
    for wrong, word in ((b"good\nhidden words", "a space"), (b"good\n" + b"x" * 1001, "1001")):
        with pytest.raises(ConfigError, match=word) as caught:
            read_bearer_tokens(written(tmp_path, wrong), "API token")
        assert "API token 2" in str(caught.value)
        assert "hidden" not in str(caught.value)
