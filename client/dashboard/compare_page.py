"""Two replicas' logs of a build side by side, from their first difference on."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from aiohttp import web

from client.api.routes import ApiError, Site
from client.dashboard.pages import FORM_POLICY, Pages
from client.logs.log_comparison import Comparison, KeptLog, compare_logs
from client.storage.archive import BuildRecord
from client.views.agreement import ABSTAINS, AGREES, Group
from common.log_pieces import read_layout

PATH = "/builds/{build}/compare"
LINES_MAX = 300
# Of each log; of a longer one, half of this from its beginning and half from its end.
READ_BYTES_MAX = 4 * 2**20
COMPARISONS_KEPT = 32


class ComparedLogs(msgspec.Struct, frozen=True):
    """A comparison and whose logs it is of. notes: what was not compared, a sentence each."""

    left: str
    right: str
    are_numbers_ignored: bool
    comparison: Comparison
    notes: tuple[str, ...]


class LogComparisons:
    """Compares archived logs: one pair at a time, in a thread; the last ones are kept."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turn = asyncio.Semaphore(1)
        self._kept: dict[tuple[bytes, str, str, int, bool], ComparedLogs] = {}

    async def compare(
        self,
        record: BuildRecord,
        left: str,
        right: str,
        *,
        lines_max: int,
        are_numbers_ignored: bool = False,
    ) -> ComparedLogs:
        """The archived logs of these two replicas. Raises ApiError (404) where one is not here."""
        # What is archived has the SHA-256 that a ballot names, and never changes.
        key = (record.build, left, right, lines_max, are_numbers_ignored)
        if key in self._kept:
            return self._kept[key]
        archived = {
            ballot.replica
            for ballot in self._site.archive.ballots(record.build)
            if ballot.log_archived
        }
        for replica in (left, right):
            if replica not in archived:
                raise ApiError(404, f"no log of {replica} is archived (yet): nothing to compare")
        files = [self._site.archive.log_file(record.build, name) for name in (left, right)]
        async with self._turn:
            try:
                comparison, notes = await asyncio.to_thread(
                    _compare,
                    files,
                    (left, right),
                    lines_max=lines_max,
                    are_numbers_ignored=are_numbers_ignored,
                )
            except OSError as error:
                raise ApiError(404, "a log is no longer kept here") from error
        compared = ComparedLogs(left, right, are_numbers_ignored, comparison, notes)
        self._kept[key] = compared
        if len(self._kept) > COMPARISONS_KEPT:
            del self._kept[next(iter(self._kept))]
        return compared


def add_compare_page(
    application: web.Application, site: Site, pages: Pages, *, comparisons: LogComparisons
) -> None:
    """Add the page's route."""
    page = _ComparePage(site, pages, comparisons)
    application.router.add_get(PATH, page.show)


class _ComparePage:
    def __init__(self, site: Site, pages: Pages, comparisons: LogComparisons) -> None:
        self._site = site
        self._pages = pages
        self._comparisons = comparisons

    async def show(self, request: web.Request) -> web.Response:
        """GET /builds/<id>/compare?left=<replica>&right=<replica>&numbers=ignored."""
        record = self._site.record(request)
        names = []
        for side in ("left", "right"):
            name = request.query.get(side, "")
            if self._site.cluster.replica_index(name) is None:
                known = ", ".join(self._site.cluster.replica_names)
                raise ApiError(400, f"`{side}` is the name of a replica; there are {known}")
            names.append(name)
        compared = await self._comparisons.compare(
            record,
            *names,
            lines_max=LINES_MAX,
            are_numbers_ignored=request.query.get("numbers") == "ignored",
        )
        response = self._pages.render(
            "compare.html", build=self._site.view(record), compared=compared
        )
        # two logs are chosen by a form
        response.headers["Content-Security-Policy"] = FORM_POLICY
        return response


def pairs_to_compare(groups: Sequence[Group], archived: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of replicas that found different things and whose logs are here. Pure.

    The left side is the verdict's, or, where nothing is agreed on, that of the first group with a
    log; the right side is one replica of each other group. Empty: all found the same, or the logs
    are not here.
    """
    found = [group for group in groups if group.says and group.stance != ABSTAINS]
    agreeing = [group for group in found if group.stance == AGREES]
    logs = {
        id(group): next((name for name in group.replicas if name in archived), None)
        for group in found
    }
    reference = next((group for group in agreeing or found if logs[id(group)] is not None), None)
    if reference is None:
        return []
    others = [group for group in found if group.stance != reference.stance or not agreeing]
    left = logs[id(reference)]
    return [
        (left, right)
        for group in others
        if group is not reference and left is not None and (right := logs[id(group)]) is not None
    ]


def _compare(
    files: Sequence[Path],
    names: tuple[str, str],
    *,
    lines_max: int,
    are_numbers_ignored: bool,
) -> tuple[Comparison, tuple[str, ...]]:
    """The comparison, and what was left out of it. Blocking. Raises OSError."""
    logs, notes = [], []
    for file, name in zip(files, names, strict=True):
        log, cut_bytes = _read_kept(file)
        logs.append(log)
        if cut_bytes:
            notes.append(
                f"{name} kept the beginning and the end of its log; {cut_bytes} bytes between "
                "them are gone and were not compared."
            )
        if log.missing_bytes > cut_bytes:
            notes.append(
                f"{name}'s log is long: {log.missing_bytes - cut_bytes} bytes in its middle were "
                "not compared here."
            )
    comparison = compare_logs(
        logs[0], logs[1], lines_max=lines_max, are_numbers_ignored=are_numbers_ignored
    )
    return comparison, tuple(notes)


def _read_kept(file: Path) -> tuple[KeptLog, int]:
    """What is compared of a log, and how many bytes its replica did not keep. Raises OSError."""
    with file.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        layout = read_layout(descriptor)
        head_bytes, tail_bytes = layout.head_bytes, layout.tail_bytes
        if head_bytes + tail_bytes > READ_BYTES_MAX:
            head_bytes = min(head_bytes, READ_BYTES_MAX // 2)
            tail_bytes = min(tail_bytes or READ_BYTES_MAX // 2, READ_BYTES_MAX // 2)
        head = _read(descriptor, 0, head_bytes)
        tail = _read(descriptor, size - tail_bytes, tail_bytes)
    return KeptLog(head, layout.total - len(head) - len(tail), tail), layout.cut_bytes


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """So many bytes; a read may give fewer at a time."""
    parts = []
    while length and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)
