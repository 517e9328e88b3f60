"""The images that builds run in: which image a name means now, and how long the image is kept.

A tag means what its registry answers at the time of the build. The node asks again for each build,
and then uses the image by its digest. What a tag on the engine points at does not count: a moved
tag is noticed, and several nodes may share an engine. A digest means itself, and the node does not
ask its registry again if it has pulled that image. All other images on the engine are the
operator's, and are used only if the operator lists them for the repository (local_images). Neither
the node nor the engine asks a registry that the operator does not list (images_from).

Blocking; for threads. The node records which images it pulled, and removes only those.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from common.config_error import ConfigError
from common.configuration.config import NodeConfig
from common.configuration.registry_logins import (
    DOCKER_HUB,
    NO_LOGINS,
    RegistryLogins,
    full_name,
    is_from,
    read_registry_logins,
    registry_of,
)
from node.sandboxes.containers.docker_engine import DockerEngine, Image
from node.sandboxes.containers.registry_answers import ImageAbsent, RegistryRefuses
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

RECORD_BYTES_MAX = 16 * 2**20
SECONDS_PER_DAY = 86_400
# Without a record of its own an image would never be removed; so many are more than any disk holds.
RECORDS_MAX = 10_000

_log = logging.getLogger(__name__)


class PulledImage(msgspec.Struct):
    """An image that this node pulled. reference: repository@digest. Times: Unix seconds.

    tags: names that an older release of this node gave it; they go with it.
    """

    reference: str
    image_id: str
    image_bytes: int
    used_at: float
    tags: list[str] = []


class Images:
    """Finds, pulls and keeps images. One per node; its methods may be called from many threads."""

    def __init__(
        self, engine: DockerEngine, config: NodeConfig, now: Callable[[], float] = time.time
    ) -> None:
        """now: Unix seconds."""
        self._engine = engine
        self._config = config
        self._now = now
        self._file = config.data_directory / "pulled-images.json"
        self._lock = threading.Lock()
        self._pulled: dict[str, PulledImage] | None = None
        self._in_use: dict[str, set[str]] = {}

    def obtain(
        self,
        name: str,
        build: str,
        local_images: Sequence[str],
        *,
        note: Callable[[str], None],
        stop: Stop,
    ) -> Image | ImageAbsent:
        """The image that a name means now, on the engine; kept there until `release(build)`.

        local_images: of the repository that is built. note: takes a line for the build's log.
        Raises InfrastructureError, Stopped, OSError and what the library raises.
        """
        if full_name(name) in map(full_name, local_images):
            local = self._engine.find_image(name)
            if local is None:
                # Whoever has this name at a registry must not take its place.
                raise InfrastructureError(
                    f"image {name} is one of local_images and not on the engine"
                )
            return local
        if not is_from(name, self._config.images_from):
            raise InfrastructureError(
                f"image {name} is of none of the places that this replica takes images from:"
                " images_from",
                is_permanent=True,
            )
        logins = self._logins()
        try:
            reference = self._reference(name, logins, stop)
            if isinstance(reference, ImageAbsent):
                return reference
            self._use(build, reference)
            found = self._engine.find_image(reference)
            if found is None:
                note(f"pulling {name}" if name == reference else f"pulling {name}, {reference}")
                seconds_max = self._config.pull_timeout_seconds
                absent = self._engine.pull(
                    reference, logins.login_for(name), seconds_max, stop=stop
                )
                if absent is not None:
                    return absent
                found = self._engine.find_image(reference)
                if found is None:
                    raise InfrastructureError(f"image {name} is not there after it was pulled")
                self._record(reference, found)
        except RegistryRefuses as refusal:
            raise self._explained(name, logins) from refusal
        return found

    def release(self, build: str) -> None:
        """A build is over: what it used may be removed."""
        with self._lock:
            self._in_use.pop(build, None)

    def tidy(self, stop: Stop) -> None:
        """Remove what was not used for too long, then the least recently used beyond the size.

        An image that a container still uses, or others are built upon, stays for the next time.
        Raises InfrastructureError, OSError and what the library raises.
        """
        oldest = self._now() - self._config.images_days_max * SECONDS_PER_DAY
        with self._lock:
            records = sorted(self._records().values(), key=lambda record: record.used_at)
            in_use = set().union(*self._in_use.values())
        kept_bytes = sum(record.image_bytes for record in records)
        for record in records:
            is_too_much = kept_bytes > self._config.images_bytes_max
            if not is_too_much and record.used_at >= oldest:
                return
            if record.reference in in_use:
                continue
            stop.check()
            names = [tag for tag in record.tags if self._points_at(tag, record.image_id)]
            if self._engine.remove_names((*names, record.reference)):
                _log.info("removed image %s: %s", record.reference, record.image_id)
                kept_bytes -= record.image_bytes
                with self._lock:
                    self._records().pop(record.reference, None)
                    self._save()

    def _reference(self, name: str, logins: RegistryLogins, stop: Stop) -> str | ImageAbsent:
        """repository@digest of what a name means now: its registry's word, or its own.

        That an image is on the engine does not say that this build may have it: the operator may
        have pulled it with a login that is not this node's.
        """
        if "@" in name:
            reference = _with_digest(name, name.partition("@")[2])
            with self._lock:
                if reference in self._records():
                    return reference
        digest = self._engine.registry_digest(name, logins.login_for(name), stop)
        stop.check()
        return digest if isinstance(digest, ImageAbsent) else _with_digest(name, digest)

    def _logins(self) -> RegistryLogins:
        """Read each time: a login may have been renewed."""
        file = self._config.registry_auth_file
        if file is None:
            return NO_LOGINS
        try:
            return read_registry_logins(file, self._config.file, "registry_auth_file")
        except ConfigError as error:
            raise InfrastructureError(str(error)) from error

    def _explained(self, name: str, logins: RegistryLogins) -> InfrastructureError:
        """What to do where a registry lets nobody in, by the file and without what is in it."""
        host = registry_of(name) or DOCKER_HUB
        file = self._config.registry_auth_file
        if logins.login_for(name):
            return InfrastructureError(
                f"{host} did not accept registry_auth_file {file} for {name}"
            )
        where = f"put one into registry_auth_file {file}" if file else "set registry_auth_file"
        return InfrastructureError(
            f"{host} wants a login for {name}, or has no such image: {where}; an image that is on"
            " the engine alone must be one of the repository's local_images"
        )

    def _use(self, build: str, reference: str) -> None:
        with self._lock:
            self._in_use.setdefault(build, set()).add(reference)
            record = self._records().get(reference)
            if record is not None:
                record.used_at = self._now()
                self._save()

    def _record(self, reference: str, image: Image) -> None:
        with self._lock:
            records = self._records()
            # another build may have pulled it at the same time
            tags = records[reference].tags if reference in records else []
            records[reference] = PulledImage(reference, image.id, image.bytes, self._now(), tags)
            for record in sorted(records.values(), key=lambda r: r.used_at)[:-RECORDS_MAX]:
                del records[record.reference]
            self._save()

    def _points_at(self, tag: str, image_id: str) -> bool:
        found = self._engine.find_image(tag)
        return found is not None and found.id == image_id

    def _records(self) -> dict[str, PulledImage]:
        """With the lock held. A file that cannot be read counts as empty: nothing is removed."""
        if self._pulled is None:
            try:
                with self._file.open("rb") as stream:
                    data = stream.read(RECORD_BYTES_MAX)
                listed = msgspec.json.decode(data, type=list[PulledImage])
            except FileNotFoundError:
                listed = []
            except (OSError, msgspec.DecodeError) as error:
                _log.warning("%s: %s: images that it listed are kept for ever", self._file, error)
                listed = []
            self._pulled = {record.reference: record for record in listed}
        return self._pulled

    def _save(self) -> None:
        """With the lock held. Complete, or as it was before. Raises OSError."""
        draft = self._file.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(list(self._records().values())))
            os.replace(draft, self._file)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def isolate_from_user(folder: Path) -> None:
    """Give Docker's library an empty configuration instead of the user's own. Raises OSError.

    The user's has logins, which it would hand to the engine with every build of a Dockerfile, and
    proxies, which it would put into every container.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}\n")
    os.environ["DOCKER_CONFIG"] = str(folder)


def _with_digest(name: str, digest: str) -> str:
    name = name.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}"
