"""Gets what a pipeline's lock files pin, for one build: asks the process that fetches, and writes
what steps are handed. Blocking, but for the class's own lock.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from common.config_error import ConfigError
from common.configuration.config import NodeConfig
from common.configuration.package_sources import PackageSource, read_login
from common.dependencies.lock_file import LOCK_BYTES_MAX, Tool
from common.pipeline.pipeline_file import LockedBy
from common.retention import DAY_SECONDS
from common.safe_text import log_text
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import (
    Answer,
    Failed,
    FetchOrder,
    Flawed,
    LockText,
    Server,
    Unavailable,
    answer_decoder,
)
from node.dependencies.hand_in import HandedInputs, hand_in
from node.dependencies.input_store import InputStore, WrongBytes
from node.sources.tree import append_to_tree, file_contents
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

INPUTS_FOLDER = "inputs"
ARCHIVE = "inputs.tar"
ANSWER_BYTES_MAX = 64 * 2**20
AUTHORITIES_BYTES_MAX = 2**20
# after the time that the process gives itself
PROCESS_GRACE_SECONDS = 30.0
PROBLEM_BYTES_MAX = 600


class Prepared(msgspec.Struct, frozen=True):
    """What a build is handed, and the list of all of it."""

    handed: HandedInputs
    bill: bytes
    count: int


class InputFetch:
    """Of one node. The store is swept while no build reads it."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._store = InputStore(
            config.data_directory / INPUTS_FOLDER,
            config.inputs_bytes_kept_max,
            config.inputs_days_max * DAY_SECONDS,
        )
        self._lock = threading.Lock()
        self._used: dict[object, tuple[str, ...]] = {}

    def start(self) -> None:
        """Make the store's folder, and remove what a crash left. Raises OSError."""
        self._store.start()

    def prepare(
        self,
        dependencies: Sequence[LockedBy],
        tree: Path,
        folder: Path,
        *,
        source: tuple[str, str],
        stop: Stop,
    ) -> Prepared | Flawed | Unavailable:
        """What the lock files pin, written into the build's work folder.

        tree: the tar file of the commit's files; lock files that steps see changed are added to it.
        source: the repository and the commit. Raises InfrastructureError, Stopped, OSError.
        """
        names = [locked.file for locked in dependencies]
        contents = file_contents(tree, names, bytes_max=LOCK_BYTES_MAX, stop=stop)
        for name in names:
            if name not in contents:
                return Flawed(((name, "the commit has no such plain file (dependencies)"),))
        locks = [
            LockText(Tool(locked.tool), locked.file, contents[locked.file], locked.python)
            for locked in dependencies
        ]
        build = object()
        for is_last in (False, True):
            answer = self._ask(locks, stop)
            if isinstance(answer, Failed):
                raise InfrastructureError(answer.text, is_permanent=answer.is_permanent)
            if isinstance(answer, Flawed | Unavailable):
                return answer
            with self._lock:
                self._used[build] = tuple(each.digest for each in answer.stored)
            try:
                handed = hand_in(
                    self._store,
                    answer.stored,
                    folder / ARCHIVE,
                    bytes_max=self._config.inputs_bytes_max,
                    stop=stop,
                )
            except (WrongBytes, FileNotFoundError) as error:
                # It was changed on disk, or removed since: it is fetched again.
                if is_last:
                    raise InfrastructureError(f"the store of inputs: {error}") from error
            else:
                bill = bill_of_materials(*source, answer.stored)
                append_to_tree(tree, dict(answer.rewritten))
                return Prepared(handed, bill, len(answer.stored))
            finally:
                with self._lock:
                    del self._used[build]
        raise AssertionError("the last try has an end of its own")

    def sweep(self, stop: Stop) -> None:
        """Remove what was not used for long, or is too much. Raises Stopped, OSError."""
        with self._lock:
            used = {digest for digests in self._used.values() for digest in digests}
            self._store.sweep(used, stop)

    def _ask(self, locks: Sequence[LockText], stop: Stop) -> Answer:
        """What the process answers. Raises InfrastructureError, Stopped."""
        order = FetchOrder(
            locks=tuple(locks),
            servers=tuple(self._server(source) for source in self._config.sources),
            folder=str(self._store.folder),
            machine=os.uname().machine,
            bytes_max=self._config.inputs_bytes_max,
            seconds=float(self._config.fetch_timeout_seconds),
        )
        process = subprocess.Popen(
            (sys.executable, "-m", "node.dependencies.fetch_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        timer = threading.Timer(order.seconds + PROCESS_GRACE_SECONDS, process.kill)
        timer.start()
        try:
            with stop.interrupting(process.kill):
                answer, problem = process.communicate(msgspec.msgpack.encode(order))
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        stop.check()
        if process.returncode == 0 and len(answer) <= ANSWER_BYTES_MAX:
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                return answer_decoder.decode(answer)
        said = log_text(problem[-PROBLEM_BYTES_MAX:].decode(errors="replace"), PROBLEM_BYTES_MAX)
        raise InfrastructureError(
            f"the process that fetches inputs ended with {process.returncode}: {said}"
        )

    def _server(self, source: PackageSource) -> Server:
        """Raises InfrastructureError if a file of the operator's cannot be read."""
        try:
            login = (
                None
                if source.credentials_file is None
                else read_login(source.credentials_file, self._config.file)
            )
            authorities = None
            if source.ca_file is not None:
                with source.ca_file.open() as file:
                    authorities = file.read(AUTHORITIES_BYTES_MAX)
        except (ConfigError, OSError, ValueError) as error:
            raise InfrastructureError(str(error), is_permanent=True) from error
        return Server(
            tool=source.tool,
            url=source.url,
            names=source.names,
            hosts=source.hosts,
            login=login,
            authorities=authorities,
        )
