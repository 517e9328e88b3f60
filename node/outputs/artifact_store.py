"""The files that a build made: chosen in its workspace, copied, hashed, kept. Blocking.

The rule: a pattern means the files that it matches and everything below the folders that it
matches. Whatever it means must be plain files, each under one name, and at least one; else the
build has failed, on every replica alike. A symbolic link is taken as the plain file that it points
to, if that is in the workspace and only real folders are on the way to it. What is kept bears its
SHA-256 as its name: no name that a build chose ever becomes one on this machine's disk.
"""

import hashlib
import os
import posixpath
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

import msgspec

from ci.artifact_rules import path_problem
from ci.limits import Limits
from ci.operations import Artifact
from common.safe_text import log_text
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

CHUNK_BYTES = 256 * 1024
# below the folders in which patterns look; more are not what anybody wants to search each time
ENTRIES_MAX = 200_000
# how often a path may be compared with a pattern: a microsecond or two each, whatever they are
COMPARISONS_MAX = 1_000_000
# from one link to the next; a library has two
LINKS_MAX = 8
ARTIFACTS_FOLDER = "artifacts"
INDEX = "index.json"
# 64 paths of 255 bytes, digests and lengths
INDEX_BYTES_MAX = 256 * 1024
_GLOB = frozenset("*?")

SYMBOLIC_LINK = "a symbolic link"
SECOND_NAME = "a second name of another file"
SPECIAL_FILE = "a special file"


