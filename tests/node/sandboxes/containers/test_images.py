"""Which image a name means now, who may pull it, and what is kept, against a real registry."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import docker
import msgspec
import pytest

from ci.operations import Abstain, BuildResult, Outcome
from common.configuration.config import NodeConfig
from node.sandboxes.containers.docker_engine import DockerEngine, Image
from node.sandboxes.containers.images import Images
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop
from tests.node.conftest import (
    LOCAL_IMAGES,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
)
from tests.node.registry_server import PASSWORD, RegistryServer, unique_name

pytestmark = pytest.mark.docker

DAY = 86_400


@pytest.fixture
def registry(tmp_path: Path, docker_engine: docker.DockerClient) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry", docker_engine) as server:
        yield server


@pytest.fixture
def private(tmp_path: Path, docker_engine: docker.DockerClient) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "private", docker_engine, is_private=True) as server:
        yield server


@pytest.fixture
def engine(docker_engine: docker.DockerClient) -> Iterator[DockerEngine]:
    made = DockerEngine(None, 2)
    yield made
    made.close()


def say_nothing(_: str) -> None:
    """Notes for a log that nobody reads."""


def obtained(images: Images, name: str, build: str = "b") -> Image:
    found = images.obtain(name, build, LOCAL_IMAGES, note=say_nothing, stop=Stop())
    assert isinstance(found, Image), found
    return found


async def test_two_tags_and_a_moved_one(
    registry: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    name = unique_name()
    old = await asyncio.to_thread(registry.push, f"{name}:1", base_image, "old")
    other = await asyncio.to_thread(registry.push, f"{name}:2", base_image, "other")
    builder = await make_builder(make_config(repository.url, images_from=(registry.host,)))

    async def digest(tag: str) -> str | None:
        text = pipeline(f"{registry.host}/{name}{tag}", "true")
        commit = repository.commit({".pbft-ci.yml": text})
        finding = await builder.find(builder.order(repository.url, commit))
        assert finding.compared.outcome is Outcome.PASSED
        return finding.compared.only_image_digest

    assert await digest(":1") == old
    assert await digest(":2") == other
    # the engine has what the tag meant before, and it does not count
    new = await asyncio.to_thread(registry.push, f"{name}:1", base_image, "new")
    assert new not in (old, other)
    assert await digest(":1") == new
    assert await digest(f"@{old}") == old


async def test_an_image_for_several_platforms(
    registry: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """What is compared is the digest of the list, the same on machines of all kinds."""
    name = unique_name()
    one = await asyncio.to_thread(registry.push, f"{name}:one", base_image, "one")
    both = await asyncio.to_thread(registry.push_list, f"{name}:both", one)
    builder = await make_builder(make_config(repository.url, images_from=(registry.host,)))
    for asked in (":both", f"@{both}", ":both"):
        text = pipeline(f"{registry.host}/{name}{asked}", "true")
        commit = repository.commit({".pbft-ci.yml": text})
        finding = await builder.find(builder.order(repository.url, commit))
        assert finding.compared.outcome is Outcome.PASSED
        assert finding.compared.image_digest == both
    assert both != one


async def test_images_from_elsewhere(
    registry: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """Not even asked for; an image that the operator has under its name is."""
    name = unique_name()
    digest = await asyncio.to_thread(registry.push, f"{name}:1", base_image, "x")
    places: dict[tuple[str, ...], bool] = {
        ("docker.io", f"{registry.host}/elsewhere"): False,
        (registry.host,): True,
        (f"{registry.host}/{name}",): True,
    }
    for images_from, is_taken in places.items():
        builder = await make_builder(make_config(repository.url, images_from=images_from))
        for image in (f"{registry.host}/{name}:1", f"{registry.host}/{name}@{digest}"):
            for files in (
                {".pbft-ci.yml": pipeline(image, "true")},
                {"Dockerfile": f"FROM {image}\nCMD true\n"},
            ):
                commit = repository.commit(dict(files))
                found = await builder.build(builder.order(repository.url, commit))
                assert isinstance(found, BuildResult) is is_taken
                assert is_taken or "images_from" in getattr(found, "reason", "")
        commit = repository.commit({".pbft-ci.yml": pipeline(base_image, "true")})
        assert isinstance(await builder.build(builder.order(repository.url, commit)), BuildResult)


@pytest.mark.parametrize("base", ["FROM {name}:1", "ARG V=1\nFROM {name}:${{V}}"])
async def test_a_base_of_a_dockerfile_that_was_moved(
    base: str,
    registry: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    docker_engine: docker.DockerClient,
) -> None:
    repository_name = unique_name()
    name = f"{repository_name}:1"
    builder = await make_builder(
        make_config(repository.url, images_from=(registry.host,), images_bytes_max=0)
    )
    dockerfile = base.format(name=f"{registry.host}/{repository_name}") + "\nCMD true\n"
    commit = repository.commit({"Dockerfile": dockerfile})
    ids = set()
    for content in ("old", "new"):
        digest = await asyncio.to_thread(registry.push, name, base_image, content)
        order = builder.order(repository.url, commit)
        finding = await builder.find(order)
        assert finding.compared.outcome is Outcome.PASSED, builder.log(order)
        assert f"@{digest}" in builder.log(order)
        ids.add(finding.evidence.image_id)
    assert len(ids) == 2
    # nothing is kept here: neither the digests nor the name that the builder needed
    assert registry.names_on_engine() == set()


async def test_a_private_registry(
    private: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    tmp_path: Path,
) -> None:
    name = f"{unique_name()}:1"
    digest = await asyncio.to_thread(private.push, name, base_image, "private")
    good = private.auth_file(tmp_path / "good.json")
    wrong = private.auth_file(tmp_path / "wrong.json", password="not-the-password")
    elsewhere = private.auth_file(tmp_path / "elsewhere.json", host="registry.example.org")
    image = f"{private.host}/{name}"
    commit = repository.commit({".pbft-ci.yml": pipeline(image, "env; cat /content || true")})

    async def ballot(file: Path | None, asked: str = commit) -> tuple[BuildResult | Abstain, str]:
        config = make_config(
            repository.url,
            images_from=(private.host,),
            registry_auth_file=file,
            abstain_after_seconds=1,
        )
        builder = await make_builder(config)
        order = builder.order(repository.url, asked)
        found = await builder.build(order)
        log = builder.log(order)
        for secret in (PASSWORD, "not-the-password"):
            assert secret not in log
            assert secret not in repr(found)
        return found, log

    for file, words in (
        (wrong, f"did not accept registry_auth_file {wrong}"),
        (elsewhere, f"put one into registry_auth_file {elsewhere}"),
        (None, "set registry_auth_file"),
    ):
        found, _ = await ballot(file)
        assert isinstance(found, Abstain)
        assert words in found.reason
    found, _ = await ballot(good)
    assert isinstance(found, BuildResult)
    assert found.compared.image_digest == digest
    # who is let in is told what is not there
    absent = f"{private.host}/{unique_name()}:1"
    for asked in (absent, f"{image.rpartition(':')[0]}@sha256:{'0' * 64}"):
        commit = repository.commit({".pbft-ci.yml": pipeline(asked, "true")})
        found, log = await ballot(good, commit)
        assert isinstance(found, BuildResult), found
        assert found.compared.outcome is Outcome.IMAGE_UNAVAILABLE
        assert "its registry has none of that name" in log
    # not there, and down: two different things
    await asyncio.to_thread(private.stop)
    found, _ = await ballot(good, commit)
    assert isinstance(found, Abstain)
    await asyncio.to_thread(private.start)


async def test_the_users_own_docker_configuration_does_not_count(
    private: RegistryServer,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its logins, nor the proxies that the library would put into every container."""
    name = f"{unique_name()}:1"
    await asyncio.to_thread(private.push, name, base_image, "private")
    (tmp_path / "home" / ".docker").mkdir(parents=True)
    file = private.auth_file(tmp_path / "home" / ".docker" / "config.json")
    settings = json.loads(file.read_text())
    settings["proxies"] = {"default": {"httpProxy": "http://user:word@proxy.invalid:3128"}}
    file.write_text(json.dumps(settings))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    builder = await make_builder(
        make_config(repository.url, images_from=(private.host,), abstain_after_seconds=1)
    )
    commit = repository.commit({".pbft-ci.yml": pipeline(f"{private.host}/{name}", "true")})
    assert isinstance(await builder.build(builder.order(repository.url, commit)), Abstain)
    commit = repository.commit({".pbft-ci.yml": pipeline(base_image, "env")})
    order = builder.order(repository.url, commit)
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.PASSED
    assert "SOURCE_DATE_EPOCH" in builder.log(order)
    assert "proxy.invalid" not in builder.log(order)


