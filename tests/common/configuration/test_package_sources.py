"""`sources` of node.yml: what is wrong is one line, and names no secret."""

from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.package_sources import PackageSource, check_sources, read_login
from common.dependencies.lock_file import Tool

FILE = Path("node.yml")
URL = "https://packages.example.org/simple"


def test_sources_that_can_be_asked() -> None:
    sources = (
        PackageSource(tool=Tool.PIP, url=URL, names=("acme-*",)),
        PackageSource(tool=Tool.FILES, hosts=("files.example.org", "*.example.org")),
    )
    check_sources(sources, FILE)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (PackageSource(tool=Tool.PIP), "sources: pip: url: is missing"),
        (PackageSource(tool=Tool.FILES, url=URL), "is there for files"),
        (PackageSource(tool=Tool.PIP, url=URL, hosts=("10.0.0.1",)), "'10.0.0.1' is no pattern"),
        (PackageSource(tool=Tool.PIP, url=URL, hosts=("*",)), None),
    ],
)
def test_what_is_wrong_is_told(source: PackageSource, problem: str | None) -> None:
    if problem is None:
        check_sources((source,), FILE)
        return
    with pytest.raises(ConfigError, match=r"node\.yml") as told:
        check_sources((source,), FILE)
    assert problem in str(told.value)


@pytest.mark.parametrize("text", ["\n", "a\nb", "x" * 9000])
def test_a_login_that_is_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "login"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no login"):
        read_login(file, FILE)
    file.write_text("ci:secret\n")
    assert read_login(file, FILE) == "ci:secret"
    file.chmod(0o644)
    with pytest.raises(ConfigError) as told:
        read_login(file, FILE)
    assert "secret" not in str(told.value)