class FilesWrong(Exception):
    """The build did not make what its pipeline names; the text says which file, and why."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{log_text(path)}: {problem}")


class Selection(msgspec.Struct, frozen=True):
    """Which files of a workspace to take, and how many.

    is_each_needed: whether each pattern must mean a file.
    """

    patterns: tuple[str, ...]
    files_max: int
    # of one file, and of all
    file_bytes_max: int
    bytes_max: int
    is_each_needed: bool = True


class Found(msgspec.Struct, frozen=True):
    """Something in the workspace. kind: `file`, `folder`, or what else it is, for people.

    target: what a symbolic link says, as it says it.
    """

    path: str
    kind: str
    length: int
    target: str = ""


class Reader(Protocol):
    """Gives the content of the file that was found."""

    def __call__(self) -> BinaryIO:
        """Opened for reading; closed by whoever asked."""


class Collector:
    """Copies what the patterns mean into a new folder, each file once.

    folder: is made; its parent is there.
    """

    def __init__(self, folder: Path, selection: Selection) -> None:
        folder.mkdir()
        self._folder = folder
        self._selection = selection
        self._patterns = selection.patterns
        self._compiled = {pattern: _compiled(pattern) for pattern in self._patterns}
        self._comparisons = 0
        self._taken: dict[str, Artifact] = {}
        self._matched: set[str] = set()
        self._bytes = 0
        # what links that were seen point to; those that a pattern means, with the patterns
        self._links: dict[str, str] = {}
        self._wanted_links: dict[str, list[str]] = {}
        # what links point to and was looked for, and the plain files that were there
        self._targets: set[str] = set()
        self._aside: dict[str, Artifact] = {}

    def roots(self) -> Iterator[str]:
        """Where in the workspace to look, each once: a pattern up to its first glob.

        Then what the links point to that were found there. Raises FilesWrong.
        """
        yield from dict.fromkeys(_root(pattern) for pattern in self._patterns)
        for path, wanted in self._wanted_links.items():
            while (target := self._end_of(path)) not in self._targets:
                self._targets.add(target)
                if target not in self._taken:
                    yield target
            content = self._taken.get(target) or self._aside.get(target)
            if content is None:
                raise FilesWrong(
                    path, f"is {SYMBOLIC_LINK} to {log_text(target)}, where no plain file is"
                )
            self._check_bytes(path, content.length)
            self._bytes += content.length
            self._taken[path] = Artifact(path, content.sha256, content.length)
            self._matched.update(wanted)

    def folders_on_the_way(self, root: str) -> tuple[str, ...]:
        """What must be a folder (see check_on_the_way): what the root is in, and it where a
        pattern goes on below it."""
        parts = root.split("/") if root else []
        is_file = root in self._patterns or root in self._targets
        depths = len(parts) + (not is_file)
        return tuple("/".join(parts[:depth]) for depth in range(1, depths))

    def offer(self, found: Found, read: Reader, stop: Stop) -> None:
        """Take it if a pattern means it.

        Raises FilesWrong, InfrastructureError, Stopped, OSError.
        """
        wanted = [pattern for pattern in self._patterns if self._means(pattern, found.path)]
        is_target = found.path in self._targets
        if not (wanted or is_target) or found.kind == "folder":
            return
        if found.path in self._taken or found.path in self._aside:
            return
        problem = path_problem(found.path)
        if found.kind == SYMBOLIC_LINK and problem is None:
            self._links[found.path] = found.target
            if wanted and not is_target:
                self._wanted_links[found.path] = wanted
                self._check_count(found.path)
            return
        if found.kind not in ("file", SYMBOLIC_LINK):
            raise FilesWrong(
                found.path, f"is {found.kind}, no plain file; copy it (cp) or pack it (tar)"
            )
        if problem is not None:
            raise FilesWrong(found.path, problem)
        if wanted:
            self._check_count(found.path, 1)
        # before anything is read: a file with holes may seem to have terabytes
        self._check_bytes(found.path, found.length)
        with read() as content:
            copied = self._copy(found, content, stop)
        if wanted:
            self._bytes += found.length
            self._taken[found.path] = copied
            self._matched.update(wanted)
        else:
            self._aside[found.path] = copied

    def _check_bytes(self, path: str, length: int) -> None:
        most = self._selection.bytes_max
        if self._bytes + length > most:
            raise FilesWrong(path, f"more than {most} bytes with those before it")
        if length > self._selection.file_bytes_max:
            raise FilesWrong(path, f"more than {self._selection.file_bytes_max} bytes")

    def _check_count(self, path: str, more: int = 0) -> None:
        links = len(self._wanted_links.keys() - self._taken.keys())
        most = self._selection.files_max
        if len(self._taken) + links + more > most:
            raise FilesWrong(path, f"is one more than {most} files; pack them into one")

    def _end_of(self, link: str) -> str:
        """The path that a link comes to, over the links that were seen. Raises FilesWrong."""
        path = link
        for _ in range(LINKS_MAX):
            if path not in self._links:
                return path
            target = self._links[path]
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if target.startswith("/") or path_problem(path) is not None:
                raise FilesWrong(
                    link,
                    f"is {SYMBOLIC_LINK} to {log_text(target)}; only what leads to a file in the"
                    " workspace, by a relative path, is taken: copy the file (cp -L)",
                )
        raise FilesWrong(link, f"is the first of more than {LINKS_MAX} links; copy the file")

    def equal_files(self) -> tuple[str, ...]:
        """The paths of all files, not links, that have the same content as another; sorted."""
        files = {p: taken.sha256 for p, taken in self._taken.items() if p not in self._wanted_links}
        count = Counter(files.values())
        return tuple(sorted(path for path, sha256 in files.items() if count[sha256] > 1))

    def unmatched(self) -> tuple[str, ...]:
        """The patterns that meant nothing."""
        return tuple(pattern for pattern in self._patterns if pattern not in self._matched)

    def finish(self) -> tuple[Artifact, ...]:
        """All that was taken, by path; in the folder, with an index. Raises FilesWrong, OSError."""
        if self._selection.is_each_needed:
            for pattern in self.unmatched():
                raise FilesWrong(pattern, "the build did not make it")
        artifacts = tuple(self._taken[path] for path in sorted(self._taken))
        (self._folder / INDEX).write_bytes(msgspec.json.encode(artifacts))
        return artifacts

    def _means(self, pattern: str, path: str) -> bool:
        """Does the pattern match this path, or a folder that it is in?"""
        parts = path.split("/")
        expressions = self._compiled[pattern]
        if len(parts) < len(expressions):
            return False
        self._comparisons += 1
        if self._comparisons > COMPARISONS_MAX:
            raise FilesWrong(pattern, "there are too many files to compare with the patterns")
        return all(
            expression.fullmatch(part) for expression, part in zip(expressions, parts, strict=False)
        )

    def _copy(self, found: Found, content: BinaryIO, stop: Stop) -> Artifact:
        digest = hashlib.sha256()
        left = found.length
        part = self._folder / "part"
        with part.open("wb") as file:
            while left:
                stop.check()
                chunk = content.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise InfrastructureError(f"{log_text(found.path)} was cut off while copied")
                left -= len(chunk)
                digest.update(chunk)
                file.write(chunk)
        part.rename(self._folder / digest.hexdigest())
        return Artifact(found.path, digest.hexdigest(), found.length)


def check_on_the_way(path: str, kind: str) -> None:
    """What a pattern leads through must be a folder: a link may lead anywhere.

    Raises FilesWrong.
    """
    if kind != "folder":
        raise FilesWrong(path, f"is {kind}, no folder")


def take_from_archive(
    collector: Collector, root: str, stream: IO[bytes], *, stop: Stop, most: int
) -> None:
    """Offer everything in a tar stream of the engine's that holds `root` of a workspace.

    most: bytes that the workspace can hold; files with holes may seem to have more. Raises what
    `Collector.offer` does.
    """
    parent = root.rpartition("/")[0]
    seen_bytes = 0
    try:
        with tarfile.open(
            fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape"
        ) as archive:
            for _ in range(ENTRIES_MAX):
                stop.check()
                member = archive.next()
                if member is None:
                    return
                # it remembers all that it has seen, and a build may have made very many
                archive.members = []  # type: ignore[attr-defined]
                seen_bytes += member.size
                if seen_bytes > most:
                    raise FilesWrong(root or "*", f"there are more than {most} bytes to search")
                path = _joined(parent, member.name) if root else member.name.partition("/")[2]
                found = Found(path, _kind_of_member(member), member.size, member.linkname)
                collector.offer(found, _member_reader(archive, member), stop)
    except tarfile.TarError as error:
        raise InfrastructureError(f"the engine's archive cannot be read: {error}") from error
    raise FilesWrong(root or "*", f"there are more than {ENTRIES_MAX} files to search")


def take_from_folder(collector: Collector, workspace: Path, stop: Stop) -> None:
    """Offer everything below the collector's roots in a folder of this machine.

    No link is followed. Raises what `Collector.offer` does.
    """
    names: dict[tuple[int, int], str] = {}
    for root in collector.roots():
        for folder in collector.folders_on_the_way(root):
            status = _status(workspace / folder)
            if status is not None:
                check_on_the_way(folder, _kind_of_mode(status.st_mode))
        for count, found in enumerate(_below(workspace, root, names)):
            stop.check()
            if count == ENTRIES_MAX:
                raise FilesWrong(root, f"there are more than {ENTRIES_MAX} files to search")
            collector.offer(found, _file_reader(workspace / found.path), stop)


def artifacts_of(patterns: Iterable[str], limits: Limits) -> Selection:
    """The files that a pipeline names as artifacts."""
    most = limits.artifact_bytes_max
    return Selection(tuple(patterns), limits.artifacts_max, most, most)


def add_artifact(
    made: Path, artifacts: tuple[Artifact, ...], *, path: str, data: bytes
) -> Artifact:
    """Put one more file into a finished collector's folder, or into a new one.

    artifacts: those that are in it. Raises OSError.
    """
    artifact = Artifact(path, hashlib.sha256(data).hexdigest(), len(data))
    made.mkdir(exist_ok=True)
    (made / artifact.sha256).write_bytes(data)
    listed = sorted((*artifacts, artifact), key=lambda each: each.path)
    (made / INDEX).write_bytes(msgspec.json.encode(listed))
    return artifact


def join_artifacts(
    parts: Mapping[str, tuple[Path, tuple[Artifact, ...]]], made: Path
) -> tuple[Artifact, ...]:
    """Move what several collectors took into one folder, each below a name; all of it, by path.

    parts: collector's folder and files by name. made: the folder, which is not there yet.
    Raises FilesWrong: a path is too long; OSError.
    """
    made.mkdir()
    artifacts = []
    for name, (folder, taken) in parts.items():
        for artifact in taken:
            path = f"{name}/{artifact.path}"
            if (problem := path_problem(path)) is not None:
                raise FilesWrong(path, problem)
            # of equal files in two parts there is one
            if (file := folder / artifact.sha256).exists():
                file.rename(made / artifact.sha256)
            artifacts.append(msgspec.structs.replace(artifact, path=path))
    artifacts.sort(key=lambda artifact: artifact.path)
    (made / INDEX).write_bytes(msgspec.json.encode(artifacts))
    return tuple(artifacts)


def keep_artifacts(made: Path, kept: Path) -> None:
    """Move a finished collector's folder to where it is kept, whole or not at all. Raises OSError.

    What is there, of the same build before a crash, goes to where the other came from.
    """
    for path in made.iterdir():
        sync(path)
    sync(made)
    if kept.exists():
        kept.rename(made.with_name("replaced artifacts"))
    made.rename(kept)
    sync(kept.parent)


def kept_artifacts(kept: Path) -> tuple[Artifact, ...] | None:
    """What is kept of a build; None: nothing, or it cannot be read."""
    try:
        with (kept / INDEX).open("rb") as file:
            return msgspec.json.decode(file.read(INDEX_BYTES_MAX), type=tuple[Artifact, ...])
    except (OSError, ValueError):
        return None


def kept_file(kept: Path, path: str) -> tuple[Path, Artifact] | None:
    """Where the artifact of that path is, and what it should be; None: there is none."""
    for artifact in kept_artifacts(kept) or ():
        if artifact.path == path:
            return kept / artifact.sha256, artifact
    return None


def _root(pattern: str) -> str:
    parts = pattern.split("/")
    literal = next((i for i, part in enumerate(parts) if _GLOB & set(part)), len(parts))
    return "/".join(parts[:literal])


def _compiled(pattern: str) -> tuple[re.Pattern[str], ...]:
    """An expression for each part of a pattern.

    What is between two `*` is looked for from the left and never again elsewhere (an atomic group),
    which is enough, and keeps the time below the product of the lengths, whatever the pattern.
    """
    return tuple(_compiled_part(part) for part in pattern.split("/"))


def _compiled_part(part: str) -> re.Pattern[str]:
    first, *others = (
        "".join("." if c == "?" else re.escape(c) for c in x) for x in part.split("*")
    )
    if not others:
        return re.compile(first, re.DOTALL)
    *middle, last = others
    between = "".join(f"(?>.*?{text})" for text in middle)
    return re.compile(f"{first}{between}.*{last}", re.DOTALL)


def _joined(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _kind_of_member(member: tarfile.TarInfo) -> str:
    if member.isreg():
        return "file"
    if member.isdir():
        return "folder"
    if member.issym():
        return SYMBOLIC_LINK
    return SECOND_NAME if member.islnk() else SPECIAL_FILE


def _member_reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Reader:
    def read() -> BinaryIO:
        content = archive.extractfile(member)
        assert content is not None, "a plain file has content"
        return cast(BinaryIO, content)

    return read


def _file_reader(path: Path) -> Reader:
    return lambda: os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _below(workspace: Path, root: str, names: dict[tuple[int, int], str]) -> Iterator[Found]:
    """This path and everything below, in the order in which an engine gives it.

    names: the first path of each file that has several; added to.
    """
    waiting = [root]
    while waiting:
        path = waiting.pop()
        status = _status(workspace / path)
        if status is None:
            continue
        kind = _kind_of_mode(status.st_mode)
        if kind == "file" and status.st_nlink > 1:
            first = names.setdefault((status.st_dev, status.st_ino), path)
            kind = kind if path == first else SECOND_NAME
        target = os.readlink(workspace / path) if kind == SYMBOLIC_LINK else ""
        yield Found(path, kind, status.st_size if kind == "file" else 0, target)
        if kind == "folder":
            names_in = sorted(os.listdir(workspace / path), reverse=True)
            waiting += [_joined(path, name) for name in names_in]


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _kind_of_mode(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return SYMBOLIC_LINK if stat.S_ISLNK(mode) else SPECIAL_FILE


def sync(path: Path) -> None:
    """Have this file's content, or this folder's names, on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
