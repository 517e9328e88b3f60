"""One bare mirror of a repository: fetch a branch or tag, prove that a commit is on it, read it.

Blocking; runs in a thread. The caller of `prove` or `throw_away` holds the mirror's lock.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from ci.references import BRANCH_PREFIX
from common.pipeline.pipeline_file import PIPELINE_BYTES_MAX, PIPELINE_FILE
from common.repositories.credentials import access_problem
from common.repositories.git_environment import GitAccess
from node.sources.dockerfile import DOCKERFILE, DOCKERFILE_BYTES_MAX
from node.sources.fetch_bounds import fetch_bounds, remove_leftovers
from node.sources.git_process import GitAnswer, mirror_environment, run_git
from node.sources.gitmodules import MODULES_FILE, MODULES_FILE_BYTES_MAX, parse_listing
from node.sources.history import TAGS
from node.sources.mirror_cache import DRAFT
from node.sources.tree import (
    CorruptMirror,
    TreeEntry,
    TreePart,
    TreeRefused,
    blamed,
    list_tree,
    read_blob,
)
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# what a tar header holds
COMMIT_SECONDS_MAX = 2**33 - 1
# an answer of ls-remote names one branch and those whose names end like it
ANSWER_BYTES_MAX = 1024 * 1024

_ANSWERED_NOTHING = 2
_HEAD_BRANCH = b"ref: refs/heads/"

# What servers say of a commit that they do not have, and where they give none by its id.
_NOT_THERE = re.compile(r"not our ref|want [0-9a-f]+ not valid")
_NOT_BY_ID = re.compile(r"unadvertised object|couldn't find remote ref")


class NotAFile(msgspec.Struct, frozen=True):
    """A path that should be a small file and is something else; the same on every replica."""

    problem: str


class Heads(msgspec.Struct, frozen=True):
    """The branch that a server's HEAD names, and the id at a reference; None: there is none."""

    branch: str | None
    tip: str | None


class Source(msgspec.Struct, frozen=True):
    """The commit's files."""

    # the pipeline file and the Dockerfile; None if there is none
    pipeline: bytes | NotAFile | None
    dockerfile: bytes | NotAFile | None
    # a tar file of everything, or why there is none
    tree: Path | TreeRefused
    # the commit's own time
    commit_seconds: int
    # a line about each other repository whose files are in the tree
    modules: tuple[str, ...] = ()
    # the engine's images that this operator lets its builds use
    local_images: tuple[str, ...] = ()
    # what the tree takes of the workspace
    tree_bytes: int = 0
    # What the server said when it was asked where the reference leads; None: it had to be fetched.
    heads: Heads | None = None


class Mismatch(msgspec.Struct, frozen=True):
    """What the server answered is not what was asked for.

    is_permanent: no reference that moves can make it otherwise, so every replica finds the same.
    """

    problem: str
    is_permanent: bool = False


class Listing(msgspec.Struct, frozen=True):
    """What a commit consists of, before anything of it is exported.

    modules: the addresses of its other repositories by their paths, or why they cannot be told.
    heads: as in Source.
    """

    pipeline: bytes | NotAFile | None
    dockerfile: bytes | NotAFile | None
    commit_seconds: int
    part: TreePart | TreeRefused
    modules: Mapping[str, str] | TreeRefused
    heads: Heads | None


class Remote(msgspec.Struct, frozen=True):
    """A repository's server, as git is to reach it.

    environment: of common.repositories.git_environment, for this url alone. url: checked already.
    name: the repository's own URL, which is shown to all; `url` may be an address that is the
    operator's own.
    """

    url: str
    access: GitAccess
    environment: Mapping[str, str]
    name: str

    def error_of(self, what: str, complaint: str) -> InfrastructureError:
        """The error for git's complaint; for a failed login it names the login's file."""
        if self.url != self.name:
            # of a folder of this machine git says the path alone
            path = self.url.removeprefix("file://")
            complaint = re.sub(rf"(file://)?{re.escape(path)}", lambda _: self.name, complaint)
        problem = access_problem(complaint, self.url, self.access)
        return InfrastructureError(
            f"{what}: {complaint}" if problem is None else f"{problem} ({complaint})"
        )


def has_reference(remote: Remote, reference: str, stop: Stop) -> bool:
    """Whether the server says that it has it. Raises InfrastructureError where it says nothing."""
    return tip_of(remote, reference, stop) is not None


