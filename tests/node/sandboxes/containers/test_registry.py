"""Images from a registry: what it answers is a finding, what it leaves open is not."""

import gzip
import hashlib
import io
import json
import secrets
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import docker.errors
import msgspec
import pytest

from ci.operations import Abstain, ImageDigest, Outcome
from node.sandboxes.containers.docker_engine import digest_of as digest_for
from tests.node.conftest import BuilderMaker, ConfigMaker, GitRepository, pipeline

pytestmark = pytest.mark.docker

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """As much of a registry as a pull needs, with one image, on a port of loopback."""

    def __init__(self, engine: docker.DockerClient, base_image: str) -> None:
        self.repository = f"pbft-ci-test/{secrets.token_hex(4)}"
        self.status: int | None = None
        self.blobs: dict[str, bytes] = {}
        saved = io.BytesIO(b"".join(engine.images.get(base_image).save()))
        with tarfile.open(fileobj=saved) as archive:
            (listed,) = json.loads(self._member(archive, "manifest.json"))
            config = self._member(archive, listed["Config"])
            layer = gzip.compress(self._member(archive, listed["Layers"][0]), mtime=0)
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": self._blob(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [self._blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }
        ).encode()
        self.digest = digest_of(self.manifest)
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET  # noqa: N815 (the base class's name)

            def log_message(self, *_: object) -> None:
                """Nothing: the tests say what went wrong."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        name, _, tail = path.removeprefix("/v2/").partition("/manifests/")
        if self.status is not None:
            self._send(request, self.status, b"{}", "application/json")
        elif path == "/v2/":
            self._send(request, 200, b"{}", "application/json")
        elif name == self.repository and tail in ("1", self.digest):
            self._send(request, 200, self.manifest, MANIFEST_TYPE)
        elif "/blobs/" in path and path.rpartition("/")[2] in self.blobs:
            blob = self.blobs[path.rpartition("/")[2]]
            self._send(request, 200, blob, "application/octet-stream")
        else:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self._send(request, 404, json.dumps(error).encode(), "application/json")

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if kind == MANIFEST_TYPE:
            request.send_header("Docker-Content-Digest", self.digest)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def _blob(self, data: bytes, kind: str) -> dict[str, str | int]:
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"mediaType": kind, "size": len(data), "digest": digest}

    @staticmethod
    def _member(archive: tarfile.TarFile, name: str) -> bytes:
        member = archive.extractfile(name)
        assert member is not None
        return member.read()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def registry(docker_engine: docker.DockerClient, base_image: str) -> Iterator[Registry]:
    made = Registry(docker_engine, base_image)
    yield made
    made.close()
    for image in docker_engine.api.images():
        for name in (*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())):
            if name.startswith(f"{made.host}/"):
                # its other name may have gone with the first
                with suppress(docker.errors.ImageNotFound):
                    docker_engine.images.remove(name)


async def test_an_image_is_pulled_and_its_digest_is_compared(
    registry: Registry,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    builder = await make_builder(
        make_config(repository.url, images_from=(registry.host,), abstain_after_seconds=1)
    )
    name = f"{registry.host}/{registry.repository}"
    for image in (f"{name}:1", f"{name}@{registry.digest}"):
        commit = repository.commit({".pbft-ci.yml": pipeline(image, "exit 5")})
        finding = await builder.find(builder.order(repository.url, commit))
        assert finding.compared.exit_code == 5
        assert finding.compared.image_digest == registry.digest
    # without the registry: a digest means itself, and the engine has it
    registry.status = 500
    again = await builder.find(builder.order(repository.url, commit))
    assert again.compared == finding.compared
    # but what a tag means, nobody else can say
    commit = repository.commit({".pbft-ci.yml": pipeline(f"{name}:1", "exit 5")})
    assert isinstance(await builder.build(builder.order(repository.url, commit)), Abstain)


async def test_of_a_build_in_several_images_all_digests_are_compared(
    registry: Registry,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    base_image: str,
) -> None:
    """Two replicas that differ in the image of one step alone do not agree."""
    name = f"{registry.host}/{registry.repository}"
    fixed, moving = f"{name}@{registry.digest}", f"{name}:1"
    steps = [
        {"name": "first", "commands": ["echo one >file"]},
        {"name": "second", "image": moving, "commands": ["cat file"]},
        {"name": "third", "image": fixed, "commands": ["cat file"]},
        # of a step that is not for this branch nothing is pulled, and nothing is compared
        {"name": "no", "image": f"{name}:none", "commands": ["x"], "when": {"branch": "other"}},
    ]
    text = json.dumps({"image": base_image, "steps": steps})
    commit = repository.commit({".pbft-ci.yml": text})
    first, second = registry.manifest, registry.manifest + b"\n"
    found = []
    for node, manifest in (("node0", first), ("node1", second)):
        registry.manifest, registry.digest = manifest, digest_of(manifest)
        config = make_config(repository.url, name=node, images_from=(registry.host,))
        builder = await make_builder(config)
        found.append((await builder.find(builder.order(repository.url, commit))).compared)
    assert found[0].exit_code == 0
    assert found[0].images == (
        ImageDigest(moving, digest_of(first)),
        ImageDigest(fixed, digest_of(first)),
        ImageDigest(base_image, None),
    )
    assert found[1].images[0] == ImageDigest(moving, digest_of(second))
    assert found[1].images[1:] == found[0].images[1:]
    assert found[0] != found[1]


async def test_two_replicas_that_get_different_images_for_one_tag_do_not_agree(
    registry: Registry,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """A registry that answers each with another manifest: all else that they find is the same."""
    name = f"{registry.host}/{registry.repository}:1"
    commit = repository.commit({".pbft-ci.yml": pipeline(name, "true")})
    first, second = registry.manifest, registry.manifest + b"\n"
    found = []
    for node, manifest in (("node0", first), ("node1", second)):
        registry.manifest, registry.digest = manifest, digest_of(manifest)
        config = make_config(repository.url, name=node, images_from=(registry.host,))
        builder = await make_builder(config)
        finding = await builder.find(builder.order(repository.url, commit))
        found.append(finding.compared)
    assert [compared.image_digest for compared in found] == [digest_of(first), digest_of(second)]
    assert found[0] != found[1]
    assert found[0] == msgspec.structs.replace(found[1], image_digest=digest_of(first))


@pytest.mark.parametrize("kind", ["pipeline", "dockerfile", "copy from"])
async def test_an_image_that_the_registry_does_not_have(
    registry: Registry,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    kind: str,
) -> None:
    builder = await make_builder(make_config(repository.url, images_from=(registry.host,)))
    name = f"{registry.host}/{registry.repository}:nothing"
    files: dict[str, dict[str, str | bytes]] = {
        "pipeline": {".pbft-ci.yml": pipeline(name, "true")},
        "dockerfile": {"Dockerfile": f"FROM {name}\n"},
        "copy from": {"Dockerfile": f"FROM {base_image}\nCOPY --from={name} /bin /bin\n"},
    }
    order = builder.order(repository.url, repository.commit(files[kind]))
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.IMAGE_UNAVAILABLE, builder.log(order)
    assert finding.compared.exit_code is None
    assert "its registry has none of that name" in builder.log(order)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_a_registry_that_does_not_answer_the_question(
    registry: Registry,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    status: int,
) -> None:
    registry.status = status
    builder = await make_builder(
        make_config(repository.url, images_from=(registry.host,), abstain_after_seconds=1)
    )
    name = f"{registry.host}/{registry.repository}:1"
    commit = repository.commit({".pbft-ci.yml": pipeline(name, "true")})
    ballot = await builder.build(builder.order(repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert name in ballot.reason


@pytest.mark.parametrize(
    ("name", "digests", "expected"),
    [
        ("busybox:1.36", ["busybox@sha256:a"], "sha256:a"),
        ("docker.io/library/busybox", ["other@sha256:b", "busybox@sha256:a"], "sha256:a"),
        ("127.0.0.1:5000/a/b:1", ["127.0.0.1:5000/a/b@sha256:c"], "sha256:c"),
        ("busybox@sha256:b", ["busybox@sha256:a", "busybox@sha256:b"], "sha256:b"),
        ("busybox", ["busybox@sha256:b", "busybox@sha256:a"], "sha256:a"),
        ("busybox", ["mirror/busybox@sha256:a"], None),
        ("busybox", [], None),
    ],
)
def test_the_digest_is_that_of_the_name(
    name: str, digests: list[str], expected: str | None
) -> None:
    assert digest_for(name, digests) == expected
