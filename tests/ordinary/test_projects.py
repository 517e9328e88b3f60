"""Projects as people have them: large, talkative, with dependencies, under the default limits."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from ci.limits import Limits
from ci.operations import Outcome
from common.configuration.config import RepositoryEntry
from tests.node.conftest import GitRepository, Room, things_of
from tests.ordinary.conftest import Registry
from tests.ordinary.test_documented import generous

pytestmark = pytest.mark.docker

MEGABYTE = 1_000_000


async def build(
    room: Room, files: dict[str, str | bytes], settings: dict[str, object] | None = None
) -> tuple[Outcome, int | None, str]:
    """Outcome, exit code and log of a commit under the default limits; nothing is left of it."""
    config = room.make_config(room.repository.url, **(settings or {}))
    builder = await room.make_builder(config, **generous())
    order = builder.order(room.repository.url, room.repository.commit(files))
    finding = await builder.find(order)
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)
    return finding.compared.outcome, finding.compared.exit_code, builder.log(order)


def pipeline(image: str, *commands: str, **more: object) -> str:
    return json.dumps({"image": image, "commands": commands, **more})


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_build_that_writes_a_gigabyte(room: Room) -> None:
    commands = (
        "dd if=/dev/zero of=big bs=1M count=1000",
        'test "$(wc -c <big)" = 1048576000',
        "cp big $HOME/big && rm big",
        "dd if=/dev/zero of=/tmp/big bs=1M count=400",
    )
    limits = Limits()
    assert limits.workspace_bytes > 2**30
    assert limits.memory_bytes < 2**30
    files: dict[str, str | bytes] = {".pbft-ci.yml": pipeline(room.image, *commands)}
    outcome, code, log = await build(room, files)
    assert (outcome, code) == (Outcome.PASSED, 0), log


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_build_with_200_megabytes_of_output(room: Room) -> None:
    commands = ("yes 123456789 | head -c 200000000", "echo; echo the end; exit 3")
    files: dict[str, str | bytes] = {".pbft-ci.yml": pipeline(room.image, *commands)}
    outcome, code, log = await build(room, files)
    assert (outcome, code) == (Outcome.FAILED, 3)
    assert len(log) <= Limits().log_bytes_max
    assert "\nthe end\n" in log
    assert log.startswith("[pbft-ci] ")
    assert "bytes were cut here" in log


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_repository_of_100_megabytes(room: Room) -> None:
    """Of bytes that do not compress, in one large file and in thousands of small ones."""
    files: dict[str, str | bytes] = {
        f"small/{number % 50}/{number}": os.urandom(10_000) for number in range(3_000)
    }
    files["large"] = os.urandom(70 * MEGABYTE)
    commands = (
        'test "$(find small -type f | wc -l)" = 3000',
        'test "$(cat large $(find small -type f) | wc -c)" = 100000000',
    )
    files[".pbft-ci.yml"] = pipeline(room.image, *commands)
    outcome, code, log = await build(room, files)
    assert (outcome, code) == (Outcome.PASSED, 0), log


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_python_project_with_packages_and_tests(
    room: Room, debian_image: str, registry: Registry
) -> None:
    room.local_images.append(debian_image)
    files: dict[str, str | bytes] = {
        "requirements.txt": "pytest\nsix\n",
        "test_it.py": "import six\n\ndef test_it(tmp_path):\n    assert six.PY3\n"
        "    (tmp_path / 'x').write_text('x')\n",
        ".pbft-ci.yml": pipeline(
            debian_image,
            "python3 -m venv venv && . venv/bin/activate",
            "pip install -r requirements.txt && pytest",
            network=True,
            environment=dict(registry.environment),
        ),
    }
    outcome, code, log = await build(room, files, dict(registry.settings))
    assert (outcome, code) == (Outcome.PASSED, 0), log
    assert "1 passed" in log
    # the same without the operator's leave: what it fetches is not there
    config = room.make_config(room.repository.url)
    builder = await room.make_builder(config, **generous())
    files[".pbft-ci.yml"] = pipeline(
        debian_image, "python3 -m venv v", "v/bin/pip install --retries 0 -r requirements.txt"
    )
    order = builder.order(room.repository.url, room.repository.commit(files))
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.FAILED
    assert builder.log(order).endswith("[pbft-ci] network was off; see network:\n")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_c_project_with_make_check(room: Room, debian_image: str) -> None:
    room.local_images.append(debian_image)
    files: dict[str, str | bytes] = {
        "Makefile": "all: sum\nsum: sum.o main.o\n\t$(CC) -o $@ $^\n"
        'check: all\n\t./check.sh "$$(./sum 2 3)"\n',
        "sum.c": "int sum(int a, int b) { return a + b; }\n",
        "main.c": "#include <stdio.h>\n#include <stdlib.h>\nint sum(int, int);\n"
        'int main(int c, char **v) { printf("%d\\n", sum(atoi(v[c - 2]), atoi(v[c - 1]))); }\n',
        "check.sh": '#!/bin/sh\ntest "$1" = 5\n',
        ".pbft-ci.yml": pipeline(
            debian_image, "make -j4", "chmod +x check.sh", "make check", artifacts=["sum"]
        ),
    }
    outcome, code, log = await build(room, files)
    assert (outcome, code) == (Outcome.PASSED, 0), log


async def test_a_project_with_submodules(room: Room, tmp_path: Path) -> None:
    """One that is a folder of it, and one inside of that one."""
    deep, library = GitRepository(tmp_path / "deep"), GitRepository(tmp_path / "library")
    deep.commit({"deep.txt": "deep\n"})
    library.commit({"library.txt": "library\n"})
    add_module(library, deep, "parts/deep")
    room.repository.commit({"own.txt": "own\n"})
    text = pipeline(
        room.image,
        "cat own.txt lib/library.txt lib/parts/deep/deep.txt",
        "test ! -e .git && test ! -e lib/.git",
    )
    (room.repository.folder / ".pbft-ci.yml").write_text(text)
    room.repository.git("add", ".pbft-ci.yml")
    commit = add_module(room.repository, library, "lib")
    consent = (room.repository.url,)
    entries = [RepositoryEntry(part.url, submodule_of=consent) for part in (library, deep)]
    config = room.make_config(room.repository.url, *entries)
    builder = await room.make_builder(config, **generous())
    order = builder.order(room.repository.url, commit)
    finding = await builder.find(order)
    log = builder.log(order)
    assert (finding.compared.outcome, finding.compared.exit_code) == (Outcome.PASSED, 0), log
    assert "\nown\nlibrary\ndeep\n" in log


def add_module(parent: GitRepository, child: GitRepository, path: str) -> str:
    """A commit of the parent that has the child's newest commit at a path."""
    parent.git(
        *("-c", "protocol.file.allow=always", "submodule", "--quiet", "add"),
        *("--", f"../{child.folder.name}", path),
    )
    parent.git("commit", "--quiet", "--message=module")
    return parent.git("rev-parse", "HEAD")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("entries", [1, 2])
