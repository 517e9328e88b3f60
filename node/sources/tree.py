"""Writes the tree of a commit as a tar file, built from git's objects.

No work tree, attributes or filters are involved: the tar holds exactly what is in the commit, the
same on every replica. A tree that is too large, or unfit for a file system, is refused by rules
that look at the commit alone, so that all replicas refuse the same trees.

Not `git archive`: it obeys attributes that the tree itself sets (export-ignore, export-subst).
"""

import hashlib
import io
import posixpath
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from node.sources.fetch_bounds import check_free
from node.sources.git_process import OutputTooLong, git_process, run_git
from node.work.threads import Stop

ENTRIES_MAX = 100_000
LISTING_BYTES_MAX = 64 * 2**20
PATH_BYTES_MAX = 4000
# of a file's or a folder's own name; Linux has no file system that takes more
NAME_BYTES_MAX = 255
LINK_BYTES_MAX = 4000
# what is read from git and written at once: in tarfile's 16 KiB the same takes twice the time
COPIED_BYTES = 2**20
# a file takes whole pages of the workspace
PAGE_BYTES = 4096

# nobody: who the builds run as
BUILD_USER_ID = 65534
# where the tree is in the containers of builds
WORKSPACE = "/workspace"

_ENTRY = re.compile(
    rb"([0-7]{6}) (blob|tree|commit) ([0-9a-f]{40}|[0-9a-f]{64}) +(\d+|-)\t(.+)", re.DOTALL
)
_EXECUTABLE = 0o111
_FILE_KIND = 0o100000
_LINK_KIND = 0o120000
_KIND_MASK = 0o170000


class CorruptMirror(Exception):
    """git cannot read in its own mirror what must be there; the mirror has to be made anew.

    folder: the mirror's, told by whoever knows it.
    """

    folder: Path | None = None


@contextmanager
def blamed(folder: Path) -> Iterator[None]:
    """What turns out to be corrupt inside is this mirror."""
    try:
        yield
    except CorruptMirror as error:
        error.folder = folder
        raise


class TreeEntry(msgspec.Struct, frozen=True):
    """One line of a tree: a file, a link, a folder, or another repository's commit."""

    mode: int
    kind: str
    object_id: str
    size: int
    path: str

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file, executable or not."""
        return self.kind == "blob" and self.mode & _KIND_MASK == _FILE_KIND

    @property
    def is_module(self) -> bool:
        """Whether it is another repository's commit."""
        return self.kind == "commit"

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.kind == "blob" and self.mode & _KIND_MASK == _LINK_KIND

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder in a work tree, as another repository's commit is."""
        return not (self.is_file or self.is_link)


class TreePart(msgspec.Struct, frozen=True):
    """Entries that are read from one mirror; their paths are those of the whole tree."""

    entries: tuple[TreeEntry, ...]
    folder: Path
    environment: Mapping[str, str]

    def below(self, prefix: str) -> "TreePart":
        """The same, put into a folder of another tree; prefix: its path and a '/', or nothing."""
        if not prefix:
            return self
        entries = tuple(
            msgspec.structs.replace(entry, path=prefix + entry.path) for entry in self.entries
        )
        return msgspec.structs.replace(self, entries=entries)


class TreeRefused(msgspec.Struct, frozen=True):
    """Why the commit's tree is not exported; the same on every replica."""

    problem: str


def list_tree(
    commit: str, paths: tuple[str, ...], environment: Mapping[str, str], *, stop: Stop
) -> tuple[TreeEntry, ...] | TreeRefused:
    """The entries at `paths`, or all entries below the root where there are none.

    Raises CorruptMirror, Stopped, InfrastructureError.
    """
    arguments = ["ls-tree", "-z", "-l", "--full-tree"]
    arguments += [commit, "--", *paths] if paths else ["-r", "-t", commit]
    try:
        answer = run_git(
            arguments, environment=environment, stop=stop, output_bytes_max=LISTING_BYTES_MAX
        )
    except OutputTooLong:
        return TreeRefused(f"the list of its files is longer than {LISTING_BYTES_MAX} bytes")
    if answer.exit_code != 0:
        raise CorruptMirror(answer.problem)
    # counted before it is read: the longest list has nearly a million entries
    count = answer.output.count(b"\0")
    if count > ENTRIES_MAX:
        return _too_many(count)
    entries: list[TreeEntry] = []
    for line in answer.output.split(b"\0")[:-1]:
        found = _ENTRY.fullmatch(line)
        if found is None:
            raise CorruptMirror("git lists a tree in an unknown form")
        mode, kind, object_id, size, path = found.groups()
        entries.append(
            TreeEntry(
                int(mode, 8),
                kind.decode(),
                object_id.decode(),
                0 if size == b"-" else int(size),
                path.decode(errors="surrogateescape"),
            )
        )
    return tuple(entries)


