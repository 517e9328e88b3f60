"""The bytes of an agreed artifact, from any replica that agrees, believed for their SHA-256 alone.

The rule: a client gets a file only when all of it is here and has the digest that the network
agreed on. A copy that has not is refused and told, and the next replica is asked.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from ci.ledger import RecordedArtifact
from client.network.nodes import NodeFailed, Nodes
from common.safe_text import log_text

# Each takes up to the network's artifact_bytes_max of disk while it is checked and sent.
SPOOLED_MAX = 8
SPOOL_FOLDER = "spool"

_log = logging.getLogger(__name__)


class NoneRight(Exception):
    """No replica that agreed gave the right bytes; the text names all of them, and why."""


class TooMany(Exception):
    """So many are fetched already that this one has to come again."""


class Artifacts:
    """Fetches artifacts into files without a name, so that a crash leaves nothing."""

    def __init__(self, nodes: Nodes, data_directory: Path) -> None:
        """Makes the folder. Raises OSError."""
        self._nodes = nodes
        self._folder = data_directory / SPOOL_FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spooled = 0

    @asynccontextmanager
    async def fetched(
        self, build: bytes, opened: int, artifact: RecordedArtifact, *, replicas: Sequence[str]
    ) -> AsyncIterator[BinaryIO]:
        """The right bytes, at their beginning; gone when the block is left.

        replicas: whom to ask, in that order. Raises NoneRight, TooMany, OSError.
        """
        if self._spooled >= SPOOLED_MAX:
            raise TooMany(f"{SPOOLED_MAX} artifacts are being fetched already")
        self._spooled += 1
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                await self._fetch(build, opened, artifact, replicas=replicas, file=file)
                file.seek(0)
                yield file
        finally:
            self._spooled -= 1

    async def _fetch(
        self,
        build: bytes,
        opened: int,
        artifact: RecordedArtifact,
        *,
        replicas: Sequence[str],
        file: BinaryIO,
    ) -> None:
        failures: list[str] = []
        for replica in replicas:
            file.seek(0)
            file.truncate()
            try:
                digest = await self._nodes.artifact(
                    replica, build, opened, artifact=artifact, file=file
                )
            except NodeFailed as error:
                failures.append(str(error))
                continue
            if digest == artifact.sha256:
                await asyncio.to_thread(file.flush)
                return
            failures.append(f"{replica}: its copy has SHA-256 {digest}")
            _log.warning(
                "build %s, artifact %s: the copy of %s has SHA-256 %s, agreed was %s",
                build.hex(),
                log_text(artifact.path),
                replica,
                digest,
                artifact.sha256,
            )
        told = "; ".join(failures) or "no replica is known to have it"
        raise NoneRight(f"no replica gave what was agreed on (SHA-256 {artifact.sha256}): {told}")
