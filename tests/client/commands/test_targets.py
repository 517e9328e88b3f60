"""client.commands.targets: what a command means by what was typed."""

import argparse
from pathlib import Path

import pytest

from client.commands.targets import repository_url
from common.configuration.config import ConfigError
from scripts.folders import EXAMPLE_CONFIG


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The example's client.yml in a folder of its own: it lists ../run/example-repository.git."""
    file = tmp_path / "config" / "client.yml"
    file.parent.mkdir()
    file.write_text((EXAMPLE_CONFIG / "client.yml").read_text())
    return file


def meant(config: Path, text: str | None) -> str | None:
    return repository_url(argparse.Namespace(config=config, repository=text))


def test_the_text_of_the_configuration_means_the_same_on_the_command_line(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "a" / "b"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    path = tmp_path / "run" / "example-repository.git"
    listed = path.as_uri()
    typed = ("../run/example-repository.git", "../../run/example-repository.git", str(path), listed)
    for text in typed:
        assert meant(config, text) == listed
    assert meant(config, None) is None
    assert meant(config, "https://example.org/a.git") == "https://example.org/a.git"
    # neither is listed: the gateway says which are
    assert meant(config, "x.git") == (config.parent / "x.git").as_uri()
    with pytest.raises(ConfigError, match="--repository"):
        meant(config, " ")


def test_without_a_configuration_a_path_is_the_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert meant(tmp_path / "none.yml", "x.git") == (tmp_path / "x.git").as_uri()
