"""Posts this replica's own commit statuses, `pbft-ci/<node>` (of requests `pbft-ci/<node>/pr`).

With `report: replicas` no gateway stands between a replica and the forge: each replica posts, with
its operator's own token, what it executed itself. The statuses follow from the replicated state and
the ledger, so that a crash loses none. A build is pending while it is open here, and final once its
verdict is in the ledger.
"""

import asyncio
import logging
import sqlite3
import time
from pathlib import Path

from ci.builds import OpenBuild
from ci.ledger import VerdictEntry, decode_entry
from ci.statement import StatementView, VerdictFields, parse_statement
from common.configuration.config import NodeConfig
from common.english import counted
from common.forges.shared.status import CommitStatus, State
from common.repositories.repository_config import StatusTarget, status_target
from common.statuses.reporter import Reporter
from common.statuses.status_texts import (
    context_of,
    description_of,
    ref_of_status,
    state_of,
    told_cases,
)
from node.replica.runtime import Runtime
from node.statuses.status_file import StatusFile
from node.storage.damage import StoreUnusable

LOOK_SECONDS = 0.5
PAGE_ENTRIES = 100
PAGE_BYTES_MAX = 8 * 1024 * 1024

_log = logging.getLogger(__name__)


class NodeReports:
    """What one replica tells the forges."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        targets: dict[str, StatusTarget],
        public_url: str | None,
        directory: Path,
    ) -> None:
        """targets: by repository. directory: where its file is. Raises ConfigError."""
        self._name = runtime.identity.name
        self._public_url = None if public_url is None else public_url.rstrip("/")
        self._replicas = runtime.identity.cluster.quorums.replicas
        self._runtime = runtime
        self._application = runtime.application
        self._ledger = runtime.store.ledger
        self._core = runtime.replica.core
        self._file = StatusFile(directory, self._end_of_ledger())
        self.reporter = Reporter(
            targets=targets, database=self._file, clock=time.time, storage_failed=sqlite3.Error
        )
        # Builds that are pending in the file already, by (id, opening sequence).
        self._pending: set[tuple[bytes, int]] = set()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, runtime: Runtime, config: NodeConfig) -> "NodeReports | None":
        """For the repositories with a token; None if there is none. Raises ConfigError."""
        targets = _targets_of(config)
        if not targets:
            return None
        return cls(
            runtime,
            targets=targets,
            public_url=config.public_url,
            directory=config.data_directory,
        )

    def use_repositories(self, config: NodeConfig) -> None:
        """Tell of the repositories with a token in this configuration from now on."""
        self.reporter.use_targets(_targets_of(config))

    def start(self) -> asyncio.Task[None]:
        """Begin to tell; the task ends before `close` with StoreDamaged, or by a fault of ours."""
        self._task = asyncio.create_task(self._run(), name="commit statuses")
        return self._task

    async def close(self) -> None:
        """Stop; what is not told is told after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.reporter.close()
        self._file.close()

    def update(self) -> None:
        """Put what is new into the queue, and is on disk.

        Raises sqlite3.Error, StoreUnusable: then it is new the next time. Raises StoreDamaged.
        """
        if self._runtime.is_unsaved:
            return  # the application is ahead of what is on disk
        if self._file.told is None and not self._note_beginning():
            return
        is_new = self._note_open_builds()
        while self._note_verdicts():
            is_new = True
        if is_new:
            self.reporter.wake()

    async def _run(self) -> None:
        # What was decided while this node was down makes its beginning old news.
        self._try_to_update()
        self.reporter.start()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._try_to_update()

    def _try_to_update(self) -> None:
        try:
            self.update()
        except (sqlite3.Error, StoreUnusable) as error:
            _log.error("commit statuses: %s; trying again", error)

    def _end_of_ledger(self) -> int | None:
        """None while the replica recovers: it may lack the state, and with it the ledger's end."""
        return None if self._core.is_recovering else self._application.ledger_index

    def _note_beginning(self) -> bool:
        """Let the telling begin with what is decided from now on, once the replica recovered.

        With its disk a replica lost what it told. What was decided before may be told already.
        """
        end = self._end_of_ledger()
        if end is None:
            return False
        with self._file.transaction():
            self._file.note_told(end)
        return True

    def _note_open_builds(self) -> bool:
        """Undecided builds that nobody was told of; True where there was one."""
        builds = self._application.open_builds().values()
        undecided = {(build.id, build.opened): build for build in builds if not build.is_decided}
        self._pending &= undecided.keys()
        new = [build for key, build in undecided.items() if key not in self._pending]
        if not new:
            return False
        with self._file.transaction():
            for build in new:
                self._put(build, _pending_text(build, self._replicas))
        self._pending |= undecided.keys()
        return True

    def _note_verdicts(self) -> bool:
        """A page of the ledger; True where there may be another one.

        Entries that are still fetched after a state transfer are told when they are here.
        """
        told = self._file.told
        assert told is not None, "`update` looks whether the telling has begun"
        entries = self._ledger.entries(told + 1, PAGE_ENTRIES, PAGE_BYTES_MAX)
        if not entries or entries[0].index != told + 1:
            return False
        with self._file.transaction():
            for entry in entries:
                body = decode_entry(entry.body)
                if isinstance(body, VerdictEntry):
                    self._put_verdict(parse_statement(bytes(body.statement)))
            self._file.note_told(entries[-1].index)
        return True

    def _put(self, build: OpenBuild, text: str) -> None:
        self._queue(build, build.id.hex(), State.PENDING, text=text)

    def _put_verdict(self, statement: StatementView) -> None:
        verdict = statement.verdict
        found = [(value.outcome, value.exit_code, len(value.replicas)) for value in verdict.found]
        text = description_of(
            verdict.outcome,
            verdict.exit_code,
            len(verdict.agreeing),
            replicas=verdict.replicas,
            found=found,
            tests=told_cases(statement),
        )
        self._queue(verdict, verdict.build, state_of(verdict.outcome), text=text)

    def _queue(
        self, build: OpenBuild | VerdictFields, build_hex: str, state: State, *, text: str
    ) -> None:
        if build.commit is None or build.repository not in self.reporter.repositories:
            return
        url = None if self._public_url is None else f"{self._public_url}/builds/{build_hex}"
        status = CommitStatus(
            build.commit,
            context_of(self._name, build.event, build.schedule),
            state,
            text,
            url,
            ref_of_status(build.event, build.branch),
        )
        self.reporter.queue.put(
            build.repository,
            build.opened,
            status,
            is_final=isinstance(build, VerdictFields),
            now=time.time(),
            is_waiting=isinstance(build, OpenBuild) and not build.is_approved,
        )


def _targets_of(config: NodeConfig) -> dict[str, StatusTarget]:
    targets = {entry.url: status_target(entry) for entry in config.repositories}
    return {url: target for url, target in targets.items() if target is not None}


def _pending_text(build: OpenBuild, replicas: int) -> str:
    by = counted(replicas, "replica")
    if not build.is_approved:
        return f"waits for an operator's approval, then for a verdict of {by}"
    return f"waits for a verdict of {by}"
