"""Dockerfiles built and run on a real engine: how they end, and that replicas stay apart."""

import asyncio
import hashlib
import io
import json
import secrets

import pytest

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.operations import Abstain, Outcome
from common.configuration.package_sources import PackageSource
from common.dependencies.lock_file import Tool
from node.sandboxes.containers.docker_engine import BUILD_LABEL, CLUSTER_LABEL, REPLICA_LABEL
from node.sources.dockerfile import PreparedDockerfile
from tests.node.conftest import (
    ASK_LOOPBACK,
    PATIENCE_SECONDS,
    Room,
    images_made_by,
    things_of,
    things_on,
    until,
)
from tests.node.dependencies.mirror import running_mirror
from tests.node.dependencies.test_hand_in import crate_with
from tests.node.sandboxes.containers.test_docker_sandbox import look_when_allowed

pytestmark = pytest.mark.docker


async def test_a_volume_of_an_image_is_no_folder_of_the_host(room: Room) -> None:
    # a volume that is left has no label: `docker_engine` looks for those
    dockerfile = (
        f"FROM {room.image}\nVOLUME /data\n"
        'CMD ["sh", "-c", "touch /data/x && ! head -c 70000000 /dev/zero >/data/big"]\n'
    )
    compared, log = await room.run_files({"Dockerfile": dockerfile}, {"memory_bytes": 256 * 2**20})
    assert compared.exit_code == 0, log


async def test_dockerfile_is_built_and_run(room: Room) -> None:
    command = f"id -u; ! touch /source/x; touch /tmp/x; cat /source/word; {ASK_LOOPBACK}; exit 6"
    dockerfile = (
        f"FROM {room.image} AS first\nRUN echo in the build && id -u\nRUN {ASK_LOOPBACK}\n"
        f"FROM {room.image}\nCOPY --from=first /etc/passwd /p\nCOPY . /source\n"
        "RUN ls -A /source && test ! -e /source/.pbft-ci.dockerfile\n"
        f"CMD {json.dumps(['sh', '-c', command])}\n"
    )
    compared, log = await room.run_files({"Dockerfile": dockerfile, "word": "the word\n"})
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 6)
    assert log.count("localhost said heard") == log.count("pbft-ci said heard") == 2
    assert compared.image_digest is None
    assert "in the build\n0\n" in log
    assert "65534\n" in log
    assert "the word\n" in log


async def test_instructions_have_what_lock_files_pin_and_the_image_has_not(room: Room) -> None:
    wheel, crate = b"a wheel", crate_with({"foo-1.0.0/src/lib.rs": b"x"})
    digests = [hashlib.sha256(data).hexdigest() for data in (wheel, crate)]
    name = "foo-1.0-py3-none-any.whl"
    command = "echo the image:; env; find /pbft-ci-inputs /.cargo -type f >/tmp/x; ! grep . /tmp/x"
    files: dict[str, str | bytes] = {
        "Dockerfile": (
            "# pbft-ci dependencies: pip=requirements.txt\n"
            "# pbft-ci dependencies: cargo=Cargo.lock\n"
            f"FROM {room.image} AS first\n"
            f"RUN test \"$(cat $PIP_FIND_LINKS/{name})\" = 'a wheel' && {ASK_LOOPBACK}\n"
            "RUN grep -q /pbft-ci-inputs/cargo /.cargo/config.toml\n"
            "FROM first\nRUN test $PIP_NO_INDEX = 1 && cat /pbft-ci-inputs/cargo/*/src/lib.rs\n"
            f"CMD {json.dumps(['sh', '-c', command])}\n"
        ),
        "requirements.txt": f"foo==1.0 --hash=sha256:{digests[0]}\n",
        "Cargo.lock": (
            'version = 3\n[[package]]\nname = "foo"\nversion = "1.0.0"\nsource = "registry+'
            f'https://github.com/rust-lang/crates.io-index"\nchecksum = "{digests[1]}"\n'
        ),
    }
    with running_mirror() as mirror:
        mirror.files = {
            "/foo/": f'<a href="{name}#sha256={digests[0]}">{name}</a>'.encode(),
            f"/foo/{name}": wheel,
            "/foo/foo-1.0.0.crate": crate,
        }
        sources = tuple(PackageSource(tool=t, url=mirror.url) for t in (Tool.PIP, Tool.CARGO))
        config = room.make_config(room.repository.url, sources=sources)
        builder = await room.make_builder(config)
        order = builder.order(room.repository.url, room.repository.commit(files))
        compared, log = (await builder.find(order)).compared, builder.log(order)
    assert compared.outcome is Outcome.PASSED, log
    assert [made.path for made in compared.artifacts] == [BILL_OF_MATERIALS]
    assert "PIP_NO_INDEX" not in log.partition("the image:")[2]
    assert not await asyncio.to_thread(things_of, room.engine, builder.cluster_id)


