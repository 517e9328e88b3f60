"""docs/PIPELINES.md: every project in it is built by four nodes."""

from pathlib import Path
from typing import Any

import pytest

from ci.limits import Limits
from common.pipeline.pipeline_file import Pipeline, parse_pipeline
from tests.ordinary.conftest import NAMED_IMAGES, Registry
from tests.ordinary.documented import blocks, examples, snippets
from tests.processes.network import Network

EXAMPLES = examples()
ONLINE = frozenset({"Python"})
OFFLINE = frozenset(EXAMPLES) - ONLINE


def test_every_block_of_the_document_is_a_file_of_an_example() -> None:
    assert set(EXAMPLES) == {"Python", "C", "Node", "Redis", "Failures", "Matrix", "Dockerfile"}
    assert sum(len(files) for files in EXAMPLES.values()) == blocks()


def test_the_pipelines_that_name_lock_files_are_valid() -> None:
    texts = [text for kind, text in snippets() if kind == "yaml" and "commands:" in text]
    found = [parse_pipeline(text.encode(), Limits()) for text in texts]
    named = []
    for pipeline in found:
        assert isinstance(pipeline, Pipeline), pipeline.text
        assert not any(step.network for step in pipeline.steps)
        named.append([entry.tool for entry in pipeline.dependencies])
    assert named == [["pip"], ["npm"], ["go"], ["cargo"], ["files"]]


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"Dockerfile"}))
def test_the_pipeline_files_are_valid(name: str) -> None:
    found = parse_pipeline(EXAMPLES[name][".pbft-ci.yml"].encode(), Limits())
    assert isinstance(found, Pipeline), found.text
    assert any(step.network for step in found.steps) == (name in ONLINE)


@pytest.mark.docker
@pytest.mark.processes
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("named_images")
@pytest.mark.parametrize("names", [OFFLINE, ONLINE], ids=["offline", "online"])
def test_four_nodes_agree_on_the_examples(
    tmp_path: Path, names: frozenset[str], request: pytest.FixtureRequest
) -> None:
    """Those that fetch packages, where a registry can be reached; the others everywhere."""
    projects: dict[str, dict[str, Any]] = {name: dict(EXAMPLES[name]) for name in sorted(names)}
    settings: dict[str, object] = {}
    if names == ONLINE:
        registry: Registry = request.getfixturevalue("registry")
        for files in projects.values():
            settings |= with_registry(files, registry)
    entry = {"url": str(tmp_path / "n" / "repository.git"), "local_images": list(NAMED_IMAGES)}
    overrides: dict[str, dict[str, object]] = {
        "node": {name: as_text(value) for name, value in settings.items()}
        | {"repositories": [entry]},
        "cluster": {"limits": {"build_seconds_max": 600, "deadline_seconds": 900}},
    }
    with Network(tmp_path / "n", projects, executor="docker", overrides=overrides) as network:
        network.start()
        builds = {name: network.post(name) for name in projects}
        for name, build in builds.items():
            view = network.complete(build, seconds=600)
            assert view["verdict"]["outcome"] == "passed", (name, view)


def with_registry(files: dict[str, Any], registry: Registry) -> dict[str, object]:
    """Settings of a node for a build that fetches packages; what pip needs goes into its file."""
    if registry.environment:
        lines = [f'  {key}: "{value}"' for key, value in registry.environment.items()]
        files[".pbft-ci.yml"] += "environment:\n" + "\n".join(lines) + "\n"
    return dict(registry.settings)


def as_text(value: object) -> object:
    """As it is written into a configuration file."""
    return str(value) if isinstance(value, Path) else value


def generous() -> dict[str, int]:
    """The limits that a network has by default, which the tests of the sandbox make smaller."""
    limits = Limits()
    return {
        name: getattr(limits, name)
        for name in (
            *("build_seconds_max", "memory_bytes", "workspace_bytes"),
            *("home_bytes", "temporary_bytes"),
        )
    }
