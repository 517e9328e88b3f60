"""The Docker engine of a bench, and the image that its builds run in."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import docker
import docker.errors
import msgspec

from bench.network import BenchFailed
from scripts.base_image import NoBaseImage, ensure_example_image
from scripts.docker_engine import NoEngine, ensure_engine, own_engine

ENGINE_SECONDS_MAX = 120


class ReadyEngine(msgspec.Struct, frozen=True):
    """host: as in DOCKER_HOST. image: the name of an image with sh and tar."""

    host: str
    image: str


@contextlib.asynccontextmanager
async def ready_engine() -> AsyncIterator[ReadyEngine]:
    """An engine that runs, with the image. One that had to be started ends with the block.

    Raises BenchFailed.
    """
    try:
        engine = await asyncio.to_thread(ensure_engine)
    except NoEngine as error:
        raise BenchFailed(f"{error}; without Docker: --without-docker") from error
    try:
        yield ReadyEngine(engine.host, await asyncio.to_thread(_image, engine.host))
    finally:
        if engine.started:
            await asyncio.to_thread(own_engine().stop)


def _image(host: str) -> str:
    client = docker.DockerClient(base_url=host, timeout=ENGINE_SECONDS_MAX)
    try:
        return ensure_example_image(client)
    except (NoBaseImage, docker.errors.DockerException) as error:
        raise BenchFailed(f"no image for the builds: {error}") from error
    finally:
        client.close()