def tip_of(remote: Remote, reference: str, stop: Stop) -> str | None:
    """The id that it has at the server; None: it is not there.

    InfrastructureError where it says nothing.
    """
    answer = run_git(
        ["ls-remote", "--quiet", "--exit-code", "--", remote.url, reference],
        environment=remote.environment,
        stop=stop,
        output_bytes_max=ANSWER_BYTES_MAX,
    )
    if answer.exit_code == _ANSWERED_NOTHING:
        return None
    if answer.exit_code != 0:
        raise remote.error_of("the git server did not answer", answer.problem)
    for line in answer.output.splitlines():
        object_id, _, name = line.partition(b"\t")
        if name == reference.encode():
            return object_id.decode(errors="replace")
    return None


def heads_of(remote: Remote, reference: str, stop: Stop) -> Heads:
    """What the server says now of its HEAD and of a reference.

    Raises InfrastructureError where it says nothing.
    """
    answer = run_git(
        ["ls-remote", "--quiet", "--symref", "--", remote.url, "HEAD", reference],
        environment=remote.environment,
        stop=stop,
        output_bytes_max=ANSWER_BYTES_MAX,
    )
    if answer.exit_code != 0:
        raise remote.error_of("the git server did not answer", answer.problem)
    branch: str | None = None
    tip: str | None = None
    for line in answer.output.splitlines():
        value, _, name = line.partition(b"\t")
        if name == b"HEAD" and value.startswith(_HEAD_BRANCH):
            branch = value.removeprefix(_HEAD_BRANCH).decode(errors="replace")
        elif name == reference.encode():
            tip = value.decode(errors="replace")
    return Heads(branch, tip)


def throw_away(folder: Path, stop: Stop) -> None:
    """Remove a mirror; the caller holds its lock. Raises OSError."""
    if folder.exists():
        shutil.rmtree(folder)


def _not_at(reference: str, is_branch: bool) -> Mismatch:
    return Mismatch(f"the commit is not {'on' if is_branch else 'that of'} {reference}")