def test_a_local_image_is_the_operators_own(
    base_image: str, engine: DockerEngine, make_config: ConfigMaker
) -> None:
    images = Images(engine, make_config())
    found = obtained(images, base_image)
    assert found.digest is None
    images.release("b")
    images.tidy(Stop())
    assert engine.find_image(base_image) == found


def test_a_local_image_that_is_gone_is_not_looked_for_elsewhere(
    registry: RegistryServer, base_image: str, engine: DockerEngine, config: NodeConfig
) -> None:
    """Whoever has its name at a registry would else be run in its place."""
    name = f"{registry.host}/{unique_name()}:1"
    registry.push(name.partition("/")[2], base_image, "other")
    images = Images(engine, msgspec.structs.replace(config, images_from=(registry.host,)))
    with pytest.raises(InfrastructureError, match="one of local_images and not on the engine"):
        images.obtain(name, "b", (name,), note=say_nothing, stop=Stop())


def test_a_digest_that_only_the_engine_has(
    private: RegistryServer,
    base_image: str,
    engine: DockerEngine,
    make_config: ConfigMaker,
    tmp_path: Path,
) -> None:
    """The operator pulled it with a login of his own; digests are no secrets."""
    repository = unique_name()
    digest = private.push(f"{repository}:1", base_image, "own")
    name = f"{private.host}/{repository}@{digest}"
    assert engine.pull(name, private.login, 60, stop=Stop()) is None
    without = make_config(images_from=(private.host,))
    without.data_directory.mkdir()
    with pytest.raises(InfrastructureError, match="wants a login"):
        Images(engine, without).obtain(name, "b", (), note=say_nothing, stop=Stop())
    login = private.auth_file(tmp_path / "auth.json")
    images = Images(engine, msgspec.structs.replace(without, registry_auth_file=login))
    assert obtained(images, name).digest == digest