async def test_a_project_that_takes_its_version_from_a_tag(
    room: Room, debian_image: str, entries: int
) -> None:
    """git works for the user of a build, in one container and in several, and finds it clean."""
    room.local_images.append(debian_image)
    room.repository.commit({"old": "x"})
    room.repository.git("tag", "--annotate", "--message=x", "v1.2")
    commands = [
        'test "$(git describe --dirty)" = "v1.2-1-g$(git rev-parse --short HEAD)"',
        'test "$(git rev-parse HEAD)" = "$PBFTCI_COMMIT"',
        'test -z "$(git status --porcelain)$(git remote)$(git stash list)"',
        "git log --oneline | wc -l | grep -x 2",
        "git -c user.name=x -c user.email=x@example.org commit --quiet --allow-empty -m more",
    ]
    text = json.dumps(
        {
            "image": debian_image,
            "clone": {"depth": 50, "tags": True},
            "steps": [
                {"name": f"s{number}", "commands": commands if number == 0 else ["git log"]}
                for number in range(entries)
            ],
        }
    )
    outcome, code, log = await build(room, {".pbft-ci.yml": text, "a b": "x", "run.sh": "x"})
    assert (outcome, code) == (Outcome.PASSED, 0), log
    assert "clone: depth 50, 1 tags (SHA-256 of their list " in log
