"""Attempts to reach, through the names of images, what a build may not."""

import asyncio
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import docker
import pytest

from ci.operations import Abstain, BuildResult, Outcome
from common.configuration.config import RepositoryEntry
from tests.hostile.conftest import Files
from tests.node.conftest import (
    LOCAL_IMAGES,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
)
from tests.node.registry_server import unique_name

pytestmark = pytest.mark.docker

SECRET = "the-words-of-an-internal-page"
PLACES = ("image", "FROM", "ARG", "stage", "COPY --from", "ONBUILD")


@dataclass
class Page:
    """A server of the operator's that nobody means to show: what it answers, and who asked.

    realm: where it sends for a token, None: it answers with the page itself.
    """

    status: int = 200
    realm: str | None = None
    asked: list[str] = field(default_factory=list)
    host: str = ""


@pytest.fixture
def page() -> Iterator[Page]:
    yield from serve()


@pytest.fixture
def metadata() -> Iterator[Page]:
    yield from serve()


def serve() -> Iterator[Page]:
    state = Page()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            body = f"{SECRET} for {self.path}\n".encode()
            self.send_response(401 if state.realm else state.status)
            self.send_header("X-Secret", SECRET)
            self.send_header("Content-Type", "text/plain")
            if state.realm:
                self.send_header("WWW-Authenticate", f'Bearer realm="{state.realm}",service="x"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the base class's name)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests say what went wrong."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def files_that_name(image: str, place: str, base: str) -> Files:
    """A commit that names an image in one of PLACES."""
    if place == "image":
        return {".pbft-ci.yml": pipeline(image, "cat /content", "true")}
    lines = {
        "FROM": f"FROM {image}\nCMD cat /content",
        "ARG": f"ARG I={image}\nFROM ${{I}}\nCMD cat /content",
        "stage": f"FROM {base} AS one\nFROM {image} AS two\nCMD cat /content",
        "COPY --from": f"FROM {base}\nCOPY --from={image} /content /c\nCMD cat /c",
        "ONBUILD": f"FROM {base} AS b\nONBUILD COPY --from={image} /content /c\nFROM b\nCMD cat /c",
    }
    return {"Dockerfile": lines[place] + "\n"}


@pytest.mark.parametrize("place", PLACES)
async def test_an_address_as_an_image(
    page: Page,
    place: str,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """The engine would ask it, from where it is; and the answer would come back in the log."""
    builder = await make_builder(make_config(repository.url, abstain_after_seconds=1))
    commit = repository.commit(files_that_name(f"{page.host}/internal/page:1", place, base_image))
    order = builder.order(repository.url, commit)
    ballot = await builder.build(order)
    assert page.asked == []
    assert SECRET not in builder.log(order)
    assert isinstance(ballot, Abstain)
    assert "images_from" in ballot.reason


@pytest.mark.parametrize("status", [200, 401, 404, 500, "realm"])
@pytest.mark.parametrize("digest", ["", "@sha256:" + "0" * 64])
async def test_a_registry_of_the_list_that_is_hostile(
    page: Page,
    metadata: Page,
    status: int | str,
    digest: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """It may send the engine anywhere (see the egress filter); nobody reads what came of it."""
    config = make_config(repository.url, images_from=(page.host,), abstain_after_seconds=1)
    builder = await make_builder(config)
    if isinstance(status, int):
        page.status = status
    else:
        page.realm = f"http://{metadata.host}/latest/meta-data"
    commit = repository.commit({".pbft-ci.yml": pipeline(f"{page.host}/a/b{digest}", "true")})
    order = builder.order(repository.url, commit)
    ballot = await builder.build(order)
    assert page.asked, "the engine asks it"
    assert SECRET not in builder.log(order)
    assert SECRET not in repr(ballot)
    assert isinstance(ballot, Abstain) or ballot.compared.outcome is Outcome.IMAGE_UNAVAILABLE


@pytest.mark.parametrize("place", PLACES)
async def test_what_only_the_engine_has(
    page: Page,
    place: str,
    docker_engine: docker.DockerClient,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """An image of the operator's own is for the repositories that list it, and for no others."""
    page.status = 404
    name = f"{page.host}/{unique_name()}:1"
    made = docker_engine.containers.create(base_image, ["true"])
    await asyncio.to_thread(made.put_archive, "/", archive())
    await asyncio.to_thread(made.commit, name.rpartition(":")[0], "1")
    try:
        found = []
        for local in ((), (name,)):
            entry = RepositoryEntry(repository.url, local_images=(*LOCAL_IMAGES, *local))
            config = make_config(entry, images_from=(page.host,), abstain_after_seconds=1)
            builder = await make_builder(config)
            commit = repository.commit(files_that_name(name, place, base_image))
            order = builder.order(repository.url, commit)
            found.append((await builder.build(order), builder.log(order)))
    finally:
        made.remove()
        docker_engine.images.remove(name)
    (refused, log), (taken, shown) = found
    assert SECRET not in log
    assert isinstance(refused, Abstain) or refused.compared.outcome is Outcome.IMAGE_UNAVAILABLE
    assert isinstance(taken, BuildResult), taken
    assert SECRET in shown


def archive() -> bytes:
    """A tar with the file /content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        header = tarfile.TarInfo("content")
        header.size = len(SECRET)
        tar.addfile(header, io.BytesIO(SECRET.encode()))
    return stream.getvalue()