class Mirror:
    """One commit in one mirror: of a branch, tag or request, or by its id alone."""

    def __init__(
        self,
        folder: Path,
        remote: Remote,
        reference: str | None,
        *,
        commit: str,
        fetch_bytes_max: int,
    ) -> None:
        """reference: the full name at the server; it and the commit are checked already.

        fetch_bytes_max: what one fetch may add to the mirror.
        """
        self.folder = folder
        self._fetch_bytes_max = fetch_bytes_max
        self._remote = remote
        self._theirs = reference
        self._commit = commit
        # whether `prove` took something from the server
        self.has_fetched = False
        self._heads: Heads | None = None
        self._environment = mirror_environment(remote.environment, folder)
        # a name of its own: branches `a` and `a/b` may follow each other in a mirror's life
        self._reference = (
            f"refs/pbft-ci-commits/{commit}"
            if reference is None
            else f"refs/pbft-ci/{hashlib.sha256(reference.encode()).hexdigest()}"
        )

    def prove(self, stop: Stop) -> Mismatch | None:
        """None where the commit is where the reference says, else what the answer was.

        On a branch: its head or an ancestor of it. A tag, a request's head: what it points to now,
        and nothing before. Without a reference: None where the server has the commit; it is asked
        only where the mirror does not have it. What the mirror has of a reference counts only while
        the server's leads to the same: else a replica with an older mirror would prove what another
        one's does not.
        Raises InfrastructureError, CorruptMirror, Stopped, OSError.
        """
        with blamed(self.folder):
            self._make(stop)
            if self._theirs is None:
                return self._prove_by_id(stop)
            return self._prove_by_reference(self._theirs, stop)

    def fetch_tags(self, stop: Stop) -> None:
        """Take all tags that the server has now. Raises InfrastructureError, CorruptMirror."""
        with blamed(self.folder):
            fetched = self._fetch(f"+refs/tags/*:{TAGS}*", stop=stop, is_all=True)
            if fetched.exit_code != 0:
                raise self._error_of(fetched, stop)

    def fetch_head(self, stop: Stop) -> str | None:
        """The commit that the server's branch leads to now, which is here after that.

        None: the server has no such branch. Raises InfrastructureError, CorruptMirror.
        """
        assert self._theirs is not None, "asked for a branch alone"
        with blamed(self.folder):
            if not self._is_tip(self._theirs, self._known(stop), stop):
                fetched = self._fetch(f"+{self._theirs}:{self._reference}", stop=stop)
                if fetched.exit_code != 0:
                    if not has_reference(self._remote, self._theirs, stop):
                        return None
                    raise self._error_of(fetched, stop)
            head = self._git(stop, "rev-parse", "--verify", f"{self._reference}^{{commit}}")
            if head.exit_code != 0:
                raise CorruptMirror(head.problem)
            return head.output.decode(errors="replace").strip()

    def look(self, stop: Stop) -> Listing:
        """What the commit consists of. Raises CorruptMirror, Stopped, InfrastructureError."""
        with blamed(self.folder):
            return self._look(stop)

    def _prove_by_reference(self, theirs: str, stop: Stop) -> Mismatch | None:
        is_branch = theirs.startswith(BRANCH_PREFIX)
        is_there = self._is_reachable if is_branch else self._is_pointed_to
        known = self._known(stop)
        # a build is mostly that of a branch's last commit: then there is no way to look for
        has_it = known is not None and (known == self._commit or is_there(stop) is True)
        if not has_it or not self._is_tip(theirs, known, stop):
            fetched = self._fetch(f"+{theirs}:{self._reference}", stop=stop)
            if fetched.exit_code != 0:
                if not has_reference(self._remote, theirs, stop):
                    return Mismatch(f"the server has no {theirs}")
                raise self._error_of(fetched, stop)
            is_found = is_there(stop)
            if (
                is_found is None
                and self._git(stop, "rev-list", "--quiet", self._reference).exit_code
            ):
                # the walk broke off: the commit may be on the part that cannot be read
                raise CorruptMirror("the history cannot be read")
            if not is_found:
                return _not_at(theirs, is_branch)
        # a mirror that has the tag itself must not know more than one that has it not
        return None if self._check_kind(stop) is None else _not_at(theirs, is_branch)

    def _prove_by_id(self, stop: Stop) -> Mismatch | None:
        """A server may refuse to hand out a commit by its id: then all that has a name is fetched.

        A reference of our own says that the commit is here with all that it leads to.
        """
        known = ("rev-parse", "--quiet", "--verify", f"{self._reference}^{{commit}}")
        if self._git(stop, *known).exit_code == 0:
            return self._check_kind(stop)
        # It is asked for by its id alone, of a repository beside the one that is built.
        absent = Mismatch(f"{self._remote.name} has no commit {self._commit}", is_permanent=True)
        fetched = self._fetch(f"+{self._commit}:{self._reference}", stop=stop)
        if fetched.exit_code == 0:
            return self._check_kind(stop)
        if _NOT_THERE.search(fetched.problem):
            return absent
        if _NOT_BY_ID.search(fetched.problem) is None:
            raise self._error_of(fetched, stop)
        everything = [f"+refs/{kind}/*:refs/pbft-ci-all/{kind}/*" for kind in ("heads", "tags")]
        fetched = self._fetch(*everything, stop=stop)
        if fetched.exit_code != 0:
            raise self._error_of(fetched, stop)
        if self._git(stop, "update-ref", self._reference, self._commit).exit_code != 0:
            return absent
        return self._check_kind(stop)

    def _fetch(self, *references: str, stop: Stop, is_all: bool = False) -> GitAnswer:
        """Leaves nothing of a fetch that failed but objects that came whole.

        is_all: what the server no longer has of these references goes here, too.
        """
        remove_leftovers(self.folder)
        self.has_fetched = True
        # what was said before may not be what comes now
        self._heads = None
        options = (
            *("fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules"),
            *("--no-write-fetch-head", "--no-show-forced-updates"),
            *(*(("--prune",) if is_all else ()), "--", self._remote.url),
        )
        bounds = fetch_bounds(self.folder, self._fetch_bytes_max)
        is_whole = False
        try:
            answer = run_git(
                [*options, *references], environment=self._environment, stop=stop, bounds=bounds
            )
            is_whole = answer.exit_code == 0
            if not is_whole:
                # git does not always say that it was a limit; what it had written does
                bounds.check()
        finally:
            if not is_whole:
                # what cannot be removed now is removed before the next fetch
                with suppress(OSError):
                    remove_leftovers(self.folder)
        return answer

    def _error_of(self, fetched: GitAnswer, stop: Stop) -> InfrastructureError | CorruptMirror:
        """Why a fetch failed: a mirror that is damaged, or the server."""
        if self._git(stop, "fsck", "--connectivity-only", "--no-dangling").exit_code != 0:
            return CorruptMirror(fetched.problem)
        return self._remote.error_of("git fetch failed", fetched.problem)

    def _look(self, stop: Stop) -> Listing:
        listed = self._git(
            stop, "rev-list", "--no-walk", "--max-count=1", "--timestamp", self._commit
        )
        words = listed.output.split()
        if listed.exit_code != 0 or len(words) != 2 or not words[0].isdigit():
            raise CorruptMirror(listed.problem or "the commit cannot be read")
        paths = (PIPELINE_FILE, DOCKERFILE, MODULES_FILE)
        entries = top = list_tree(self._commit, (), self._environment, stop=stop)
        if isinstance(top, TreeRefused):
            top = list_tree(self._commit, paths, self._environment, stop=stop)
        assert not isinstance(top, TreeRefused), "three entries are never too many"
        by_path = {entry.path: entry for entry in top if entry.path in paths}
        return Listing(
            pipeline=self._file(by_path.get(PIPELINE_FILE), PIPELINE_BYTES_MAX, stop),
            dockerfile=self._file(by_path.get(DOCKERFILE), DOCKERFILE_BYTES_MAX, stop),
            commit_seconds=min(int(words[0]), COMMIT_SECONDS_MAX),
            part=entries
            if isinstance(entries, TreeRefused)
            else TreePart(entries, self.folder, self._environment),
            modules=self._modules(by_path.get(MODULES_FILE), stop),
            heads=self._heads,
        )

    def _modules(self, entry: TreeEntry | None, stop: Stop) -> Mapping[str, str] | TreeRefused:
        """Where the other repositories come from; git itself reads the file, as text alone."""
        data = self._file(entry, MODULES_FILE_BYTES_MAX, stop)
        if data is None or entry is None:
            return {}
        if isinstance(data, NotAFile):
            return TreeRefused(f"has a {MODULES_FILE} that {data.problem}")
        # without includes: they would read files of this machine
        listed = self._git(
            stop, "config", "-z", "--no-includes", "--blob", entry.object_id, "--list"
        )
        if listed.exit_code != 0:
            return TreeRefused(f"has a {MODULES_FILE} that git cannot read: {listed.problem}")
        return parse_listing(listed.output)

    def _make(self, stop: Stop) -> None:
        """An empty mirror where there is none; it appears at its place only when complete."""
        if self.folder.exists():
            return
        draft = self.folder.with_suffix(DRAFT)
        if draft.exists():
            shutil.rmtree(draft)
        kind = "sha256" if len(self._commit) == 64 else "sha1"
        made = run_git(
            ["init", "--quiet", "--bare", "--template=", f"--object-format={kind}"],
            environment=mirror_environment(self._environment, draft),
            stop=stop,
        )
        if made.exit_code != 0:
            raise InfrastructureError(f"git init failed: {made.problem}")
        draft.rename(self.folder)

    def _is_reachable(self, stop: Stop) -> bool | None:
        """None: git cannot tell: the reference, the commit or something between is missing."""
        answer = self._git(stop, "merge-base", "--is-ancestor", self._commit, self._reference)
        return {0: True, 1: False}.get(answer.exit_code)

    def _is_pointed_to(self, stop: Stop) -> bool | None:
        """Whether the reference leads to this very commit; None: git cannot tell."""
        pointed = self._git(
            stop, "rev-parse", "--quiet", "--verify", f"{self._reference}^{{commit}}"
        )
        if pointed.exit_code != 0:
            return None
        return pointed.output.decode(errors="replace").strip() == self._commit

    def _is_tip(self, theirs: str, known: str | None, stop: Stop) -> bool:
        """Whether the server's reference is still what was fetched; it may have been set back.

        known: of `_known`.
        """
        # one question for the tip and for what a build with caches asks of HEAD
        self._heads = heads_of(self._remote, theirs, stop)
        return known is not None and self._heads.tip == known

    def _known(self, stop: Stop) -> str | None:
        """The id at our reference, as it was fetched last; None: it never was, or is damaged."""
        known = self._git(stop, "rev-parse", "--quiet", "--verify", self._reference)
        if known.exit_code != 0:
            return None
        return known.output.decode(errors="replace").strip()

    def _check_kind(self, stop: Stop) -> Mismatch | None:
        """A tag's id leads to a commit too, but is none."""
        answer = self._git(stop, "cat-file", "-t", self._commit)
        if answer.exit_code != 0:
            raise CorruptMirror(answer.problem)
        if answer.output == b"commit\n":
            return None
        return Mismatch("the id is not that of a commit", is_permanent=True)

    def _file(self, entry: TreeEntry | None, bytes_max: int, stop: Stop) -> bytes | NotAFile | None:
        """A file from git's objects, never from a work tree: a link there could lead anywhere."""
        if entry is None:
            return None
        if not entry.is_file:
            return NotAFile("is not a plain file")
        if entry.size > bytes_max:
            return NotAFile(f"has {entry.size} bytes; at most {bytes_max}")
        return read_blob(entry, self._environment, stop)

    def _git(self, stop: Stop, *arguments: str) -> GitAnswer:
        return run_git(arguments, environment=self._environment, stop=stop)
