"""What a reload takes, what it refuses, and what it says."""

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from common.configuration.config import (
    ConfigError,
    NodeConfig,
    RepositoryEntry,
    load_client_config,
    load_cluster_config,
    load_node_config,
)
from common.configuration.process_file import find_process
from common.configuration.reload import (
    RELOADED,
    Reloads,
    changes_of,
    check_reloadable,
    ignore_reloads,
)
from scripts.configuration import DataFolders, Ports, write_configuration
from tests.waiting import wait_until

URL = "https://example.org/r.git"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration of four nodes and a gateway."""
    write_configuration(
        tmp_path / "config",
        [URL],
        DataFolders.below(tmp_path),
        ports=Ports.above(10000, 4),
    )
    return tmp_path / "config"


def another(value: object) -> object:
    """A value that a key had not."""
    return object() if value is None else None


@pytest.mark.parametrize("name", ["node0", "client"])
def test_every_key_but_the_repositories_needs_a_restart(folder: Path, name: str) -> None:
    load = load_client_config if name == "client" else load_node_config
    config = load(folder / f"{name}.yml")
    cluster = load_cluster_config(folder / "cluster.yml")
    check_reloadable(config, config, cluster)
    fields = [field.name for field in msgspec.structs.fields(config)]
    assert set(fields) > RELOADED == {"repositories"}
    for field in sorted(set(fields) - RELOADED - {"file", "cluster_file"}):
        changed = msgspec.structs.replace(config, **{field: another(getattr(config, field))})
        with pytest.raises(ConfigError, match=rf"{name}\.yml: {field}: changed, and needs a rest"):
            check_reloadable(config, changed, cluster)
    more = msgspec.structs.replace(config, repositories=())
    check_reloadable(config, more, cluster)


def test_all_keys_that_changed_are_named(folder: Path) -> None:
    config = load_node_config(folder / "node0.yml")
    changed = msgspec.structs.replace(config, name="other", builds_at_once=7, repositories=())
    cluster = load_cluster_config(folder / "cluster.yml")
    with pytest.raises(ConfigError, match="name, builds_at_once: changed, and needs a restart; "):
        check_reloadable(config, changed, cluster)


def test_a_changed_cluster_file_needs_a_restart(folder: Path) -> None:
    config = load_node_config(folder / "node0.yml")
    cluster = load_cluster_config(folder / "cluster.yml")
    file = folder / "cluster.yml"
    file.write_text(file.read_text().replace("checkpoint_interval: 128", "checkpoint_interval: 64"))
    file.write_text(file.read_text() + "\nclient_window: 255\n")
    with pytest.raises(ConfigError, match=r"cluster\.yml: changed, and needs a restart"):
        check_reloadable(config, config, cluster)


def test_what_changed_is_told_in_numbers() -> None:
    a, b, c = (RepositoryEntry(f"https://example.org/{name}.git") for name in "abc")
    other = RepositoryEntry(b.url, forge="github")
    assert changes_of([a, b], [other, c]) == (
        "1 repository added, 1 repository removed, 1 repository changed"
    )
    assert changes_of([], [a, b]) == "2 repositories added"
    assert changes_of([a], [a]) == "the same repositories as before"


class Served:
    """A process's reloads, and the configurations that they gave to it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.applied: list[NodeConfig] = []
        self.refusal: ConfigError | None = None
        self.reads = 0
        config = load_node_config(file)
        config.data_directory.mkdir(parents=True)
        self.reloads = Reloads(config, self.read)

    def read(self) -> NodeConfig:
        try:
            return load_node_config(self.file)
        finally:
            self.reads += 1

    def apply(self, config: NodeConfig) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(config)

    async def ask(self) -> str:
        """Send SIGHUP; what the process notes of it."""
        last = self.reloads.last
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_until(lambda: self.reloads.last is not last, "a reload")
        assert self.reloads.last is not None
        directory = self.reloads.config.data_directory

        def noted() -> bool:
            process = find_process(directory)
            return process is not None and process.reload == self.reloads.last

        await wait_until(noted, "process.json")
        return self.reloads.last.text


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Served]:
    served = Served(folder / "node0.yml")
    served.reloads.start(served.apply)
    # Else it may find at its start already what a test changes.
    await wait_until(lambda: served.reads == 1, "the read at the start")
    yield served
    await served.reloads.close()


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text().replace("repositories:\n", f"repositories:\n{text}"))


async def test_a_good_file_is_taken(served: Served) -> None:
    add(served.file, "- url: https://example.org/new.git\n")
    began_at = served.reloads.read_at
    assert await served.ask() == f"reloaded {served.file}: 1 repository added"
    (config,) = served.applied
    assert served.reloads.config is config
    assert [entry.url for entry in config.repositories] == ["https://example.org/new.git", URL]
    assert served.reloads.is_taken
    assert served.reloads.read_at >= began_at


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("repositories:", "repositories: [", "is not YAML"),
        ("repositories:\n", "repositories:\n- urll: x\n", r"repositories\[0\].urll: there is no"),
        ("name: node0", "name: node1", "name: changed, and needs a restart"),
    ],
)
async def test_a_bad_file_changes_nothing_and_says_so(
    served: Served, caplog: pytest.LogCaptureFixture, before: str, after: str, problem: str
) -> None:
    config, text = served.reloads.config, served.file.read_text()
    assert before in text
    add(served.file, "- url: https://example.org/new.git\n")
    served.file.write_text(served.file.read_text().replace(before, after, 1))
    told = await served.ask()
    assert told.startswith(f"reload refused, nothing changed: {served.file}: ")
    assert [record.getMessage() for record in caplog.records] == [told]
    assert caplog.records[0].levelname == "ERROR"
    assert re.search(problem, told)
    assert (served.applied, served.reloads.config, served.reloads.is_taken) == ([], config, False)
    served.file.write_text(text)
    assert await served.ask() == f"reloaded {served.file}: the same repositories as before"
    assert served.reloads.is_taken


async def test_what_the_process_refuses_changes_nothing(served: Served) -> None:
    config = served.reloads.config
    served.refusal = ConfigError("a secret cannot be read")
    assert await served.ask() == "reload refused, nothing changed: a secret cannot be read"
    assert served.reloads.config is config


async def test_what_changed_before_the_process_could_be_found_is_taken(folder: Path) -> None:
    served = Served(folder / "node0.yml")
    add(served.file, "- url: https://example.org/new.git\n")
    served.reloads.start(served.apply)
    await wait_until(lambda: bool(served.applied), "a reload")
    await served.reloads.close()
    assert find_process(served.reloads.config.data_directory) is None


@pytest.mark.parametrize("is_closed", [True, False])
async def test_what_comes_before_or_after_does_not_end_the_process(
    folder: Path, is_closed: bool
) -> None:
    if is_closed:
        served = Served(folder / "node0.yml")
        served.reloads.start(served.apply)
        await served.reloads.close()
    else:
        ignore_reloads()
    os.kill(os.getpid(), signal.SIGHUP)
    assert find_process(folder.parent / "run" / "data" / "node0") is None
