"""docs/PROJECTS.md: ten projects that exist, of which four nodes build one, for some commits."""

import docker
import pytest

from ci.limits import Limits
from common.pipeline.pipeline_file import PIPELINE_FILE, Pipeline, parse_pipeline
from tests.ordinary.documented import blocks, examples
from tests.ordinary.offline_projects import OFFLINE_PROJECTS, OfflineProject, build_offline
from tests.ordinary.operator_settings import operator_settings
from tests.ordinary.projects import (
    DOCUMENT,
    PIPELINE_LINES_MAX,
    PROJECTS,
    NoSource,
    Project,
    build_twice,
    named_images,
)
from tests.thoroughness import drawn, rare

EXAMPLES = examples(DOCUMENT)


def test_every_block_of_the_document_is_the_file_of_a_project() -> None:
    assert list(EXAMPLES) == [project.name for project in (*PROJECTS, *OFFLINE_PROJECTS)]
    assert sum(len(files) for files in EXAMPLES.values()) == blocks(DOCUMENT)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_the_pipeline_files_are_short_and_valid(name: str) -> None:
    text = EXAMPLES[name][PIPELINE_FILE]
    found = parse_pipeline(text.encode(), Limits())
    assert isinstance(found, Pipeline), found.text
    assert len(text.splitlines()) <= PIPELINE_LINES_MAX


@pytest.mark.docker
@pytest.mark.processes
@pytest.mark.long
@rare(4, "projects")
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    "project", drawn((*PROJECTS, *OFFLINE_PROJECTS), 1), ids=lambda project: project.name
)
def test_four_nodes_build_it_from_its_own_commands(
    docker_engine: docker.DockerClient, project: Project | OfflineProject
) -> None:
    with named_images(docker_engine, [project.name]):
        try:
            if isinstance(project, OfflineProject):
                offline = build_offline(project)
                words, problems = offline.in_words(), offline.problems(project)
            else:
                row = build_twice(project, operator_settings())
                words, problems = row.in_words(), row.problems(project)
        except NoSource as error:
            pytest.skip(str(error))
    assert problems == [], words
