"""A pipeline of one step in one container that takes its tree itself, and when that will not do."""

import asyncio
import gzip
import hashlib
import io
import os
import secrets
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import docker
import pytest

import node.sandboxes.containers.container_run
import node.sandboxes.containers.workspace
from ci.operations import Outcome
from common.configuration.package_sources import PackageSource
from common.dependencies.lock_file import Tool
from common.pipeline.pipeline_file import PIPELINE_FILE
from node.sandboxes.containers.container import ContainerOrder, create_container
from node.sandboxes.containers.docker_engine import CLUSTER_LABEL
from tests.node.builds.test_cached_runs import find
from tests.node.conftest import Room, pipeline, things_of, until
from tests.node.dependencies.mirror import running_mirror
from tests.node.sandboxes.containers.test_docker_sandbox import CRASH
from tests.node.sandboxes.containers.test_steps import steps

pytestmark = pytest.mark.docker

# A name is whatever git takes: options, quotes, lines, bytes that are no text, and very long ones.
NAMES = (
    "-rf",
    "--checkpoint-action=exec=sh x",
    "a 'quote\" $(false) `false` \\ *",
    "two\nlines",
    os.fsdecode(b"bytes \xff\xfe"),
    "/".join(["a folder with a long name " + "x" * 60] * 4) + "/file",
    "@LongLink",
)
# All that a program can see of a tree but the times of links, which not every tar sets, and the
# mode of the uppermost folder: the engine makes it, or the volume has it.
LOOK = (
    "find . ! -name . ! -type l -print0 | xargs -0 stat -c %Y | sort -u >/tmp/times",
    'test "$(cat /tmp/times)" = "$SOURCE_DATE_EPOCH"',
    "find . ! -name . -print0 | sort -z | xargs -0 stat -c '%n %A %u %g %s %N'",
    f"find . -type f ! -name {PIPELINE_FILE} -print0 | sort -z | xargs -0 cat",
    "grep -E ' (/workspace|/home/build) ' /proc/mounts | sed 's/^[^ ]* //' | sort",
    "stat -c '%n %u %g' . $HOME; id; umask; pwd",
    "env | sort | grep -vE '^(PBFTCI_BUILD|PBFTCI_COMMIT|SOURCE)'",
    'echo "$0 $#"; ls -l /proc/self/fd/0 | sed "s/.*0 -> //"; cat',
)


class ImageMaker(Protocol):
    def __call__(self, instead: str) -> str:
        """An image whose shell does this where it is asked to unpack a tree."""


class Images:
    """Images on the engine, of a Dockerfile and a file beside it each."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._made: list[str] = []

    def build(self, dockerfile: str, shell: str = "") -> str:
        """The name of an image."""
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, text in (("Dockerfile", dockerfile), ("sh", shell)):
                header = tarfile.TarInfo(name)
                header.size, header.mode = len(text), 0o755
                archive.addfile(header, io.BytesIO(text.encode()))
        context.seek(0)
        tag = f"pbft-ci-test/shell:{secrets.token_hex(4)}"
        self._room.engine.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
        self._made.append(tag)
        self._room.local_images.append(tag)
        return tag

    def remove(self) -> None:
        for tag in self._made:
            self._room.engine.images.remove(tag, force=True)


@pytest.fixture
def images(room: Room) -> Iterator[Images]:
    made = Images(room)
    yield made
    made.remove()


@pytest.fixture
def image_with(room: Room, images: Images) -> ImageMaker:
    def make(instead: str) -> str:
        shell = (
            f'#!/bin/busybox sh\ncase "$2" in *"tar -x"*) {instead};; esac\n'
            'exec /bin/busybox sh "$@"\n'
        )
        return images.build(f"FROM {room.image}\nCOPY sh /other/sh\nENV PATH=/other:/bin\n", shell)

    return make


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all containers that are made from now on, here."""
    names: list[str] = []

    def create(client: docker.APIClient, order: ContainerOrder) -> str:
        names.append(order.name)
        return create_container(client, order)

    for module in (node.sandboxes.containers.container_run, node.sandboxes.containers.workspace):
        monkeypatch.setattr(module, "create_container", create)
    return names


