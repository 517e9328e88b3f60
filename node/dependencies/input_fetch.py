"""Gets what a pipeline's lock files pin, for one build: asks the process that fetches, and writes
what steps are handed. Blocking, but for the class's own lock.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections import OrderedDict
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
    Inputs,
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
# The newest answers that are kept, of all builds. One of 500 packages has some 200 KB.
ANSWERS_BYTES_MAX = 32 * 2**20
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
    """Of one node. The store is swept while no build reads it.

    Most commits leave lock files as they are. So what the process answered is kept while the node
    runs, and asked for by all that decides about it: no process is started and no server is asked
    for what is in the store. A file that is there no more, or was changed, is noticed when it is
    handed in, and the process is started after all.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._store = InputStore(
            config.data_directory / INPUTS_FOLDER,
            config.inputs_bytes_kept_max,
            config.inputs_days_max * DAY_SECONDS,
        )
        self._lock = threading.Lock()
        self._used: dict[object, tuple[str, ...]] = {}
        # encoded, by the SHA-256 of the order
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()

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
            answer = self._answer(locks, stop, is_anew=is_last)
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

    def _answer(self, locks: Sequence[LockText], stop: Stop, *, is_anew: bool) -> Answer:
        """What the process answers, or has answered. Raises InfrastructureError, Stopped, OSError.

        is_anew: what it has answered is of no use any more.
        """
        order = FetchOrder(
            locks=tuple(locks),
            servers=tuple(self._server(source) for source in self._config.sources),
            folder=str(self._store.folder),
            machine=os.uname().machine,
            bytes_max=self._config.inputs_bytes_max,
            seconds=float(self._config.fetch_timeout_seconds),
        )
        key = hashlib.sha256(msgspec.msgpack.encode(order)).digest()
        with self._lock:
            kept = None if is_anew else self._answers.get(key)
        if kept is not None:
            known = answer_decoder.decode(kept)
            assert isinstance(known, Inputs), "others are not kept"
            # asked for each: it counts as used now
            missing = [each for each in known.stored if not self._store.has(each.digest)]
            if not missing:
                return known
        answer, data = self._ask(order, stop)
        if isinstance(answer, Inputs):
            self._keep(key, data)
        return answer

    def _keep(self, key: bytes, data: bytes) -> None:
        with self._lock:
            self._answers.pop(key, None)
            self._answers[key] = data
            while sum(map(len, self._answers.values())) > ANSWERS_BYTES_MAX:
                self._answers.popitem(last=False)

    def _ask(self, order: FetchOrder, stop: Stop) -> tuple[Answer, bytes]:
        """What the process answers, and the same encoded. Raises InfrastructureError, Stopped."""
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
                return answer_decoder.decode(answer), answer
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
