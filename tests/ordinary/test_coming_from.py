"""docs/COMING_FROM.md: each file of another system is told by line, and what it became runs."""

import re

import pytest

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline.pipeline_file import PIPELINE_FILE, Pipeline, PipelineInvalid, parse_pipeline
from scripts.folders import ROOT
from tests.node.conftest import Room
from tests.ordinary.conftest import NAMED_IMAGES
from tests.ordinary.documented import blocks, examples
from tests.ordinary.test_documented import generous

DOCUMENT = ROOT / "docs" / "COMING_FROM.md"
EXAMPLES = examples(DOCUMENT)
# what stands outside of the files: a command, and what it prints
OTHER_BLOCKS = 2

C_PROJECT = {
    "Makefile": (
        "hello: hello.c\n\tcc -o hello hello.c\n"
        'check: hello\n\ttest "$$(./hello)" = hello\nclean:\n\trm -f hello\n'
    ),
    "hello.c": '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n',
}
PYTHON_TEST = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self): pass\n"
# A project for each file that needs no package registry.
PROJECTS = {
    "Drone": C_PROJECT,
    "Travis CI": C_PROJECT,
    "GitLab CI": {"backend/test_a.py": PYTHON_TEST, "frontend/test_b.py": PYTHON_TEST},
    "GitHub Actions": {
        "greeting.js": "exports.greeting = () => 'hello';\n",
        "greeting.test.js": "require('node:test')('it', () => {});\n",
    },
}


def test_each_section_has_a_file_before_and_after() -> None:
    names = {"Woodpecker", "Drone", "GitLab CI", "GitHub Actions", "CircleCI", "Travis CI"}
    assert set(EXAMPLES) == names
    assert sum(len(files) for files in EXAMPLES.values()) + OTHER_BLOCKS == blocks(DOCUMENT)
    for files in EXAMPLES.values():
        before, after = files
        assert before != PIPELINE_FILE
        assert after == PIPELINE_FILE


@pytest.mark.parametrize("system", EXAMPLES)
def test_the_file_after_is_valid(system: str) -> None:
    found = parse_pipeline(EXAMPLES[system][PIPELINE_FILE].encode(), Limits())
    assert isinstance(found, Pipeline), found.texts


def told_of(system: str) -> list[str]:
    before = next(iter(EXAMPLES[system].values()))
    found = parse_pipeline(before.encode(), Limits())
    assert isinstance(found, PipelineInvalid)
    return list(found.texts)


@pytest.mark.parametrize("system", EXAMPLES)
def test_each_key_of_the_file_before_is_told_with_what_to_write(system: str) -> None:
    for text in told_of(system):
        assert "is not known" not in text
        assert re.search(r"is not there; .|is missing|must be one mapping|has no secrets", text), (
            text
        )


def test_what_lint_prints_is_as_the_document_shows_it() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    lines = shown.replace("\n  ", " ").splitlines()
    assert lines
    assert set(lines) <= set(told_of("Woodpecker"))


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("named_images")
@pytest.mark.parametrize("system", PROJECTS)
async def test_the_file_after_is_green(room: Room, system: str) -> None:
    pipeline = {PIPELINE_FILE: EXAMPLES[system][PIPELINE_FILE]}
    files: dict[str, str | bytes] = {**PROJECTS[system], **pipeline}
    room.local_images += NAMED_IMAGES
    builder = await room.make_builder(room.make_config(room.repository.url), **generous())
    order = builder.order(room.repository.url, room.repository.commit(files))
    finding = await builder.find(order)
    log = builder.log(order)
    assert finding.compared.outcome is Outcome.PASSED, log
    assert "did not pass" not in log