async def looked_at(room: Room, text: str) -> list[str]:
    """What the commands of a pipeline say of a tree with all kinds of names in it."""
    files: dict[str, str | bytes] = {name: f"content of {name!r}\n" for name in NAMES}
    links = {"link": "two\nlines", "out": "../etc/passwd", "away": "/etc/group"}
    commit = room.repository.commit(files | {".pbft-ci.yml": text}, links)
    builder = await room.make_builder(room.make_config(room.repository.url))
    order = builder.order(room.repository.url, commit)
    finding = await builder.find(order)
    log = builder.log(order)
    assert finding.compared.outcome is Outcome.PASSED, log
    assert not things_of(room.engine, builder.cluster_id)
    # the pipeline files are not the same
    said = [line for line in log.split("\n") if PIPELINE_FILE not in line]
    return [line for line in said if not line.startswith("[pbft-ci]")]


async def test_a_step_alone_sees_what_it_sees_among_others(room: Room, made: list[str]) -> None:
    """Its tree came another way; neither the tree nor anything around it shows."""
    entry: dict[str, object] = {"commands": LOOK}
    alone = await looked_at(room, steps(room.image, entry))
    assert len(made) == 1
    among = await looked_at(room, steps(room.image, entry, {"commands": ["true"]}))
    assert len(made) == 1 + 3
    assert alone[:-1] == among[: among.index("+ true")]


async def test_a_step_alone_gets_its_inputs_and_cannot_change_them(
    room: Room, made: list[str]
) -> None:
    """As a step among others does: the files, what a tool reads in HOME, and who may write."""
    crate = gzip.compress(crate_tar("x-1.0.0/Cargo.toml", b"[package]"), mtime=0)
    digests = [hashlib.sha256(data).hexdigest() for data in (b"a wheel", crate)]
    link = f'<a href="foo-1.0-py3-none-any.whl#sha256={digests[0]}">foo-1.0-py3-none-any.whl</a>'
    files: dict[str, str | bytes] = {
        "requirements.txt": f"foo==1.0 --hash=sha256:{digests[0]}\n",
        "Cargo.lock": (
            'version = 3\n[[package]]\nname = "x"\nversion = "1.0.0"\nsource ='
            ' "registry+https://github.com/rust-lang/crates.io-index"\n'
            f'checksum = "{digests[1]}"\n'
        ),
    }
    look: dict[str, object] = {
        "commands": [
            "cat $PIP_FIND_LINKS/*; echo; cat $CARGO_HOME/config.toml; touch $CARGO_HOME/own",
            "cd /pbft-ci-inputs; find . -print0 | sort -z | xargs -0 stat -c '%n %A %u %g %s'",
            "for path in . pip cargo/x-1.0.0; do"
            " if touch $path/more; then exit 1; fi; done 2>/dev/null",
            "for path in pip/*.whl pip cargo; do"
            " if rm -r $path || mv $path $path.2; then exit 1; fi; done 2>/dev/null",
            "if echo x >cargo/x-1.0.0/Cargo.toml || chmod -R 777 .; then exit 1; fi 2>/dev/null",
            "if umount /pbft-ci-inputs; then exit 1; fi 2>/dev/null",
            "cat pip/* cargo/x-1.0.0/Cargo.toml; echo",
        ]
    }
    said = []
    with running_mirror() as mirror:
        mirror.files = {
            "/foo/": link.encode(),
            "/foo/foo-1.0-py3-none-any.whl": b"a wheel",
            "/x/x-1.0.0.crate": crate,
        }
        sources = tuple(PackageSource(tool=tool, url=mirror.url) for tool in (Tool.PIP, Tool.CARGO))
        builder = await room.make_builder(room.make_config(room.repository.url, sources=sources))
        for entries in ([look], [look, {"commands": ["true"]}]):
            locks = [{"pip": "requirements.txt"}, {"cargo": "Cargo.lock"}]
            text = steps(room.image, *entries, dependencies=locks)
            commit = room.repository.commit({**files, ".pbft-ci.yml": text})
            order = builder.order(room.repository.url, commit)
            finding = await builder.find(order)
            log = builder.log(order)
            assert finding.compared.outcome is Outcome.PASSED, log
            said.append([line for line in log.split("\n") if is_of_a_look(line)])
            assert not things_of(room.engine, builder.cluster_id)
    assert said[0] == said[1]
    assert "./cargo/x-1.0.0/Cargo.toml -rw-r--r-- 0 0 9" in said[0]
    # the first one has no keeper
    assert len(made) == 1 + 3