@pytest.mark.parametrize(
    ("instructions", "outcome", "exit_code"),
    [
        ('CMD ["true"]', Outcome.PASSED, 0),
        ("RUN exit 9", Outcome.FAILED, 9),
        ("COPY nothing /x", Outcome.FAILED, 1),
        ('RUN ["nothing"]', Outcome.FAILED, 127),
        ("RUN tail /dev/zero", Outcome.OUT_OF_MEMORY, None),
        ("RUNN true", Outcome.PIPELINE_INVALID, None),
        ("FROM Not_An_Image!", Outcome.PIPELINE_INVALID, None),
        ("ADD http://127.0.0.1/x /x", Outcome.PIPELINE_INVALID, None),
    ],
)
async def test_how_a_dockerfile_ends(
    room: Room, instructions: str, outcome: Outcome, exit_code: int | None
) -> None:
    compared, log = await room.run_files({"Dockerfile": f"FROM {room.image}\n{instructions}\n"})
    assert (compared.outcome, compared.exit_code) == (outcome, exit_code), log
    assert compared.pipeline_sha256 is not None
    if instructions == "RUNN true":
        assert "line 2: unknown instruction: RUNN" in log


async def test_dockerfile_build_that_takes_too_long(room: Room) -> None:
    compared, log = await room.run_files(
        {"Dockerfile": f"FROM {room.image}\nRUN true\nRUN echo slow; sleep 600\n"},
        {"build_seconds_max": 4},
    )
    assert compared.outcome is Outcome.TIMED_OUT, log


@pytest.mark.parametrize("patience_seconds", [PATIENCE_SECONDS, 0.1])
async def test_a_layer_that_the_engine_finishes_after_the_build_was_stopped(
    room: Room, monkeypatch: pytest.MonkeyPatch, patience_seconds: float
) -> None:
    """It never breaks off a COPY. Such a layer is known by its parents alone: they go with it."""
    monkeypatch.setattr(
        "node.sandboxes.containers.docker_sandbox.BUILDER_SECONDS_MAX", patience_seconds
    )
    owner = secrets.token_hex(8)
    dockerfile = f"FROM {room.image}\nLABEL {CLUSTER_LABEL}={owner}\nCOPY . /x\nRUN sleep 600\n"
    files: dict[str, str | bytes] = {f"{number}": str(number) for number in range(1000)}
    same = f"FROM {room.image}\nLABEL {CLUSTER_LABEL}={secrets.token_hex(8)}\nCOPY . /x\n"
    files |= {"Dockerfile": dockerfile, "same": same, "big": b"x" * 30_000_000}
    commit = room.repository.commit(files)
    builder = await room.make_builder(room.make_config(room.repository.url))
    order = builder.order(room.repository.url, commit)
    task = asyncio.create_task(builder.build(order))
    path = builder.runner.log_path(order.build, order.opened)
    await until(lambda: path.exists() and " : COPY . /x" in path.read_text())
    # It adds up what it copies, and then begins the layer: the engine tells nobody when. If this is
    # too early or too late, the build is broken off as others are, and the test shows less.
    await asyncio.sleep(0.5)
    monkeypatch.setattr("node.sandboxes.containers.docker_sandbox.LOOK_AGAIN_SECONDS", 0.0)
    may_look = look_when_allowed(monkeypatch)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 2 * PATIENCE_SECONDS)
    is_gone = patience_seconds > 1  # before the build was over; else the node looks again
    assert not (is_gone and owner in things_on(room.engine).values())
    # Whatever the engine still does, it has begun it before the same work, so it ends before that.
    image, _ = await asyncio.to_thread(
        room.engine.images.build,
        path=str(room.repository.folder),
        dockerfile="same",
        nocache=True,
        rm=True,
    )
    await asyncio.to_thread(room.engine.images.remove, str(image.id))
    may_look.set()
    if not is_gone:
        await until(lambda: owner not in things_on(room.engine).values())
    assert owner not in things_on(room.engine).values()