def test_a_name_that_an_older_release_gave_goes_with_its_image(
    registry: RegistryServer,
    base_image: str,
    engine: DockerEngine,
    config: NodeConfig,
    docker_engine: docker.DockerClient,
) -> None:
    """Where it still is that image's: the operator may have given it to another."""
    taken, own = (f"{registry.host}/{unique_name()}:1" for _ in range(2))
    config = msgspec.structs.replace(config, images_from=(registry.host,), images_bytes_max=0)
    registry.push(taken.partition("/")[2], base_image, "pulled")
    images = Images(engine, config)
    found = obtained(images, taken)
    docker_engine.api.tag(found.id, taken.rpartition(":")[0], "1")
    docker_engine.api.tag(base_image, own.rpartition(":")[0], "1")
    file = config.data_directory / "pulled-images.json"
    (record,) = json.loads(file.read_text())
    file.write_text(json.dumps([record | {"tags": [taken, own]}]))
    Images(engine, config).tidy(Stop())
    assert registry.names_on_engine() == {own}


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def kept(config: NodeConfig) -> set[str]:
    """What the node says that it pulled."""
    text = (config.data_directory / "pulled-images.json").read_text()
    return {entry["reference"] for entry in json.loads(text)}


@pytest.fixture
def config(make_config: ConfigMaker) -> NodeConfig:
    made = make_config(images_days_max=10)
    made.data_directory.mkdir()
    return made