def read_blob(entry: TreeEntry, environment: Mapping[str, str], stop: Stop) -> bytes:
    """The bytes of a file whose size is known to be small. Raises CorruptMirror, Stopped."""
    answer = run_git(
        ["cat-file", "blob", entry.object_id],
        environment=environment,
        stop=stop,
        output_bytes_max=entry.size,
    )
    if answer.exit_code != 0 or len(answer.output) != entry.size:
        raise CorruptMirror(answer.problem or f"object {entry.object_id} is cut short")
    return answer.output


def needed_bytes_of(entries: Iterable[TreeEntry]) -> int:
    """What files take of the workspace: whole pages."""
    return sum(-(-entry.size // PAGE_BYTES) * PAGE_BYTES for entry in entries)


def check_tree(entries: tuple[TreeEntry, ...], bytes_max: int) -> TreeRefused | None:
    """Why these entries are not exported; bytes_max: of the workspace they have to fit into."""
    if len(entries) > ENTRIES_MAX:
        return _too_many(len(entries))
    needed_bytes = needed_bytes_of(entries)
    if needed_bytes > bytes_max:
        return TreeRefused(f"needs {needed_bytes} bytes; the workspace has {bytes_max}")
    folders: set[str] = {""}
    seen: set[str] = set()
    for entry in entries:
        problem = _check_entry(entry)
        parent = entry.path.rpartition("/")[0]
        if problem is None and (entry.path in seen or parent not in folders):
            problem = "is there twice, or inside something that is no folder"
        if problem is not None:
            shown = entry.path.encode("unicode_escape", "backslashreplace").decode()[:100]
            return TreeRefused(f"path {shown} {problem}")
        seen.add(entry.path)
        if entry.is_folder:
            folders.add(entry.path)
    return None


def export_tree(
    parts: tuple[TreePart, ...], target: Path, stop: Stop, *, commit_seconds: int
) -> None:
    """Write the entries of all parts, checked together by check_tree, to one tar file.

    Folders come once more at its end: a tar that does not put that off by itself gives a folder its
    time before it puts something into it, and then it has another one on every replica.
    Raises CorruptMirror, Stopped, InfrastructureError (also where too little of the disk would stay
    free), and OSError.
    """
    check_free(target.parent, sum(entry.size for part in parts for entry in part.entries))
    with tarfile.TarFile(
        target,
        "w",
        # long names in the form that BusyBox understands too
        format=tarfile.GNU_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        copybufsize=COPIED_BYTES,
    ) as archive:
        for part in parts:
            with blamed(part.folder):
                _export_part(part, archive, commit_seconds, stop=stop)
        for part in parts:
            for entry in part.entries:
                if entry.is_folder:
                    archive.addfile(_header(entry, commit_seconds))


def _export_part(
    part: TreePart, archive: tarfile.TarFile, commit_seconds: int, *, stop: Stop
) -> None:
    with git_process(
        ["cat-file", "--batch"],
        environment=part.environment,
        stop=stop,
        standard_input=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for entry in part.entries:
            stop.check()
            header = _header(entry, commit_seconds)
            if entry.is_folder:
                archive.addfile(header)
                continue
            content = _open_object(process.stdin, process.stdout, entry, stop=stop)
            if entry.is_link:
                link = content.read(entry.size)
                header.linkname = _link_target(entry.path, link.decode(errors="surrogateescape"))
                archive.addfile(header)
            else:
                archive.addfile(header, content)
            if content.read(1) != b"\n":
                raise CorruptMirror(f"object {entry.object_id} is cut short")


def file_digests(tree: Path, names: Iterable[str], stop: Stop) -> dict[str, str]:
    """The SHA-256 (hex) of those of the names that are plain files of an exported tree.

    Raises Stopped, OSError.
    """
    wanted = set(names)
    found: dict[str, str] = {}
    with tarfile.open(tree, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            stop.check()
            if member.name in wanted and member.isreg():
                content = archive.extractfile(member)
                assert content is not None, "a plain file has content"
                found[member.name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]  # it is one
                if len(found) == len(wanted):
                    break
    return found


def file_contents(
    tree: Path, names: Iterable[str], *, bytes_max: int, stop: Stop
) -> dict[str, bytes]:
    """The bytes of those of the names that are plain files of an exported tree.

    Of a longer file, one byte more than bytes_max. Raises Stopped, OSError.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    with tarfile.open(tree, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            stop.check()
            if member.name in wanted and member.isreg():
                content = archive.extractfile(member)
                assert content is not None, "a plain file has content"
                found[member.name] = content.read(bytes_max + 1)
    return found


def append_to_tree(tree: Path, files: Mapping[str, bytes]) -> None:
    """Add files to an exported tree; they win over files of the same names. Raises OSError."""
    with tarfile.open(tree, "a", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(data), 0o644
            archive.addfile(header, io.BytesIO(data))


def _too_many(count: int) -> TreeRefused:
    return TreeRefused(f"has {count} entries; at most {ENTRIES_MAX}")


def _check_entry(entry: TreeEntry) -> str | None:
    """What is wrong with one entry, looked at alone."""
    if len(entry.path.encode(errors="surrogateescape")) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    for part in entry.path.split("/"):
        if part in ("", ".", "..") or part.lower() == ".git":
            return "has a part that is '.', '..' or '.git'"
        if len(part.encode(errors="surrogateescape")) > NAME_BYTES_MAX:
            return f"has a part of more than {NAME_BYTES_MAX} bytes"
    if entry.is_link and not 1 <= entry.size <= LINK_BYTES_MAX:
        return f"is a link of {entry.size} bytes; at most {LINK_BYTES_MAX}"
    if entry.kind == "blob" and not (entry.is_file or entry.is_link):
        return "has an unknown mode"
    return None


def _header(entry: TreeEntry, commit_seconds: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.path)
    header.mtime = commit_seconds
    header.uid = header.gid = BUILD_USER_ID
    if entry.is_file:
        header.size = entry.size
        header.mode = 0o755 if entry.mode & _EXECUTABLE else 0o644
    elif entry.is_link:
        header.type, header.mode = tarfile.SYMTYPE, 0o777
    else:
        # a folder; another repository's commit is an empty folder, as in a plain clone
        header.type, header.mode = tarfile.DIRTYPE, 0o755
    return header


def _link_target(path: str, link: str) -> str:
    """What a link says; one that leads out of the tree says it from the root.

    There it is the same place, because the tree is unpacked into WORKSPACE. The engine unpacks no
    archive with a relative link that leads out of it.
    """
    if posixpath.isabs(link):
        return link
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    if place.split("/")[0] != "..":
        return link
    return posixpath.normpath(posixpath.join(WORKSPACE, place))


class _Object(io.RawIOBase):
    """The bytes of one object as git gives them.

    git tells the size before it has read the object: where it cannot, it ends in the middle.
    """

    def __init__(self, answers: IO[bytes], object_id: str, stop: Stop) -> None:
        self._answers = answers
        self._object_id = object_id
        self._stop = stop

    def read(self, size: int = -1) -> bytes:
        """So many bytes. Raises CorruptMirror, Stopped."""
        data = self._answers.read(size)
        if len(data) < size:
            self._stop.check()
            raise CorruptMirror(f"object {self._object_id} is cut short")
        return data


def _open_object(
    requests: IO[bytes], answers: IO[bytes], entry: TreeEntry, *, stop: Stop
) -> _Object:
    """Ask `git cat-file --batch` for one object; its bytes come next from what is returned."""
    try:
        requests.write(entry.object_id.encode() + b"\n")
        requests.flush()
        line = answers.readline(200)
    except (BrokenPipeError, ValueError) as error:
        stop.check()
        raise CorruptMirror("git ended while it was read from") from error
    if line != f"{entry.object_id} blob {entry.size}\n".encode():
        stop.check()
        raise CorruptMirror(f"object {entry.object_id} cannot be read")
    return _Object(answers, entry.object_id, stop)
