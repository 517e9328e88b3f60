"""A `.git` for the workspace: as much of a commit's history as its pipeline asks for. Blocking.

It comes from the mirror. It names no server, has no hooks, no alternates, and no settings but those
that a repository needs. HEAD is the commit itself. It has the tags that lead to a commit in it, and
no other references. So `git log` and `git describe` say the same on every replica; how objects are
packed differs, and nothing says it.

The rule: too long a history is refused by the sizes of its objects, which follow from the commit,
the depth and the tags. No packing of the same objects has more bytes than are reckoned here.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from common.pipeline.pipeline_file import Clone
from node.sources.fetch_bounds import MEMORY_BYTES_MAX, check_free
from node.sources.git_process import Bounds, OutputTooLong, mirror_environment, run_git
from node.sources.tree import BUILD_USER_ID, CorruptMirror, TreeRefused
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# where a mirror has the server's tags
TAGS = "refs/pbft-ci-tags/"
TAGS_MAX = 10_000
OBJECTS_MAX = 2_000_000
# of a packed object beside its content: its header and its place in the index; zlib(3) adds five
# bytes for each 16 KiB that it cannot make smaller
OBJECT_BYTES = 128
# of the file system, for what cannot be smaller
REST_BYTES = 2**20
# so many objects are named in one command
NAMED_MAX = 500
_LISTING_BYTES_MAX = 64 * 2**20
# What git says of a child that the limit of a file ended (SIGXFSZ), and of a write that failed.
_FILE_TOO_LARGE = re.compile(r"died of signal 25|File too large")


class History(msgspec.Struct, frozen=True):
    """What was added: how many tags, and the SHA-256 of the list of them (object, name)."""

    tag_count: int
    tags_sha256: str


class HistoryRoom(msgspec.Struct, frozen=True):
    """The tree's file, an empty folder to work in, and how many bytes the history may have."""

    tree: Path
    folder: Path
    bytes_max: int


class _Tag(msgspec.Struct, frozen=True):
    """target: the commit; equal to object_id for a tag that has no object of its own."""

    name: str
    object_id: str
    target: str


class _TooLong(InfrastructureError):
    """The history has more bytes than there is room for."""


def add_history(
    commit: str,
    clone: Clone,
    *,
    mirror: Path,
    environment: Mapping[str, str],
    room: HistoryRoom,
    stop: Stop,
) -> History | TreeRefused:
    """Add `.git` to an exported tree.

    environment: of common.repositories.git_environment, for the protocol `file` alone.
    Raises CorruptMirror, InfrastructureError, Stopped and OSError.
    """
    try:
        return _add(commit, clone, _Git(mirror, environment, room=room, stop=stop))
    except (_TooLong, OutputTooLong):
        return TreeRefused(
            "with the history that `clone` asks for does not fit into the workspace, which has"
            f" {room.bytes_max} bytes beside the files of the commit: ask for less `depth`"
        )


class _Git:
    """Runs git in the mirror, and in the repository that is made."""

    def __init__(
        self, mirror: Path, environment: Mapping[str, str], *, room: HistoryRoom, stop: Stop
    ) -> None:
        self.mirror = mirror
        self.folder = room.folder / "git"
        self.room = room
        self.stop = stop
        self._in_mirror = mirror_environment(environment, mirror)
        self._in_folder = mirror_environment(environment, self.folder)

    def read(self, *arguments: str) -> bytes:
        """What git says of the mirror. Raises CorruptMirror, OutputTooLong, Stopped."""
        return self._run(self._in_mirror, arguments)

    def make(self, *arguments: str, index: Path | None = None) -> bytes:
        """What git says of the new repository. Raises as `read`, and _TooLong."""
        environment = dict(self._in_folder)
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        return self._run(environment, arguments)

    def fetch(self, *wanted: str) -> None:
        """Copy objects from the mirror, with what they lead to. Raises as `make`."""
        self.make(
            *(
                "-c",
                "fetch.unpackLimit=1",
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
            ),
            *("--no-recurse-submodules", *wanted),
        )

    @property
    def address(self) -> str:
        """The mirror's, as git reaches a server: only so it cuts a history off."""
        return f"file://{self.mirror}"

    def _run(self, environment: Mapping[str, str], arguments: tuple[str, ...]) -> bytes:
        answer = run_git(
            arguments,
            environment=environment,
            stop=self.stop,
            output_bytes_max=_LISTING_BYTES_MAX,
            bounds=Bounds(self.room.bytes_max + REST_BYTES, MEMORY_BYTES_MAX, self._check),
        )
        self._check()
        if _FILE_TOO_LARGE.search(answer.problem):
            raise _TooLong("the history is too long")
        if answer.exit_code != 0:
            raise CorruptMirror(answer.problem or "git ended without a word")
        return answer.output

    def _check(self) -> None:
        check_free(self.room.folder)
        packed = self.folder / "objects" / "pack"
        if packed.is_dir():
            written = sum(_size(file) for file in packed.iterdir() if file.suffix != ".idx")
            if written > self.room.bytes_max:
                raise _TooLong("the history is too long")