# Names, permissions and times that not every tar gives back by itself. (BusyBox makes links last,
# so their folder has another time.)
FILL_CACHES = (
    "mkdir -p $HOME/.tree/closed made/deep; cd $HOME/.tree",
    "echo one >closed/file; ln closed/file 2",
    "ln -s /etc/passwd out; echo x >\"$(printf '%0150d' 7) ä\"; chmod 666 2; touch -d @1000 2",
    "cd /workspace/made; echo deep >deep/file; touch -d @2000 deep",
)
LOOK_AT_CACHES = (
    "find $HOME /workspace/made -mindepth 1 -print0 | sort -z"
    " | xargs -0 stat -c '%n %A %h %u %g %N'",
    "stat -c '%n %Y' made/deep $HOME/.tree/2",
    "cat $HOME/.tree/closed/* made/*/*; cd /",
    "chmod -R u+w $HOME/.tree; rm -r $HOME/.tree /workspace/made",
)


@pytest.mark.parametrize("instead", [None, "exit 127"])
async def test_a_step_alone_gets_its_caches_before_its_tree(
    room: Room, made: list[str], image_with: ImageMaker, instead: str | None
) -> None:
    """It sees what a step among others does; and so it does if the image does not unpack them."""
    image = room.image if instead is None else image_with(instead)
    builder = await room.make_builder(room.make_config(room.repository.url))
    cache = {"name": "tree", "paths": ["$HOME/.tree", "made"], "files": ["lock"]}
    said = []
    look: dict[str, object] = {"commands": LOOK_AT_CACHES}
    # BusyBox's tar cannot put anything into it unless it is root
    fill = FILL_CACHES if instead is None else (*FILL_CACHES, "chmod 555 $HOME/.tree/closed")
    for entries in ([{"commands": fill}], [look], [look], [look, {"commands": ["true"]}]):
        text = steps(image, *entries, cache=[cache])
        commit = room.repository.commit({".pbft-ci.yml": text, "lock": "1"})
        order = builder.order(room.repository.url, commit)
        before = len(made)
        finding = await find(builder, order)
        log = builder.log(order)
        assert finding.compared.outcome is Outcome.PASSED, log
        lines = [line for line in log.split("\n") if not line.startswith(("[pbft-ci]", "+"))]
        said.append((len(made) - before, lines))
    counts = [count for count, _ in said]
    # a keeper and a step, or one more that did not take it: then that is known
    assert counts == ([2, 1, 1, 3] if instead is None else [2, 3, 2, 3])
    assert said[1][1] == said[2][1] == said[3][1]
    assert "-rw-rw-rw- 2 65534 65534" in "\n".join(said[1][1])
    assert "made/deep 2000" in said[1][1]
    assert builder.runner.cache_counts.hits == 3
    assert not things_of(room.engine, builder.cluster_id)


def is_of_a_look(line: str) -> bool:
    """Whether it says what inputs are, and not why they cannot be changed."""
    return line.startswith(("./", "a wheel", "[", "directory", "replace-with")) and not (
        line.startswith("[pbft-ci]")
    )