def test_images_are_kept_for_their_days(
    registry: RegistryServer,
    base_image: str,
    engine: DockerEngine,
    config: NodeConfig,
    clock: Clock,
) -> None:
    names = [f"{unique_name()}:1" for _ in range(3)]
    digests = [registry.push(name, base_image, name.replace("/", "")) for name in names]
    references = [
        f"{registry.host}/{name[:-2]}@{digest}" for name, digest in zip(names, digests, strict=True)
    ]
    # somebody else pulled the last one
    assert engine.pull(references[2], {}, 60, stop=Stop()) is None
    config = msgspec.structs.replace(config, images_from=(registry.host,))
    images = Images(engine, config, clock)
    for index, name in enumerate(names):
        obtained(images, f"{registry.host}/{name}", f"build{index}")
    assert kept(config) == set(references[:2])
    images.release("build0")
    clock.now += 9 * DAY
    obtained(images, f"{registry.host}/{names[0]}", "build0")
    images.release("build0")
    # a restart forgets nothing but what is in use
    images = Images(engine, config, clock)
    images.tidy(Stop())
    assert registry.names_on_engine() == set(references)
    clock.now += 2 * DAY
    images.tidy(Stop())
    assert registry.names_on_engine() == {references[0], references[2]}
    assert kept(config) == {references[0]}
    clock.now += 100 * DAY
    obtained(images, references[0], "build")
    clock.now += 100 * DAY
    images.tidy(Stop())
    assert references[0] in registry.names_on_engine(), "it is in use"
    images.release("build")
    images.tidy(Stop())
    assert registry.names_on_engine() == {references[2]}, "what others pulled is theirs"


def test_the_least_recently_used_go_first(
    registry: RegistryServer,
    base_image: str,
    engine: DockerEngine,
    make_config: ConfigMaker,
    clock: Clock,
) -> None:
    names = [f"{unique_name()}:1" for _ in range(3)]
    references = []
    for name in names:
        digest = registry.push(name, base_image, name.replace("/", ""))
        references.append(f"{registry.host}/{name[:-2]}@{digest}")
    base = engine.find_image(base_image)
    assert base is not None
    config = make_config(images_from=(registry.host,), images_bytes_max=base.bytes * 5 // 2)
    config.data_directory.mkdir()
    images = Images(engine, config, clock)
    for name in names:
        obtained(images, f"{registry.host}/{name}")
        clock.now += 1
    obtained(images, references[0])
    images.release("b")
    images.tidy(Stop())
    assert registry.names_on_engine() == {references[0], references[2]}


def test_an_image_that_a_container_needs_stays(
    registry: RegistryServer,
    base_image: str,
    engine: DockerEngine,
    make_config: ConfigMaker,
    docker_engine: docker.DockerClient,
) -> None:
    config = make_config(images_from=(registry.host,), images_bytes_max=0)
    config.data_directory.mkdir()
    images = Images(engine, config)
    name = unique_name()
    digest = registry.push(f"{name}:1", base_image, "needed")
    reference = f"{registry.host}/{name}@{digest}"
    obtained(images, reference)
    images.release("b")
    container = docker_engine.containers.create(reference, "true")
    try:
        images.tidy(Stop())
        assert kept(config) == {reference}
        assert registry.names_on_engine() == {reference}
    finally:
        container.remove()
    images.tidy(Stop())
    assert registry.names_on_engine() == set()


@pytest.mark.parametrize("text", ["", "{", '[{"reference": 1}]', "\x00"])
def test_a_record_that_is_damaged_removes_nothing(
    base_image: str, engine: DockerEngine, config: NodeConfig, text: str
) -> None:
    (config.data_directory / "pulled-images.json").write_text(text)
    images = Images(engine, config)
    images.tidy(Stop())
    assert engine.find_image(base_image) is not None