def _add(commit: str, clone: Clone, git: _Git) -> History:
    kind = "sha256" if len(commit) == 64 else "sha1"
    git.make("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
    depth = () if clone.depth is None else (f"--depth={clone.depth}",)
    git.fetch(*depth, "--", git.address, commit)
    tags = _tags(commit, git) if clone.has_tags else ()
    of_their_own = [tag.object_id for tag in tags if tag.object_id != tag.target]
    for first in range(0, len(of_their_own), NAMED_MAX):
        git.fetch("--", git.address, *of_their_own[first : first + NAMED_MAX])
    _check_sizes(git)
    index = git.folder / "index"
    git.make("read-tree", commit, index=index)
    listed = "".join(f"{tag.object_id} refs/tags/{tag.name}\n" for tag in tags)
    files = {
        "HEAD": f"{commit}\n".encode(),
        "config": _config(kind),
        "packed-refs": f"# pack-refs with: sorted \n{listed}".encode(errors="surrogateescape"),
    }
    _append(git.room.tree, files, git.folder)
    digest = hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
    return History(len(tags), digest)


def _tags(commit: str, git: _Git) -> tuple[_Tag, ...]:
    """The tags that lead to a commit of the history, sorted as git sorts them.

    A tag of a tag is left out: nothing that tells versions reads one.
    """
    known = set(git.make("rev-list", commit).split())
    form = "--format=%(objecttype) %(*objecttype) %(objectname) %(*objectname) %(refname)"
    found = git.read("for-each-ref", f"--merged={commit}", form, TAGS.rstrip("/"))
    tags = []
    for line in found.splitlines():
        kind, kind_of_target, object_id, target, name = line.split(b" ", 4)
        if b"commit" not in (kind, kind_of_target):
            continue
        target = target or object_id
        if target in known:
            shown = name.removeprefix(TAGS.encode()).decode(errors="surrogateescape")
            tags.append(_Tag(shown, object_id.decode(), target.decode()))
    if len(tags) > TAGS_MAX:
        raise InfrastructureError(
            f"{len(tags)} tags lead to the history; at most {TAGS_MAX}", is_permanent=True
        )
    return tuple(sorted(tags, key=lambda tag: tag.name.encode(errors="surrogateescape")))


def _check_sizes(git: _Git) -> None:
    """Raises _TooLong if all objects, each as it is, have too many bytes."""
    sizes = git.make("cat-file", "--batch-all-objects", "--batch-check=%(objectsize)").split()
    needed = sum(int(size) + int(size) // 2048 + OBJECT_BYTES for size in sizes) + REST_BYTES
    if len(sizes) > OBJECTS_MAX or needed > git.room.bytes_max:
        raise _TooLong("the history is too long")


def _config(kind: str) -> bytes:
    version, extension = (
        ("1", "[extensions]\n\tobjectFormat = sha256\n")
        if kind == "sha256"
        else (
            "0",
            "",
        )
    )
    core = f"[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n"
    return (core + extension).encode()


def _append(tree: Path, files: Mapping[str, bytes], folder: Path) -> None:
    """Put the repository into the tree, as the build's own. Raises OSError."""
    with tarfile.open(tree, "r:") as archive:
        first = archive.next()
        seconds = 0 if first is None else int(first.mtime)
    with tarfile.open(tree, "a", format=tarfile.GNU_FORMAT) as archive:
        for name in ("", "/objects", "/objects/info", "/objects/pack", "/refs", "/refs/heads"):
            archive.addfile(_header(f".git{name}", seconds, is_folder=True))
        archive.addfile(_header(".git/refs/tags", seconds, is_folder=True))
        for name, data in files.items():
            path = folder / f"ours-{name}"
            path.write_bytes(data)
            _append_file(archive, f".git/{name}", path, seconds=seconds)
        for path in _made(folder):
            name = path.relative_to(folder).as_posix()
            _append_file(archive, f".git/{name}", path, seconds=seconds)


def _made(folder: Path) -> Iterator[Path]:
    """What of git's own files belongs there: not its settings, and no reference."""
    for name in ("shallow", "index"):
        if (folder / name).exists():
            yield folder / name
    for path in sorted((folder / "objects" / "pack").iterdir()):
        if path.suffix in (".pack", ".idx"):
            yield path


def _append_file(archive: tarfile.TarFile, name: str, path: Path, *, seconds: int) -> None:
    header = _header(name, seconds, is_folder=False)
    header.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(header, file)


def _header(name: str, seconds: int, *, is_folder: bool) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.mtime = seconds
    header.uid = header.gid = BUILD_USER_ID
    header.mode = 0o755 if is_folder else 0o644
    if is_folder:
        header.type = tarfile.DIRTYPE
    return header


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
