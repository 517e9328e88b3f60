"""A fresh copy of the checkout with ports of its own, for the scripts that people type.

Each process that is started here is ended by `close`, through the scripts themselves.
"""

import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.folders import ROOT
from scripts.free_ports import free_ports
from tests.processes.programs import environment

SCRIPT_SECONDS = 400
STOP_SECONDS = 60
EXAMPLE_PORTS = (*range(10000, 10004), 8080)
NOT_COPIED = (".git", ".venv", "run", "log", "__pycache__", ".*_cache", ".hypothesis")


class Checkout:
    """The project's files in another folder, without anything that was made at run time."""

    def __init__(self, folder: Path) -> None:
        """Copy the files, and give the example other ports. ports: of the nodes."""
        self.folder = folder
        shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        *self.ports, self.gateway_port = free_ports(len(EXAMPLE_PORTS))
        ports = (*self.ports, self.gateway_port)
        for file in (folder / "example-config").glob("*.yml"):
            text = file.read_text()
            for old, new in zip(EXAMPLE_PORTS, ports, strict=True):
                text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
            file.write_text(text)
        self._lend_python()
        self._client: subprocess.Popen[str] | None = None

    def _lend_python(self) -> None:
        """A .venv that is the Python of these tests: nothing is fetched or installed."""
        python = self.folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        stamp = sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()
        (self.folder / ".venv" / "requirements.sha256").write_text(stamp + "\n")

    @property
    def gateway_url(self) -> str:
        """Where the client listens."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def run(self, *command: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command in the copy's folder to its end."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment(),
            input=text,
            capture_output=True,
            text=True,
            timeout=SCRIPT_SECONDS,
            check=False,
        )

    def start_client(self) -> "subprocess.Popen[str]":
        """./scripts/startClient.sh, in the foreground of a terminal of its own."""
        assert self._client is None
        with (self.folder / "client-output.txt").open("w") as output:
            self._client = subprocess.Popen(
                ["./scripts/startClient.sh"],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self._client

    def stop_client(self) -> int:
        """Ctrl-C; the exit code."""
        client, self._client = self._client, None
        assert client is not None
        client.send_signal(signal.SIGINT)
        return client.wait(STOP_SECONDS)

    def close(self) -> None:
        """End whatever still runs."""
        if self._client is not None:
            self.stop_client()
        self.run("./stopNetwork.sh", "--all")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            for file in sorted((self.folder / "log").glob("*.log")):
                error.add_note(f"--- the end of {file.name}\n{file.read_text()[-3000:]}")
        self.close()
