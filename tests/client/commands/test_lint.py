"""`lint`: the words of the nodes, exit codes, and a network's own limits."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from ci.limits import Limits
from client.main import main
from common.pipeline.pipeline_file import PipelineInvalid, parse_pipeline

ROOT = Path(__file__).resolve().parents[3]
WRONG = "image: a\nsteps:\n  - name: x\n    comands: [y]\n"


def test_a_valid_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pipeline.yml"
    file.write_text("image: a:1\nsteps: [{name: x, commands: [y]}, {name: z, commands: [y]}]\n")
    assert main(["lint", str(file)]) == 0
    valid, whose = capsys.readouterr().out.splitlines()
    assert valid == f"{file}: valid: image a:1; steps x, z"
    assert whose.startswith(f"{file}: checked against the default limits")


def test_a_wrong_file_in_the_words_of_the_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".pbft-ci.yml").write_text(WRONG)
    assert main(["lint"]) == 1
    found = parse_pipeline(WRONG.encode(), Limits())
    assert isinstance(found, PipelineInvalid)
    assert capsys.readouterr().out == found.text + "\n"
    assert found.text.startswith('.pbft-ci.yml:4: key "comands": is not known')
    assert found.text.endswith('did you mean "commands"?')


def test_the_cells_of_a_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pipeline.yml"
    file.write_text("image: 'a:${V}'\nmatrix: {V: ['1', '2']}\ncommands: [x]\n")
    assert main(["lint", str(file)]) == 0
    valid, _ = capsys.readouterr().out.splitlines()
    assert valid == f"{file}: valid: images a:1, a:2; steps build; cells V=1 V=2"


def test_each_mistake_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pipeline.yml"
    file.write_text("image: a\nservices: [b]\nmatrix: {c: [d]}\ncommands: [x, 5]\n")
    assert main(["lint", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix(f"{file}:").partition(":")[0] for line in lines] == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("requires", "environment", "is_warned"),
    [
        ('["hatchling", "hatch-vcs>=0.4"]', "{}", True),
        ('["setuptools_scm[toml] >= 8"]', "{A: b}", True),
        ('["hatch-vcs"]', "{SETUPTOOLS_SCM_PRETEND_VERSION_FOR_X: '1.0'}", False),
        ('["versioningit >= 3.1.0"]', "{A: b}", True),
        ('["setuptools>=61"]', "{}", False),
        ("5", "{}", False),
    ],
)
def test_a_version_that_git_is_asked_for_is_warned_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    requires: str,
    environment: str,
    is_warned: bool,
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[build-system]\nrequires = {requires}\n")
    file = tmp_path / ".pbft-ci.yml"
    file.write_text(f"image: a\ncommands: [x]\nenvironment: {environment}\n")
    assert main(["lint", str(file)]) == 0
    said = capsys.readouterr().out
    assert ("asks git for the version" in said) == is_warned
    assert ("SETUPTOOLS_SCM_PRETEND_VERSION" in said) == (is_warned and "versioningit" not in said)


def test_a_file_of_a_cache_that_is_not_there_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = "cache: [{name: a, paths: [b], files: [lock, here, link]}]\n"
    file = tmp_path / ".pbft-ci.yml"
    file.write_text(f"image: a\ncommands: [x]\n{cache}")
    (tmp_path / "here").write_text("")
    (tmp_path / "link").symlink_to("here")
    assert main(["lint", str(file)]) == 0
    valid, _, *warnings = capsys.readouterr().out.splitlines()
    assert valid.endswith("; caches a")
    assert [line.partition(": warning")[0] for line in warnings] == [
        str(tmp_path / "link"),
        str(tmp_path / "lock"),
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path / "nothing")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["lint", str(tmp_path)]) == 2


def test_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(WRONG.encode())))
    assert main(["lint", "-"]) == 1
    assert capsys.readouterr().out.startswith("stdin:4: ")


def test_the_limits_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "example-config", tmp_path / "example-config")
    cluster = tmp_path / "example-config" / "cluster.yml"
    cluster.write_text(cluster.read_text().replace("build_seconds_max: ", "build_seconds_max: 1"))
    file = tmp_path / "pipeline.yml"
    file.write_text("image: a\ncommands: [x]\ntimeout_seconds: 1000\n")
    assert main(["lint", str(file)]) == 1
    assert "from 1 to 600" in capsys.readouterr().out
    assert main(["lint", "--cluster", str(cluster), str(file)]) == 0


def test_lock_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pinned, flawed = tmp_path / "go.sum", tmp_path / "requirements.in"
    pinned.write_text(f"rsc.io/quote v1.5.2 h1:{'A' * 43}=\n")
    flawed.write_text("foo\n")
    assert main(["lint", "--dependencies", str(pinned)]) == 0
    assert capsys.readouterr().out == f"{pinned}: valid: go pins 1 input\n"
    assert main(["lint", "--dependencies", f"pip:{flawed}", str(pinned)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{flawed}: line 1: foo is not pinned with ==: write it with `pip")
    assert lines[1].startswith(f"{pinned}: valid")
    assert main(["lint", "--dependencies", str(flawed)]) == 2
    assert f"write TOOL:{flawed}" in capsys.readouterr().err