async def test_labels_that_a_dockerfile_changes_do_not_hide_its_layers(room: Room) -> None:
    owner = secrets.token_hex(8)
    dockerfile = (
        f"FROM {room.image}\nLABEL {CLUSTER_LABEL}={owner} {REPLICA_LABEL}=y {BUILD_LABEL}=z\n"
        "RUN true\nRUN exit 3\n"
    )
    compared, _ = await room.run_files({"Dockerfile": dockerfile})
    assert compared.exit_code == 3
    assert owner not in things_on(room.engine).values()


async def test_an_image_that_has_none_of_our_labels(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a FROM ever be overlooked: the image goes by its name, and its layers with it."""

    def overlook(data: bytes, *rest: object, **more: object) -> PreparedDockerfile:
        return PreparedDockerfile(data, (), ())

    monkeypatch.setattr("node.sandboxes.containers.docker_sandbox.prepare_dockerfile", overlook)
    word = secrets.token_hex(8)
    text = f"FROM {room.image}\nRUN echo {word} >/x\nCMD exit 4\n"
    compared, _ = await room.run_files({"Dockerfile": text})
    assert compared.exit_code == 4
    assert not images_made_by(room.engine, word)


@pytest.mark.parametrize("trigger", ["ADD http://127.0.0.1/x /x", "RUN true"])
async def test_a_base_with_triggers(room: Room, trigger: str) -> None:
    """They run at FROM, and nobody has read them."""
    base = f"pbft-ci-test/{secrets.token_hex(4)}:1"
    room.local_images.append(base)
    text = f"FROM {room.image}\nONBUILD {trigger}\n"
    await asyncio.to_thread(
        room.engine.images.build, fileobj=io.BytesIO(text.encode()), tag=base, rm=True
    )
    try:
        compared, log = await room.run_files({"Dockerfile": f"FROM {base}\nCMD true\n"})
    finally:
        await asyncio.to_thread(room.engine.images.remove, base)
    assert compared.outcome is Outcome.PIPELINE_INVALID
    assert f"image {base} has ONBUILD instructions" in log


async def test_a_base_with_a_variable(room: Room) -> None:
    name, _, tag = room.image.partition(":")
    text = f'ARG V={tag}\nFROM {name}:${{V}}\nARG V\nRUN test "$V" = {tag}\nCMD exit 5\n'
    compared, log = await room.run_files({"Dockerfile": text})
    assert compared.exit_code == 5, log
    image_id = str(room.engine.images.get(room.image).id)
    assert f"image {room.image}, made locally: {image_id}\n" in log
    assert f" : FROM {image_id}\n" in log


async def test_dockerfile_must_be_allowed(room: Room) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url, allow_dockerfile=False))
    commit = room.repository.commit({"Dockerfile": f"FROM {room.image}\n"})
    order = builder.order(room.repository.url, commit)
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.PIPELINE_INVALID
    assert "allow_dockerfile" in builder.log(order)
    assert "add .pbft-ci.yml with image: and commands:" in builder.log(order)


async def test_no_dockerfile_is_built_with_another_runtime_than_the_configured_one(
    room: Room,
) -> None:
    """The builder takes the engine's default, so the replica abstains before a base is sought."""
    builder = await room.make_builder(room.make_config(room.repository.url, runtime="runsc"))
    commit = room.repository.commit({"Dockerfile": f"FROM {room.image}\nRUN true\n"})
    ballot = await builder.build(builder.order(room.repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert "runtime: runsc: the engine's builder runs Dockerfiles with runc" in ballot.reason
    assert '"default-runtime": "runsc"' in ballot.reason


async def test_four_nodes_on_one_engine_build_the_same_dockerfile(room: Room) -> None:
    cluster_id = secrets.token_bytes(32)
    text = f'FROM {room.image}\nCOPY . /x\nRUN true\nCMD ["sh", "-c", "sleep 1; exit 2"]\n'
    commit = room.repository.commit({"Dockerfile": text})
    base = room.make_config(room.repository.url)
    builders = []
    for index in range(4):
        config = room.make_config(
            room.repository.url,
            name=f"node{index}",
            data_directory=base.data_directory / str(index),
        )
        builders.append(await room.make_builder(config, cluster_id))
    order = builders[0].order(room.repository.url, commit)
    found = await asyncio.gather(*(builder.find(order) for builder in builders))
    assert {finding.compared.exit_code for finding in found} == {2}
    assert len({finding.compared for finding in found}) == 1
    assert len({finding.evidence.image_id for finding in found}) == 4
    assert not things_of(room.engine, cluster_id)