def crate_tar(name: str, data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        archive.addfile(header, io.BytesIO(data))
    return made.getvalue()


async def test_what_an_image_lays_over_the_tree_covers_it_both_ways(
    room: Room, images: Images
) -> None:
    """A volume that it declares is an empty file system; the tree does not go into it."""
    image = images.build(f"FROM {room.image}\nVOLUME /workspace/data\n")
    look: dict[str, object] = {"commands": ["ls -A data | wc -l", "ls"]}
    files: dict[str, str | bytes] = {"data/file": "covered", "other/file": "x"}
    said = []
    for entries in ([look], [look, {"commands": ["true"]}]):
        builder = await room.make_builder(room.make_config(room.repository.url))
        text = steps(image, *entries)
        commit = room.repository.commit({".pbft-ci.yml": text, **files})
        order = builder.order(room.repository.url, commit)
        finding = await builder.find(order)
        log = builder.log(order)
        assert finding.compared.exit_code == 0, log
        said.append(log[log.index("+ ls -A") : log.index("other")])
    assert said[0] == said[1]
    assert "\n0\n" in said[0]


@pytest.mark.parametrize(
    "instead",
    [
        "exit 127",
        "echo strange >strange; exit 1",
        "echo 'I am no ordinary shell'",
        "exec sleep 600",
        "kill -9 $$",
    ],
)
async def test_an_image_that_does_not_take_a_tree_gets_it_from_the_engine(
    room: Room,
    image_with: ImageMaker,
    made: list[str],
    monkeypatch: pytest.MonkeyPatch,
    instead: str,
) -> None:
    if "sleep" in instead:
        monkeypatch.setattr(node.sandboxes.containers.container_run, "TREE_SECONDS_MAX", 1.0)
    image = image_with(instead)
    text = pipeline(image, "ls -A", "cat file; exit 3")
    commit = room.repository.commit({".pbft-ci.yml": text, "file": "content"})
    builder = await room.make_builder(room.make_config(room.repository.url))
    orders = [builder.order(room.repository.url, commit) for _ in range(2)]
    for order in orders:
        finding = await builder.find(order)
        log = builder.log(order)
        assert finding.compared.exit_code == 3, log
        assert "+ ls -A\n.pbft-ci.yml\nfile\n" in log
        assert not things_of(room.engine, builder.cluster_id)
    # the first one, the keeper and the step; then it is known
    assert len(made) == 3 + 2


async def test_what_a_pipeline_sets_does_not_count_against_others(
    room: Room, made: list[str]
) -> None:
    """Without a tar in its PATH a build goes the long way; the next one of the image does not."""
    builder = await room.make_builder(room.make_config(room.repository.url))
    poor: dict[str, object] = {"commands": ["true"], "environment": {"PATH": "/nowhere"}}
    plain: dict[str, object] = {"commands": ["true"]}
    counts = []
    for entry in (poor, plain, poor):
        commit = room.repository.commit({".pbft-ci.yml": steps(room.image, entry)})
        before = len(made)
        await builder.find(builder.order(room.repository.url, commit))
        counts.append(len(made) - before)
    assert counts == [3, 1, 2]


async def test_cancelling_while_the_tree_is_put_in(room: Room, image_with: ImageMaker) -> None:
    image = image_with("exec sleep 600")
    builder = await room.make_builder(room.make_config(room.repository.url))
    commit = room.repository.commit({".pbft-ci.yml": pipeline(image, "echo never")})
    order = builder.order(room.repository.url, commit)
    task = asyncio.create_task(builder.build(order))
    await until(lambda: is_running(room, builder.cluster_id))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert not things_of(room.engine, builder.cluster_id)
    assert "never" not in builder.log(order)


def is_running(room: Room, cluster_id: bytes) -> bool:
    """Whether a container of that cluster runs."""
    label = f"{CLUSTER_LABEL}={cluster_id.hex()}"
    return bool(room.engine.api.containers(filters={"label": label}))


async def test_a_node_that_is_killed_while_the_tree_is_put_in(
    room: Room, image_with: ImageMaker, tmp_path: Path
) -> None:
    image = image_with("exec sleep 600")
    cluster_id = secrets.token_bytes(32)
    commit = room.repository.commit({".pbft-ci.yml": pipeline(image, "echo never")})
    arguments = (str(tmp_path), room.repository.url, commit, cluster_id.hex(), image)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASH, *arguments)
    await until(lambda: is_running(room, cluster_id))
    process.kill()
    await process.wait()
    assert things_of(room.engine, cluster_id)
    await room.make_builder(room.make_config(room.repository.url), cluster_id)
    assert not things_of(room.engine, cluster_id)


async def test_what_is_left_of_a_build_is_removed_behind_its_ballot(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever closes the runner waits for it."""
    builder = await room.make_builder(room.make_config(room.repository.url))
    commit = room.repository.commit({".pbft-ci.yml": pipeline(room.image, "true")})
    order = builder.order(room.repository.url, commit)
    may_remove = asyncio.Event()
    tidy = builder.runner._tidy

    async def tidy_later(key: tuple[bytes, int]) -> None:
        await may_remove.wait()
        await tidy(key)

    # else it may be done before anybody looks
    monkeypatch.setattr(builder.runner, "_tidy", tidy_later)
    await builder.runner.build(order)
    assert builder.state(order) == "none"
    assert builder.runner.states() == ["removing"]
    asyncio.get_running_loop().call_later(0.1, may_remove.set)
    await builder.runner.close()
    assert not builder.runner.states()
    assert not things_of(room.engine, builder.cluster_id)
    assert not (builder.runner.log_path(order.build, order.opened).parent / "work").exists()
