"""A real registry (Debian's docker-registry) on 127.0.0.1, open or with a login, and images in it.

Engines take registries of 127.0.0.0/8 without TLS.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker
import docker.errors
import pytest
import requests
import yaml

from scripts.folders import ROOT
from scripts.free_ports import free_ports
from tests.secret_files import secret_file
from tests.waiting import block_until

HOST = "127.0.0.1"
START_SECONDS = 30.0
# where `scripts/test.sh` unpacks it: nothing is installed, so no server starts by itself
UNPACKED = ROOT / "run" / "docker-registry" / "usr" / "bin"

USER = "builder"
PASSWORD = "wrench-44-harbour-password"
# of PASSWORD: nothing in the standard library makes one
BCRYPT = "$2y$05$pbftCIsaltOfTheTests.OvNaG1xD61KTkLsoto1iCEXzY9v8c2Tu"


class RegistryServer:
    """The registry as a process; everything of it on the engine is removed at its end."""

    def __init__(
        self, folder: Path, engine: docker.DockerClient, *, is_private: bool = False
    ) -> None:
        """folder: for its data; made here. is_private: nothing without USER and PASSWORD."""
        path = f"{os.environ.get('PATH', '')}:{UNPACKED}"
        self._program = shutil.which("docker-registry", path=path)
        if self._program is None:
            pytest.skip("docker-registry is not here: `./scripts/test.sh` unpacks it")
        folder.mkdir()
        self._folder = folder
        self._engine = engine
        self._is_private = is_private
        (port,) = free_ports(1)
        self.host = f"{HOST}:{port}"
        settings: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
        }
        if is_private:
            (folder / "htpasswd").write_text(f"{USER}:{BCRYPT}\n")
            settings["auth"] = {"htpasswd": {"realm": "t", "path": str(folder / "htpasswd")}}
        (folder / "config.yml").write_text(yaml.safe_dump(settings))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def login(self) -> dict[str, str]:
        return {"username": USER, "password": PASSWORD} if self._is_private else {}

    def auth_file(self, file: Path, password: str = PASSWORD, host: str | None = None) -> Path:
        """A file as `docker login` writes it."""
        login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        return secret_file(file, json.dumps({"auths": {host or self.host: {"auth": login}}}))

    def push(self, name: str, base_image: str, content: str) -> str:
        """An image with a file /content below HOST/name (with a tag); its digest.

        The engine keeps nothing of it.
        """
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            header = tarfile.TarInfo("Dockerfile")
            text = f"FROM {base_image}\nLABEL content={content}\n".encode()
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text))
        whole = f"{self.host}/{name}"
        layer.seek(0)
        # without a cache: else another test's image, which it may be removing, would be the same
        image, _ = self._engine.images.build(
            fileobj=layer, custom_context=True, tag=whole, rm=True, nocache=True
        )
        try:
            repository, _, tag = whole.rpartition(":")
            for line in self._engine.api.push(
                repository, tag, stream=True, decode=True, auth_config=self.login
            ):
                assert "error" not in line, line
            (found,) = (
                entry.partition("@")[2]
                for entry in self._engine.images.get(whole).attrs["RepoDigests"]
                if entry.startswith(repository + "@")
            )
        finally:
            self._remove_names(str(image.id))
        return str(found)

    def push_list(self, name: str, digest: str) -> str:
        """A list of platforms with one image, which is there already, as `name`; its digest."""
        repository, _, tag = name.rpartition(":")
        address = f"http://{self.host}/v2/{repository}/manifests"
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        manifest = requests.get(f"{address}/{digest}", headers={"Accept": kind}, timeout=30)
        manifest.raise_for_status()
        entry = {"mediaType": kind, "size": len(manifest.content), "digest": digest}
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        platforms = [
            entry | {"platform": {"architecture": architecture, "os": "linux"}}
            for architecture in ("amd64", "arm64")
        ]
        body = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": platforms})
        answer = requests.put(
            f"{address}/{tag}", data=body, headers={"Content-Type": kind}, timeout=30
        )
        answer.raise_for_status()
        return f"sha256:{hashlib.sha256(body.encode()).hexdigest()}"

    def names_on_engine(self) -> set[str]:
        """What of this registry is on the engine."""
        names = set()
        # `images.list` of the library fails where another test removes one meanwhile
        for image in self._engine.api.images():
            names |= {*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())}
        return {name for name in names if name.startswith(f"{self.host}/")}

    def start(self) -> None:
        """Serve; again, after `stop`."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._program), "serve", str(self._folder / "config.yml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        block_until(self._answers, "the registry listens", START_SECONDS)

    def stop(self) -> None:
        """End the process."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        for name in self.names_on_engine():
            # its other name may have gone with the first
            with contextlib.suppress(docker.errors.ImageNotFound):
                self._engine.images.remove(name)

    def _remove_names(self, image_id: str) -> None:
        for name in self.names_on_engine():
            with contextlib.suppress(docker.errors.ImageNotFound):
                if self._engine.images.get(name).id == image_id:
                    self._engine.images.remove(name)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        host, _, port = self.host.partition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False


def unique_name() -> str:
    """A repository that no other test has."""
    return f"pbft-ci-test/{secrets.token_hex(4)}"
